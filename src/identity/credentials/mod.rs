//! What consumers prove themselves with, as far as the configuration holds it: API keys and passwords.
//!
//! Pure: keys, time and randomness are arguments. Files are read by `config/`, and `snapshot/` puts together what they
//! hold.

pub mod digest;
pub mod key;
pub mod lines;
pub mod password;
pub mod passwords;
pub mod revoked;
pub mod table;
