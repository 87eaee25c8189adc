//! An answer that the gateway makes by itself and that is not a problem: a fixed response, a redirect, a preflight.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;

/// A complete answer. `Content-Length`, the request id and CORS fields are added where it is written.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: SmallVec<[(HeaderName, HeaderValue); 4]>,
    pub body: Bytes,
    /// Why it is given, for the log only, where that is a refusal.
    pub reason: Option<&'static str>,
}

impl Answer {
    /// An answer without body.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: SmallVec::new(),
            body: Bytes::new(),
            reason: None,
        }
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}
