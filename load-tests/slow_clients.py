"""Slow clients by the thousand beside a steady good load; see slow_clients.sh."""

import argparse
import contextlib
import os
import pathlib
import select
import socket
import statistics
import subprocess
import tempfile
import threading
import time

import bench

PLAIN, SECURE, GOOD, SINK = 18130, 18131, 18132, 18133
# more than the buffers on the way hold, and little more: what waits at the origin takes of the same memory for TCP
LARGE_BYTES = 1 << 20

# some are found out and come again for as long as the crowd is there
SETTLE_SECONDS_MAX = 20

CONFIG = """version: 1
threads: 1
admin: {{address: "unix:{folder}/admin.sock"}}
access_log: off
listeners:
  plain: {{address: "127.0.0.1:{plain}", protocols: [h1, h2c]}}
  secure: {{address: "127.0.0.1:{secure}", tls: {{default: own}}}}
  good: {{address: "127.0.0.1:{good}"}}
certificates: {{own: {{cert: "{folder}/cert.pem", key: "{folder}/key.pem"}}}}
services:
  app: {{endpoints: "{host}:{port}", outlier: off}}
  large: {{endpoints: "127.0.0.1:{large}", outlier: off}}
routes:
  all: {{match: {{path: /**}}, service: app}}
  large: {{match: {{path: /large}}, service: large}}
"""


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def over_http2(flags):
    """A `POST http://a.test/`, by the numbers of RFC 7541, appendix A."""
    block = b"\x83\x86\x84\x01\x06a.test"
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, flags, 1, block)


POST = b"POST / HTTP/1.1\r\nHost: a.test\r\n"

# port, what is sent at first, and what is sent every second
KINDS = {
    "head": (PLAIN, b"GET / HTTP/1.1\r\nHost: a.test\r\nX: ", b"x"),
    "content": (PLAIN, POST + b"Content-Length: 1000000\r\n\r\n", b"x"),
    "chunks": (PLAIN, POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "reader": (PLAIN, b"GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n", b""),
    "idle": (PLAIN, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b""),
    "handshake": (SECURE, b"\x16\x03\x01\x02\x00\x01", b"\x00"),
    "stream": (PLAIN, over_http2(4), frame(0, 0, 1, b"x")),
    "continuation": (PLAIN, over_http2(0), frame(9, 0, 1, b"\x00\x01x\x01y")),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crowd", type=int, default=2000, help="slow clients of each kind")
    parser.add_argument("--kinds", default=" ".join(KINDS), help="separated by blanks")
    parser.add_argument("--together", action="store_true", help="all kinds at once, not one after another")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind; the medians are shown")
    parser.add_argument("--seconds", type=int, default=5, help="of the good load in each round, alone and beside each crowd")
    parser.add_argument("--connections", type=int, default=20, help="of the good load")
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    bench.allow_many_files()
    os.sched_setaffinity(0, {bench.cores()[1]})
    kinds = options.kinds.split()
    crowds = [kinds] if options.together else [[kind] for kind in kinds]
    bench.print_machine()
    print(f"{options.crowd} slow clients of each kind, {options.connections} connections with good requests\n")
    print(f"{'':14}{'good load':>10}{'failed':>8}{'req/s':>8}{'p50 ms':>8}{'p99 ms':>8}{'/ quiet':>8}", end="")
    print(f"{'RSS MiB':>16}{'fds':>16}{'sent away':>11}")
    table = []
    with tempfile.TemporaryDirectory(prefix="northgate-load-") as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        stack.callback(bench.origin(folder).end)
        threading.Thread(target=large_origin, args=(LARGE_BYTES,), daemon=True).start()
        for crowd in crowds:
            gateway = start(folder)
            try:
                table.append(measure(gateway, crowd, options))
            finally:
                gateway.end()
            report(table[-1])
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "table": table})
    failed = sum(failures(run.values()) for row in table for run in row["rounds"])
    if failed:
        raise SystemExit(f"{failed} good requests failed")


def start(folder):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=a.test", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    host, port = bench.ORIGIN
    text = CONFIG.format(folder=folder, plain=PLAIN, secure=SECURE, good=GOOD, host=host, port=port, large=PLAIN + 9)
    (folder / "northgate.yaml").write_text(text)
    command = [bench.target() / "northgate", "run", "-c", folder / "northgate.yaml"]
    return bench.Process("northgate", command, bench.cores()[0], folder).ready(GOOD)


def stand_aside():
    """Has this thread take no time from what is measured: it leaves the gateway's core alone, and the other to the good load."""
    os.sched_setaffinity(0, {bench.cores()[1]})
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def large_origin(size):
    """Sends so much to whoever asks, as fast as it is taken."""
    stand_aside()
    listener = socket.create_server(("127.0.0.1", PLAIN + 9), backlog=4096)
    poll = select.epoll()
    listener.setblocking(False)
    poll.register(listener, select.EPOLLIN)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    body = memoryview(bytes(1 << 16))
    open_, left = {}, {}
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                stream, _ = listener.accept()
                stream.setblocking(False)
                open_[stream.fileno()], left[stream.fileno()] = stream, None
                poll.register(stream, select.EPOLLIN)
                continue
            stream = open_[number]
            try:
                if left[number] is None:
                    if not stream.recv(65536):
                        raise OSError
                    stream.send(head)
                    left[number] = size
                    poll.modify(stream, select.EPOLLOUT)
                left[number] -= stream.send(body[: min(left[number], len(body))])
                if left[number] == 0:
                    left[number] = None
                    poll.modify(stream, select.EPOLLIN)
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(number)
                stream.close()
                del open_[number], left[number]


