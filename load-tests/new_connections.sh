#!/usr/bin/env bash
# What does a new connection cost? One request of 1 KiB on each, which the client asks to close after it, through bare
# Pingora, Northgate, nginx and HAProxy; their connections to the origin are kept. The same with connections that clients
# keep, in the same run: what the one costs more than the other is the connection itself.
#
#   load-tests/new_connections.sh                    about three minutes after the build
#   load-tests/new_connections.sh --starts 1 --rounds 2 --max-ratio 1.20
#
# As in passthrough.sh: each gateway has one thread on one core, the origin (nginx) and the load generator (wrk) share
# another, and the figure is CPU time. The ratio is to nginx, in the same round; of the connection alone it is that of
# the medians. Fails when a request failed. Needs two cores and nothing else running.
. "$(dirname "$0")/prepare.sh"
exec python3 new_connections.py "$@"
