# Sourced by the load tests: installs what they need (Debian), builds, and goes to their folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

../.ci/need nginx:nginx haproxy:haproxy wrk:wrk python3:python3 taskset:util-linux \
  cmake:cmake gcc:gcc g++:g++ make:make perl:perl
export PATH="$PATH:/usr/sbin" PYTHONDONTWRITEBYTECODE=1

# PROFILE=debug measures nothing that counts; it is for work on the scripts
profile=--release
[ "${PROFILE:-release}" = release ] || profile=
cargo build --quiet --locked $profile --bin northgate --example bare_pingora
