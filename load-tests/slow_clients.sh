#!/usr/bin/env bash
# Do slow clients take anything from the others? A steady load of good requests, alone and then beside thousands of clients
# that take their time, in each of these ways: a head, a content, chunks, a hello of TLS, a stream and a head of HTTP/2, all a
# byte at a time; answers that nobody reads; connections that wait. Whoever is closed comes back at once.
#
#   load-tests/slow_clients.sh                      2,000 of each kind, one kind after another: about seven minutes
#   load-tests/slow_clients.sh --together           all kinds at once
#   load-tests/slow_clients.sh --crowd 500 --seconds 10
#
# Prints the failed good requests, their p50 and p99 before, beside and after the crowd, in parts of the quiet p99 too,
# and the smallest and largest memory and number of descriptors beside it, which must be flat. Fails where a good request
# failed.
. "$(dirname "$0")/prepare.sh"
../.ci/need openssl:openssl
exec python3 slow_clients.py "$@"
