//! The configuration as written: YAML with positions, includes, secrets, types, JSON schema.
//!
//! [`load()`] reads a file with everything that it names, and reports every error at once, each with its place and what
//! to write instead. What a configuration means, and whether its references hold, is for `snapshot/` to say.
//!
//! ```yaml
//! version: 1
//! listeners:
//!   public: {address: 0.0.0.0:8080}
//! services:
//!   orders: {endpoints: [10.0.0.1:8080, 10.0.0.2:8080]}
//! routes:
//!   orders: {match: {path: /orders/**}, service: orders}
//! ```

mod certificates;
mod context;
mod de;
mod effective;
pub mod endpoints_file;
mod forms;
mod glob;
mod health;
mod issuers;
mod last_good;
mod links;
mod listener;
mod load;
pub mod model;
mod named;
mod node;
mod ownership;
mod reference;
pub mod schema;
#[cfg(test)]
mod tests;

pub use crate::units::{FileText, Secret, Spanned};
pub use context::Environment;
pub use effective::{
    BODY_BYTES_MAX, DRAIN_TIMEOUT, OVERLOAD_CONNECTIONS, OVERLOAD_MEMORY, OVERLOAD_REQUESTS,
    effective,
};
pub use last_good::LastGood;
pub use load::{Dependencies, Failure, Fingerprint, Includes, Loaded};
pub use model::Config;
pub use named::Named;

use std::path::Path;

/// Reads a configuration file, its includes, and the files that its values name.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Loaded, Box<Failure>> {
    load_in(path, &Environment::of_process())
}

/// The same, with what is kept of some includes instead of their files.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_with(path: &Path, kept: &LastGood) -> Result<Loaded, Box<Failure>> {
    load::load_as(path, &Environment::of_process(), kept, ownership::check)
}

/// The same with another environment than the process's.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_in(path: &Path, environment: &Environment<'_>) -> Result<Loaded, Box<Failure>> {
    load::load_as(path, environment, &LastGood::default(), ownership::check)
}

impl Config {
    /// Whether that name stands in that map of the files, but could not be read. References to it do not dangle.
    pub fn is_broken(&self, map: &str, name: &str) -> bool {
        match map {
            "listeners" => self.listeners.is_broken(name),
            "consumers" => self.consumers.is_broken(name),
            "issuers" => self.issuers.is_broken(name),
            "stores" => self.stores.is_broken(name),
            "plans" => self.plans.is_broken(name),
            "certificates" => self.certificates.is_broken(name),
            "services" => self.services.is_broken(name),
            "profiles" => self.profiles.is_broken(name),
            "groups" => self.groups.is_broken(name),
            "routes" => self.routes.is_broken(name),
            "invariants" => self.invariants.is_broken(name),
            _ => false,
        }
    }
}
