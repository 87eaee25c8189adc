//! How large the head of a request may be (security requirement 1.15).

/// How large a head may be. Beyond it the answer is 431, 414 or 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The whole head, from the request line to the empty line.
    pub bytes: usize,
    /// Header fields.
    pub fields: usize,
    /// One field: name, colon and value.
    pub field_bytes: usize,
    /// The request target.
    pub target_bytes: usize,
    /// The method.
    pub method_bytes: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            bytes: 32 << 10,
            fields: 100,
            field_bytes: 16 << 10,
            target_bytes: 8 << 10,
            method_bytes: 32,
        }
    }
}
