#!/usr/bin/env bash
# What do limits cost? Plain proxying of 1 KiB through Northgate without a limit, and with one, three and five on the route,
# counted by client address: sliding windows, and token buckets; with a quota, with places in flight, and with a limit in
# Redis, which runs on the core of the load generator.
#
#   load-tests/limits.sh                        about three minutes after the build
#   load-tests/limits.sh --starts 1 --rounds 3 --seconds 2
#
# As passthrough.sh: all run at once on one core, the order rotates, and the figure is CPU time for each request. The ratio
# is the median over rounds of cost by that without a limit in the same round.
. "$(dirname "$0")/prepare.sh"
../.ci/need redis-server:redis-server
exec python3 limits.py "$@"
