//! The better of two random choices (Mitzenmacher, "The power of two choices in randomized load balancing", 2001): nearly
//! as even as looking at all of them, and no herd runs to the one that looked best a moment ago.

use super::Shares;
use crate::observe::random::mix;

/// Of two endpoints drawn by weight, the one with less load for its weight; `load` gives both. Equal loads share by
/// weight.
pub fn least_loaded(
    shares: &Shares,
    random: u64,
    may: impl Fn(u16) -> bool,
    load: impl Fn(u16) -> (u32, u32),
) -> Option<u16> {
    better(shares, random, may, |first, second| {
        let ((first_load, first_weight), (second_load, second_weight)) =
            (load(first), load(second));
        // a / wa > b / wb without a division
        u64::from(first_load) * u64::from(second_weight)
            > u64::from(second_load) * u64::from(first_weight)
    })
}

/// Of two endpoints drawn by weight the first, unless `second_is_better`.
pub fn better(
    shares: &Shares,
    random: u64,
    may: impl Fn(u16) -> bool,
    second_is_better: impl Fn(u16, u16) -> bool,
) -> Option<u16> {
    let first = shares.draw_where(random, &may)?;
    let Some(second) = shares.draw_where(mix(!random), |at| at != first && may(at)) else {
        return Some(first);
    };
    Some(match second_is_better(first, second) {
        true => second,
        false => first,
    })
}
