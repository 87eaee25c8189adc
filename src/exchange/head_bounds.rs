//! How large a head may be, for what the edge does not count itself.

/// The bounds of a head's parts, of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadBounds {
    /// Header fields; crumbs of a cookie count one by one.
    pub fields: usize,
    /// One field: name, colon and value.
    pub field_bytes: usize,
    /// The request target.
    pub target_bytes: usize,
}

/// Security requirement 1.15.
impl Default for HeadBounds {
    fn default() -> Self {
        Self {
            fields: 100,
            field_bytes: 16 << 10,
            target_bytes: 8 << 10,
        }
    }
}
