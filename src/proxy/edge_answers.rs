//! What the edge refuses before there is a request: told to the client, the metrics and the log like any other answer.

use super::intake::new_request_id;
use super::respond;
use crate::edge::{EdgeEvents, HandshakeFailure, Refuse};
use crate::exchange::Scheme;
use crate::exchange::connection::{Connection, ListenerFacts};
use crate::observe::access_log::Record;
use crate::observe::metrics::Metrics;
use crate::problem::Problem;
use crate::snapshot::Snapshots;
use http::{Method, Version};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// See the module.
pub struct Answers {
    snapshots: Arc<Snapshots>,
    metrics: Arc<Metrics>,
}
