"""A gRPC server of another make: grpcio with generic handlers, so that no generated code is needed.

Prints its port. Arguments: certificate and key for TLS, nothing for plain text."""

import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    if request == b"slow":
        time.sleep(15)
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-last", "2"),))
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 50 %")
    return request


def server_stream(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def client_stream(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def both(requests, context):
    for request in requests:
        yield request


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/test.Echo/ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
            "/test.Echo/ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
            "/test.Echo/Both": grpc.stream_stream_rpc_method_handler(both),
        }.get(details.method)


def main():
    host, files = sys.argv[1], sys.argv[2:]
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=32),
        options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers((Echo(),))
    if files:
        with open(files[0], "rb") as certificate, open(files[1], "rb") as key:
            credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
        port = server.add_secure_port(f"{host}:0", credentials)
    else:
        port = server.add_insecure_port(f"{host}:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


main()
