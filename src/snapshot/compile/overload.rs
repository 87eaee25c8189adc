//! What the process may have in hand at a time.

use super::Compiler;
use crate::config::{OVERLOAD_CONNECTIONS, OVERLOAD_MEMORY, OVERLOAD_REQUESTS};
use crate::diagnostic::Diagnostic;
use crate::limit::overload::{Limits, Memory};
use crate::units::{ByteSize, Count, MemoryBound, Ratio, Spanned};

/// A machine has no more requests in flight than this, and no more connections.
const COUNT_MAX: u64 = 10_000_000;

/// The program alone takes about as much.
const MEMORY_MIN: ByteSize = ByteSize(16 * 1024 * 1024);

/// Reports limits that are none.
pub fn check_said(compiler: &mut Compiler<'_>) {
    if let Some(overload) = &compiler.config.overload
        && overload.requests.is_none()
        && overload.memory.is_none()
        && overload.connections.is_none()
    {
        let hint = "add `requests`, `memory` or `connections`, or remove it: all have defaults";
        compiler.report(Diagnostic::error("`overload` says nothing", overload.span()).hint(hint));
    }
}

pub fn compile(compiler: &mut Compiler<'_>) -> Limits {
    let written = compiler.config.overload.as_ref();
    let requests = written.and_then(|overload| overload.requests.as_ref());
    let memory = written.and_then(|overload| overload.memory.as_ref());
    let connections = written.and_then(|overload| overload.connections.as_ref());
    Limits {
        requests: requests.map_or(OVERLOAD_REQUESTS, |count| {
            let count = count_of(compiler, count, "requests at the same time");
            u32::try_from(count).unwrap_or(u32::MAX)
        }),
        connections: connections.map_or(OVERLOAD_CONNECTIONS, |count| {
            count_of(compiler, count, "connections")
        }),
        memory: memory.map_or(of_all(OVERLOAD_MEMORY), |bound| bound_of(compiler, bound)),
    }
}

fn count_of(compiler: &mut Compiler<'_>, count: &Spanned<Count>, of: &str) -> u64 {
    if count.get() > COUNT_MAX {
        let message = format!("`{}` {of} are too many", **count);
        compiler.report(Diagnostic::error(message, count.span()).hint("at most 10M"));
    }
    count.get()
}

fn bound_of(compiler: &mut Compiler<'_>, bound: &Spanned<MemoryBound>) -> Memory {
    let at = bound.span();
    match **bound {
        MemoryBound::Size(size) if size < MEMORY_MIN => {
            let message = format!("`{size}` is not enough for the gateway itself");
            compiler
                .report(Diagnostic::error(message, at).hint(format!("at least `{MEMORY_MIN}`")));
            Memory::Bytes(size.bytes())
        }
        MemoryBound::Size(size) => Memory::Bytes(size.bytes()),
        MemoryBound::Share(share) => {
            if share == Ratio::default() {
                let message = "with no memory nothing is served";
                compiler.report(Diagnostic::error(message, at).hint("such as `80%`"));
            }
            of_all(share)
        }
    }
}

fn of_all(share: Ratio) -> Memory {
    Memory::Share(share.parts_per_million())
}
