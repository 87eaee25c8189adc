#!/usr/bin/env bash
# What becomes of a gateway whose clients ask for three times as much as can be served? A service that takes 10 requests at a
# time, for 100 ms each, so 100 a second, and lets others wait; clients that ask 50, 100 and 300 times a second, whatever
# the answers, and give up after a second. Without a limit, and with `overload: {requests: 12}`.
#
#   load-tests/overload.sh                      about two minutes after the build
#   load-tests/overload.sh --seconds 5
#
# Served: answers of the service a second, within the second that clients wait. What nobody waits for any more is no use.
. "$(dirname "$0")/prepare.sh"
exec python3 overload.py "$@"
