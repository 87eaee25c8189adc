#!/usr/bin/env bash
# From a fresh Debian with Rust to a running gateway: installs what the build lacks, builds, and runs the demo with two
# small origins inside. It prints what to try. Arguments go to `northgate run`.
set -euo pipefail
cd "$(dirname "$0")/.."

# Pingora's compression needs cmake, aws-lc a C compiler
.ci/need cmake:cmake gcc:gcc g++:g++ make:make perl:perl curl:curl
command -v cargo >/dev/null || { echo "Rust is missing: https://rustup.rs" >&2; exit 1; }

exec cargo run --release --locked -- run --demo "$@"
