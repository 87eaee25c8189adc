#!/usr/bin/env bash
# Passes all tests, installing by itself what they need: the build's C compiler and cmake, promtool, which judges our
# metrics, and curl. Arguments go to `cargo test`: `tests/run.sh --test main routing`.
set -euo pipefail
cd "$(dirname "$0")/.."

.ci/need cmake:cmake gcc:gcc g++:g++ make:make perl:perl promtool:prometheus curl:curl
command -v cargo >/dev/null || { echo "Rust is missing: https://rustup.rs" >&2; exit 1; }

exec cargo test --locked "$@"
