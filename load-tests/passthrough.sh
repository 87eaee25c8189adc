#!/usr/bin/env bash
# What does plain proxying cost? 1 KiB answers through bare Pingora, Northgate (metrics on, log off), Northgate with its
# JSON log, nginx and HAProxy.
#
#   load-tests/passthrough.sh                        all of them, about three minutes after the build
#   load-tests/passthrough.sh --starts 1 --rounds 3 --seconds 2
#   load-tests/passthrough.sh --only "bare pingora; northgate" --max-ratio 1.10 --json result.json
#
# Each gateway has one thread on one core; the origin (nginx) and the load generator (wrk) share another. All gateways
# run at once and idle until it is their turn; the order rotates from round to round, so that a machine that gets slower
# or faster hurts them alike. They are started several times, since where a process's memory lies makes a difference of
# some percent. The figure is CPU time for each request, user and system, from /proc/PID/stat. The ratio is
# the median over rounds of cost by bare Pingora's in the same round. Fails when a request failed, and with --max-ratio
# when Northgate costs more than that. Needs two cores and nothing else running.
. "$(dirname "$0")/prepare.sh"
exec python3 passthrough.py "$@"
