"""Answers grpc.health.v1 at ADDRESS with the status that stands in FILE, for the service `shop.Orders`.

Not named `grpc_health`: gRPC imports a module of that name by itself.
"""

import sys
from concurrent import futures

import grpc

address, path = sys.argv[1:]


def check(request, context):
    if request not in (b"", b"\x0a\x0bshop.Orders"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    with open(path) as file:
        return b"\x08" + bytes([int(file.read() or "0")])


server = grpc.server(futures.ThreadPoolExecutor(2))
handler = grpc.method_handlers_generic_handler(
    "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
)
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port(address)
server.start()
print("ready", flush=True)
server.wait_for_termination()