@contextlib.contextmanager
def sink():
    """Takes connections, and neither reads nor writes."""
    with socket.create_server(("127.0.0.1", SINK), backlog=4096) as listener, contextlib.ExitStack() as taken:

        def take():
            stand_aside()
            with contextlib.suppress(OSError):
                while True:
                    taken.enter_context(listener.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RD)
        thread.join()


class Crowd:
    """So many slow clients of each kind; whoever is sent away comes back."""

    def __init__(self, count, kinds, port=None):
        self.wanted = [(port or KINDS[kind][0], *KINDS[kind][1:]) for kind in kinds for _ in range(count)]
        self.members = [None] * len(self.wanted)
        self.sent_away = 0
        self.stopping = False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        stand_aside()
        while not self.stopping:
            turn = time.monotonic()
            for number, (port, beginning, piece) in enumerate(self.wanted):
                if self.stopping:
                    return
                self.move(number, port, beginning, piece)
            time.sleep(max(0, 1 - (time.monotonic() - turn)))

    def move(self, number, port, beginning, piece):
        member = self.members[number]
        try:
            if member is None:
                member = socket.create_connection(("127.0.0.1", port), 5)
                if beginning.startswith(b"GET /large"):
                    member.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                member.sendall(beginning)
                member.setblocking(False)
                self.members[number] = member
            elif piece:
                member.send(piece)
            elif is_gone(member):
                raise OSError
        except BlockingIOError:
            pass
        except OSError:
            self.sent_away += 1
            self.members[number] = None
            if member:
                member.close()

    def end(self):
        self.stopping = True
        self.thread.join()
        for member in filter(None, self.members):
            member.close()


def is_gone(stream):
    poll = select.poll()
    poll.register(stream, select.POLLRDHUP)
    return bool(poll.poll(0))


class Watch:
    """Memory and descriptors of the gateway, every other second of a `with` block."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.rows = []

    def __enter__(self):
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def run(self):
        stand_aside()
        while not self.stopping.wait(2):
            self.rows.append((self.gateway.rss_kib() / 1024, self.gateway.descriptors()))

    def span(self, column):
        values = [row[column] for row in self.rows]
        return f"{min(values):.0f}-{max(values):.0f}"


def measure(gateway, kinds, options):
    """The good load alone, beside a crowd that speaks to somebody else, and beside one that speaks to the gateway."""
    rounds, watch, sent_away = [], Watch(gateway), 0
    for _ in range(options.rounds):
        # what the last crowd has left is cleared away at the first opportunity
        bench.wrk(GOOD, 3, options.connections)
        runs = {"quiet": bench.wrk(GOOD, options.seconds, options.connections)}
        # both ends of them all together would be more files than a process may have
        elsewhere = [("elsewhere", SINK)] if len(kinds) == 1 else []
        for phase, port in [*elsewhere, ("attacked", None)]:
            crowd = Crowd(options.crowd, kinds, port)
            nobody = contextlib.nullcontext()
            with sink() if port else nobody:
                crowd.thread.start()
                settle(gateway, crowd)
                with nobody if port else watch:
                    runs[phase] = bench.wrk(GOOD, options.seconds, options.connections)
                crowd.end()
            sent_away += crowd.sent_away
        rounds.append(runs)
    flat = {"rss": watch.span(0), "descriptors": watch.span(1), "sent_away": sent_away}
    return {"kinds": kinds, "rounds": rounds} | flat


def settle(gateway, crowd):
    """Waits until all have come, and what they have asked for has arrived where they don't read it."""
    before = None
    for _ in range(SETTLE_SECONDS_MAX):
        if None not in crowd.members and before == (before := (gateway.descriptors(), gateway.rss_kib() >> 10)):
            return
        time.sleep(1)


def median(row, phase, of):
    return statistics.median(run[phase][of] for run in row["rounds"])


def report(row):
    """Medians of the rounds; `/ quiet` is a p99 in parts of the quiet one of its round."""
    name = row["kinds"][0] if len(row["kinds"]) == 1 else "all"
    for phase in row["rounds"][0]:
        runs = [run[phase] for run in row["rounds"]]
        ratio = statistics.median(run[phase]["p99"] / run["quiet"]["p99"] for run in row["rounds"])
        print(f"{name if phase == 'quiet' else '':14}{phase:>10}{failures(runs):8}{median(row, phase, 'rate'):8.0f}", end="")
        print(f"{median(row, phase, 'p50') * 1e3:8.2f}{median(row, phase, 'p99') * 1e3:8.2f}{ratio:8.2f}", end="")
        print(f"{row['rss']:>16}{row['descriptors']:>16}{row['sent_away']:11}" if phase == "attacked" else "", flush=True)


def failures(runs):
    return sum(run["errors"] + run["refused"] for run in runs)


if __name__ == "__main__":
    main()
