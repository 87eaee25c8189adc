#!/usr/bin/env bash
# Does a reload cost a request, or time?
#
#   load-tests/reload_under_load.sh                               20 s quiet, then 20 s with ten reloads a second
#   load-tests/reload_under_load.sh --seconds 60 --interval 0.5
#
# Kept connections and new ones load the gateway twice: first quietly, then while `northgate reload` takes one changed
# configuration after another. Prints rate, latencies and errors of both. Fails when a request or a reload failed. HTTP/2
# under the same storm is an end-to-end test: two_hundred_reloads_under_load_fail_no_request.
. "$(dirname "$0")/prepare.sh"
exec python3 reload_under_load.py "$@"
