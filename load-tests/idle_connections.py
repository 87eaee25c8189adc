"""Memory of connections that wait, side by side; see idle_connections.sh."""

import argparse
import contextlib
import pathlib
import socket
import ssl
import tempfile
import time

import bench
import protocols

REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, DATA, SETTINGS = 1, 0, 4
END_STREAM, END_HEADERS, ACK = 1, 4, 1
# `:method: GET`, `:scheme: https`, `:path: /` of HPACK's static table, and `:authority`
FIELDS = b"\x82\x87\x84\x41\x06a.test"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--only", default="bare pingora; northgate; nginx; haproxy", help="names separated by semicolons")
    parser.add_argument("--kind", default="", help="a part of: plain, HTTP/1.1 over TLS, HTTP/2 over TLS")
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    bench.allow_many_files()
    tables = {}
    for kind, (gateways, client) in KINDS.items():
        if options.kind in kind:
            with gateways(bench.chosen(options.only)) as running:
                tables[kind] = {
                    name: one(name, process, port, client, options.connections) for name, (process, port) in running.items()
                }
    bench.print_machine()
    print(f"{options.connections} connections, each idle after one request of 1 KiB")
    for kind, table in tables.items():
        print(f"\n{kind:22}{'KiB each':>9}{'RSS MiB':>9}{'after close':>12}")
        for name, row in table.items():
            print(f"{name:22}{row['each_kib']:9.2f}{row['rss_kib'] / 1024:9.1f}{row['closed_kib'] / 1024:12.1f}")
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "tables": tables})


@contextlib.contextmanager
def plain(names):
    with bench.setting(names) as (_, running):
        yield {name: (running[name], bench.GATEWAYS[name][0]) for name in names}


@contextlib.contextmanager
def secured(names):
    """Bare Pingora is not among them."""
    with tempfile.TemporaryDirectory(prefix="northgate-load-") as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        protocols.certificate(folder)
        stack.callback(bench.origin(folder).end)
        commands = {"northgate": protocols.northgate, "nginx": protocols.nginx, "haproxy": protocols.haproxy}
        running = {}
        for number, name in enumerate(name for name in names if name in commands):
            port = 18120 + number
            process = bench.Process(name, commands[name](folder, port, False), bench.cores()[0], folder)
            stack.callback(process.end)
            running[name] = (process.ready(port), port)
        yield running


class Http1:
    def __init__(self, port):
        self.stream = socket.create_connection(("127.0.0.1", port), 10)

    def ask(self):
        self.stream.sendall(REQUEST)
        received = b""
        while not received.endswith(b"x" * 1024):
            received += self.more()

    def more(self):
        part = self.stream.recv(16384)
        if not part:
            raise SystemExit("a connection was closed")
        return part

    def close(self):
        self.stream.close()


class Http1OverTls(Http1):
    PROTOCOL = "http/1.1"
    tls = None

    def __init__(self, port):
        super().__init__(port)
        # one for all, so that the client's memory is not the bound; nothing is resumed
        if type(self).tls is None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            tls.set_alpn_protocols([self.PROTOCOL])
            type(self).tls = tls
        self.stream = self.tls.wrap_socket(self.stream, server_hostname="localhost")


class Http2OverTls(Http1OverTls):
    PROTOCOL = "h2"
    tls = None

    def __init__(self, port):
        super().__init__(port)
        self.asked, self.received = 0, b""
        self.stream.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))

    def ask(self):
        number = 2 * self.asked + 1
        self.asked += 1
        self.stream.sendall(frame(HEADERS, END_STREAM | END_HEADERS, number, FIELDS))
        while True:
            kind, flags, stream = self.next_frame()
            if kind == SETTINGS and not flags & ACK:
                self.stream.sendall(frame(SETTINGS, ACK, 0, b""))
            if kind == DATA and stream == number and flags & END_STREAM:
                return

    def next_frame(self):
        while len(self.received) < 9 or len(self.received) < 9 + int.from_bytes(self.received[:3]):
            self.received += self.more()
        head, length = self.received[:9], int.from_bytes(self.received[:3])
        self.received = self.received[9 + length :]
        return head[3], head[4], int.from_bytes(head[5:9])


def frame(kind, flags, stream, content):
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


KINDS = {
    "plain": (plain, Http1),
    "HTTP/1.1 over TLS": (secured, Http1OverTls),
    "HTTP/2 over TLS": (secured, Http2OverTls),
}


def one(name, process, port, client, count):
    """Opens the connections one after another, so that buffers of one request serve them all."""
    # what the first connections cost is the process's, not theirs
    close(connect(port, client, 100))
    time.sleep(0.5)
    before = process.rss_kib()
    held = connect(port, client, count)
    time.sleep(1)
    after = process.rss_kib()
    # a gateway that closed them while they waited would look frugal
    for connection in held[:: max(len(held) // 100, 1)]:
        connection.ask()
    close(held)
    time.sleep(1)
    return {"each_kib": (after - before) / count, "rss_kib": after, "closed_kib": process.rss_kib()}


def connect(port, client, count):
    held = []
    for _ in range(count):
        connection = client(port)
        connection.ask()
        held.append(connection)
    return held


def close(held):
    for connection in held:
        connection.close()


if __name__ == "__main__":
    main()
