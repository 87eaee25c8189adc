#!/usr/bin/env bash
# What does the guard around the stream cost a request on a connection that stays open?
#
#   load-tests/guard.sh                         about three minutes after the build
#   load-tests/guard.sh --starts 1 --rounds 2
#
# Two answers. The first compares Pingora behind its own listener with Pingora behind ours, where nothing else differs
# (`examples/bare_pingora.rs`, `examples/bare_edge.rs`): what the edge saves elsewhere is in it too. The second is the time
# that looking at a head takes by itself (`benches/edge.rs`), as a share of what a whole request costs the gateway.
. "$(dirname "$0")/prepare.sh"
cargo build --quiet --locked $profile --example bare_edge
exec python3 guard.py "$@"
