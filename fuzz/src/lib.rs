//! The gateway's own modules that are fuzzed, where their `crate::` and `super::` find what they name.

#![allow(dead_code, reason = "the gateway uses what no target does")]

pub mod edge;
pub mod exchange;
#[path = "../../src/problem.rs"]
pub mod problem;
pub mod protocol;
pub mod units;

/// Splits what the fuzzer gives into the places at which the rest is cut, and that rest.
pub fn cuts_and_bytes(data: &[u8]) -> Option<(Vec<usize>, &[u8])> {
    let (count, data) = data.split_first()?;
    let (cuts, bytes) = data.split_at_checked(usize::from(count % 8))?;
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| usize::from(*cut) % (bytes.len() + 1))
        .collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    Some((cuts, bytes))
}
