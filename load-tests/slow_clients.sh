#!/usr/bin/env bash
# Do slow clients take anything from the others? A steady load of good requests, alone and then beside thousands of clients
# that take their time, in each of these ways: a head, a content, chunks, a hello of TLS, a stream and a head of HTTP/2, all a
# byte at a time; answers that nobody reads; connections that wait. Whoever is closed comes back at once.
#
#   load-tests/slow_clients.sh                      2,000 of each kind, one kind after another: about ten minutes
#   load-tests/slow_clients.sh --together           all kinds at once
#   load-tests/slow_clients.sh --crowd 500 --rounds 1 --seconds 10
#
# Each kind has three rounds: the good load alone; beside a crowd that sends the same to sockets that nobody reads, which
# shows what the crowd itself takes from the clients and the origin, on the same core; and beside a crowd that sends it to
# the gateway. Prints the medians of the rounds: failed good requests, their rate, p50 and p99, and that p99 in parts of the
# quiet one of its round; and the smallest and largest memory and number of descriptors beside the crowd, which must be flat.
# Fails where a good request failed.
. "$(dirname "$0")/prepare.sh"
../.ci/need openssl:openssl
exec python3 slow_clients.py "$@"
