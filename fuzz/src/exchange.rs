#[path = "../../src/exchange/authority.rs"]
mod authority;
#[path = "../../src/exchange/canonical.rs"]
pub mod canonical;
#[path = "../../src/exchange/head_limits.rs"]
pub mod head_limits;

pub use authority::{HostText, Scheme};
