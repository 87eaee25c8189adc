#!/usr/bin/env bash
# How much memory does a connection cost that waits for its next request? In clear, over TLS, and over HTTP/2 and TLS.
#
#   load-tests/idle_connections.sh                       5,000 connections to each gateway, about three minutes
#   load-tests/idle_connections.sh --kind TLS            those over TLS alone
#   load-tests/idle_connections.sh --connections 20000   needs as many file descriptors (ulimit -Hn)
#
# Opens the connections one by one, sends one request on each, and divides what the resident memory of the gateway grew
# by. Sockets are the kernel's and not counted. Afterwards a sample of the connections is used again, so that a gateway
# that closed them does not look frugal; the last column is the memory after all of them are closed.
. "$(dirname "$0")/prepare.sh"
../.ci/need openssl:openssl
exec python3 idle_connections.py "$@"
