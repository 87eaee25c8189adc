#!/usr/bin/env bash
# What does a TLS handshake cost, and what do other clients notice of many? Through Northgate, nginx and HAProxy.
#
#   load-tests/handshakes.sh                         about two minutes after the build
#   load-tests/handshakes.sh --rounds 1 --seconds 2 --only rsa --max-ratio 0.75 --max-p99 3
#
# First connections that do a handshake of TLS 1.3 and end: in full, and resumed by a ticket, with a certificate of either
# kind. The figure is CPU time of the gateway for each, and the ratio is to nginx in the same round. Then requests that
# come every few milliseconds on connections that are kept, quietly, and during a storm: clients that send the beginning
# of a handshake as fast as they can and leave after the answer, which costs the gateway a signature and them nothing.
# As in passthrough.sh each gateway has one core, and everything else shares another. Fails when a request failed. Needs
# two cores and nothing else running.
. "$(dirname "$0")/prepare.sh"
../.ci/need openssl:openssl
exec python3 handshakes.py "$@"
