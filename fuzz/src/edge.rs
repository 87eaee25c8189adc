#[path = "../../src/edge/chunks.rs"]
pub mod chunks;
#[path = "../../src/edge/head.rs"]
pub mod head;
#[path = "../../src/edge/proxy_protocol.rs"]
pub mod proxy_protocol;
