#[path = "../../src/exchange/authority.rs"]
mod authority;
#[path = "../../src/exchange/canonical.rs"]
pub mod canonical;

pub use authority::{HostText, Scheme};
