"""An endpoint in a process of its own, so that it can be killed, stopped and continued.

Prints its port, and answers every request with its name. SIGUSR1 makes it slow, SIGUSR2 makes it talk rubbish, SIGHUP
makes it well again. Arguments: address, port (0 for any), `h1` or `h2c`, name. Over HTTP/2 it looks at frames alone (RFC
9113): what is asked for does not matter."""

import signal
import socket
import socketserver
import struct
import sys
import threading

HOST, PORT, PROTOCOL, NAME = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4].encode()
SLOW_SECONDS = 0.4
RUBBISH = b"\x00rubbish\r\n\r\n"
mode = "well"


def becomes(word):
    def handler(*_):
        global mode
        mode = word

    return handler


signal.signal(signal.SIGUSR1, becomes("slow"))
signal.signal(signal.SIGUSR2, becomes("rubbish"))
signal.signal(signal.SIGHUP, becomes("well"))


class Closed(Exception):
    pass


def exactly(stream, count):
    data = stream.read(count)
    if len(data) < count:
        raise Closed
    return data


class Http1(socketserver.StreamRequestHandler):
    def serve(self):
        length = 0
        if not self.rfile.readline():
            raise Closed
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        exactly(self.rfile, length)
        if mode == "rubbish":
            self.wfile.write(RUBBISH)
            raise Closed
        if mode == "slow":
            threading.Event().wait(SLOW_SECONDS)
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(NAME), NAME))


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Http2(socketserver.StreamRequestHandler):
    def setup(self):
        super().setup()
        self.lock = threading.Lock()
        exactly(self.rfile, 24)
        self.say(frame(4, 0, 0))

    def say(self, data):
        with self.lock:
            try:
                self.wfile.write(data)
            except OSError:
                pass

    def serve(self):
        head = exactly(self.rfile, 9)
        length = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        payload = exactly(self.rfile, length)
        if kind in (4, 6) and not flags & 1:
            self.say(frame(kind, 1, 0, payload if kind == 6 else b""))
        elif kind == 0 and length:
            self.say(frame(8, 0, 0, struct.pack(">I", length)))
        if kind in (0, 1) and flags & 1:
            self.answer(stream)

    def answer(self, stream):
        # 0x88 is `:status: 200` (RFC 7541, appendix A)
        answer = frame(1, 4, stream, b"\x88") + frame(0, 1, stream, NAME)
        if mode == "rubbish":
            self.say(RUBBISH)
            raise Closed
        if mode == "slow":
            threading.Timer(SLOW_SECONDS, self.say, [answer]).start()
        else:
            self.say(answer)


def serving(kind):
    class Handler(kind):
        def handle(self):
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while True:
                    self.serve()
            except (Closed, OSError, ValueError):
                pass

    return Handler


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


with Server((HOST, PORT), serving(Http2 if PROTOCOL == "h2c" else Http1)) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
