//! What problems need of `units`, none of which is fuzzed.

pub fn whole_seconds(time: std::time::Duration) -> u64 {
    time.as_secs()
}
