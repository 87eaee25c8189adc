#[path = "../../src/edge/chunks.rs"]
pub mod chunks;
#[path = "../../src/edge/head.rs"]
pub mod head;
