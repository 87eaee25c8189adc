#[path = "../../src/protocol/proxy_protocol.rs"]
pub mod proxy_protocol;
