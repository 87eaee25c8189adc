//! The bounds of a listener's connections, and what its sockets are told: within what is of any use.

use crate::config::model::{ListenerLimits, ListenerSocket};
use crate::diagnostic::Diagnostic;
use crate::exchange::head_limits::HeadLimits;
use crate::snapshot::compile::Compiler;
use crate::units::{ByteSize, Count, Duration, OrOff, Spanned};
use std::fmt::Display;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;

/// Within less nobody can answer who is not on this machine; nobody needs longer for one step.
const STEP: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);

/// Between two steps, or two requests.
const PAUSE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Pingora's parser takes no larger head, and no more fields.
const HEAD: RangeInclusive<ByteSize> = ByteSize(1 << 10)..=ByteSize(1 << 20);
const FIELDS_MAX: u64 = 256;
/// `http::Uri` takes no longer target.
const TARGET: RangeInclusive<ByteSize> = ByteSize(256)..=ByteSize(60 << 10);

/// Bytes a second: no client that is of any use is below the one, and none is asked to be above the other.
const RATE: RangeInclusive<ByteSize> = ByteSize(1)..=ByteSize(1 << 20);

/// What is written, once it has been looked at.
pub fn of(
    compiler: &mut Compiler<'_>,
    written: Option<&Spanned<ListenerLimits>>,
) -> ListenerLimits {
    let Some(written) = written else {
        return ListenerLimits::default();
    };
    check_counts(compiler, written);
    check_times(compiler, written);
    check_sizes(compiler, written);
    (**written).clone()
}

/// The bounds of heads.
pub fn head(written: Option<&ListenerLimits>) -> HeadLimits {
    let default = HeadLimits::default();
    let Some(written) = written else {
        return default;
    };
    let fields = written.fields.as_ref().map(|count| count.get());
    let number = |written: Option<u64>, default: usize| {
        let number = written.and_then(|number| usize::try_from(number).ok());
        number.unwrap_or(default)
    };
    let size = |size: &Option<Spanned<ByteSize>>| size.as_ref().map(|size| size.bytes());
    HeadLimits {
        bytes: number(size(&written.head_size), default.bytes),
        fields: number(fields, default.fields),
        field_bytes: number(size(&written.field_size), default.field_bytes),
        target_bytes: number(size(&written.target_size), default.target_bytes),
        ..default
    }
}

fn check_counts(compiler: &mut Compiler<'_>, written: &ListenerLimits) {
    let counts = [
        (&written.connections, 10_000_000),
        (&written.connections_per_address, 10_000_000),
        (&written.requests, 4_000_000_000),
        (&written.streams, 1_000),
        (&written.fields, FIELDS_MAX),
    ];
    for (count, at_most) in counts {
        let known = NonZeroU64::new(1).zip(NonZeroU64::new(at_most));
        if let (Some(count), Some((one, most))) = (count, known) {
            check(compiler, count, Count(one)..=Count(most));
        }
    }
}

fn check_times(compiler: &mut Compiler<'_>, written: &ListenerLimits) {
    let times = [
        (&written.handshake, STEP),
        (&written.first_byte, STEP),
        (&written.head, STEP),
        (&written.idle, PAUSE),
        (&written.read, PAUSE),
        (&written.write, PAUSE),
    ];
    for (time, range) in times {
        if let Some(time) = time {
            check(compiler, time, range);
        }
    }
}

fn check_sizes(compiler: &mut Compiler<'_>, written: &ListenerLimits) {
    let sizes = [
        (&written.head_size, HEAD),
        (&written.field_size, HEAD),
        (&written.target_size, TARGET),
        (&written.read_rate, RATE),
        (&written.write_rate, RATE),
    ];
    for (size, range) in sizes {
        if let Some(size) = size {
            check(compiler, size, range);
        }
    }
    let whole = ByteSize(head(Some(written)).bytes as u64);
    let parts = [&written.field_size, &written.target_size];
    for part in parts.into_iter().flatten().filter(|part| ***part > whole) {
        let message = format!("`{}` does not fit into a head of `{whole}`", **part);
        let error = Diagnostic::error(message, part.span());
        compiler.report(match &written.head_size {
            Some(whole) => error.related(whole.span(), "the head is bounded here"),
            None => error.hint("that is the default; write `head_size` too"),
        });
    }
}

/// What is written, once it has been looked at.
pub fn socket(
    compiler: &mut Compiler<'_>,
    written: Option<&Spanned<ListenerSocket>>,
) -> ListenerSocket {
    let Some(written) = written else {
        return ListenerSocket::default();
    };
    let known = NonZeroU64::new(1).zip(NonZeroU64::new(1_000_000));
    if let (Some(backlog), Some((one, most))) = (&written.backlog, known) {
        check(compiler, backlog, Count(one)..=Count(most));
    }
    for time in [&written.keepalive, &written.user_timeout] {
        if let Some(time) = time
            && let OrOff::On(value) = **time
        {
            check(compiler, &Spanned::new(value, time.span()), PAUSE);
        }
    }
    (**written).clone()
}

/// Reports what lies outside of a range.
fn check<T: PartialOrd + Display>(
    compiler: &mut Compiler<'_>,
    written: &Spanned<T>,
    range: RangeInclusive<T>,
) {
    let (least, most) = (range.start(), range.end());
    let is = match &**written {
        value if value < least => "too little",
        value if value > most => "too much",
        _ => return,
    };
    let message = format!("`{}` is {is} here", **written);
    let hint = format!("from `{least}` to `{most}`");
    compiler.report(Diagnostic::error(message, written.span()).hint(hint));
}
