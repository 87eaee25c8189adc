//! x
mod context;
mod de;
mod glob;
mod load;
mod named;
mod node;
mod reference;
