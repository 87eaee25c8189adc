//! Which route takes a request.

mod pattern;
mod value;
