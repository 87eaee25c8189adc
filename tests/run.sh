#!/usr/bin/env bash
# Passes all tests, installing by itself what they need: the build's C compiler and cmake, promtool, which judges our
# metrics, and clients and servers of other makes, an identity provider and Redis among them. Arguments go to `cargo test`:
# `tests/run.sh --test main routing`.
set -euo pipefail
cd "$(dirname "$0")/.."

.ci/need cmake:cmake gcc:gcc g++:g++ make:make perl:perl promtool:prometheus redis-server:redis-server \
  node:nodejs npm:npm python3:python3 python3/grpc:python3-grpcio python3/websockets:python3-websockets curl:curl nghttp:nghttp2-client \
  nginx:nginx-light apache2:apache2-bin haproxy:haproxy
command -v cargo >/dev/null || { echo "Rust is missing: https://rustup.rs" >&2; exit 1; }

# an identity provider that none of us wrote
provider=tests/clients/oidc
if [ "$provider/package-lock.json" -nt "$provider/node_modules/.installed" ]; then
  npm ci --prefix "$provider" --no-audit --no-fund --ignore-scripts
  touch "$provider/node_modules/.installed"
fi

exec cargo test --locked "$@"
