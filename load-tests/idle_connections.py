"""Memory of connections that wait, side by side; see idle_connections.sh."""

import argparse
import socket
import time

import bench

REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--only", default="bare pingora; northgate; nginx; haproxy", help="names separated by semicolons")
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    names = bench.chosen(options.only)
    table = {}
    with bench.setting(names) as (_, running):
        for name in names:
            table[name] = one(name, running[name], options.connections)
    for key, value in bench.machine().items():
        print(f"{key + ':':11}{value}")
    print(f"{options.connections} connections, each idle after one request of 1 KiB\n")
    print(f"{'':22}{'KiB each':>9}{'RSS MiB':>9}{'after close':>12}")
    for name, row in table.items():
        print(f"{name:22}{row['each_kib']:9.2f}{row['rss_kib'] / 1024:9.1f}{row['closed_kib'] / 1024:12.1f}")
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "table": table})


def one(name, process, count):
    """Opens the connections one after another, so that buffers of one request serve them all."""
    port = bench.GATEWAYS[name][0]
    # what the first connections cost is the process's, not theirs
    close(connect(port, 100))
    time.sleep(0.5)
    before = process.rss_kib()
    held = connect(port, count)
    time.sleep(1)
    after = process.rss_kib()
    still_open(held, name)
    close(held)
    time.sleep(1)
    return {"each_kib": (after - before) / count, "rss_kib": after, "closed_kib": process.rss_kib()}


def connect(port, count):
    held = []
    for _ in range(count):
        stream = socket.create_connection(("127.0.0.1", port), 10)
        stream.sendall(REQUEST)
        received = b""
        while not received.endswith(b"x" * 1024):
            part = stream.recv(8192)
            if not part:
                raise SystemExit(f"port {port} closed a connection: {received[:200]!r}")
            received += part
        held.append(stream)
    return held


def still_open(held, name):
    """A gateway that closed them while they waited would look frugal."""
    for stream in held[:: max(len(held) // 100, 1)]:
        stream.sendall(REQUEST)
        if not stream.recv(8192):
            raise SystemExit(f"{name} closed an idle connection")


def close(held):
    for stream in held:
        stream.close()


if __name__ == "__main__":
    main()
