//! Background work: the one place that spawns.

pub mod watch;
