//! Who calls, and how it is proved: pure verification, without HTTP, clocks or I/O.

pub mod jwt;
