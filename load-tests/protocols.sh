#!/usr/bin/env bash
# What do TLS and HTTP/2 cost? 1 KiB answers over HTTP/1.1 under TLS, over HTTP/2 under TLS, and over HTTP/2 on both
# sides, through Northgate, nginx and HAProxy (nginx 1.22 speaks no HTTP/2 to endpoints).
#
#   load-tests/protocols.sh                          about three minutes after the build
#   load-tests/protocols.sh --rounds 2 --seconds 3 --only h2
#
# As in passthrough.sh: each gateway has one thread on one core, the origin (nginx) and the load generator (oha) share
# another, and the figure is CPU time for each request. The ratio is to HAProxy, in the same round. Fails when a request
# failed. Installs oha with cargo where it is missing. Needs two cores and nothing else running.
. "$(dirname "$0")/prepare.sh"
../.ci/need openssl:openssl
if ! command -v oha >/dev/null; then
  export PATH="$PATH:$PWD/../target/tools/bin"
  command -v oha >/dev/null || CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo install --quiet --locked oha --version '~1' --root ../target/tools
fi
exec python3 protocols.py "$@"
