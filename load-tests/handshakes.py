"""TLS handshakes, side by side; see handshakes.sh."""

import argparse
import contextlib
import multiprocessing
import os
import pathlib
import selectors
import socket
import ssl
import statistics
import subprocess
import tempfile
import time

import bench
import protocols

YARDSTICK = "nginx"
NAME = "localhost"
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

CERTIFICATES = {
    "ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    "rsa": ["rsa:2048"],
}
COMMANDS = {"northgate": protocols.northgate, "nginx": protocols.nginx, "haproxy": protocols.haproxy}


def main():
    options = arguments()
    bench.allow_many_files()
    # what is measured has the other core for itself
    os.sched_setaffinity(0, {bench.cores()[1]})
    table = {}
    for kind in [kind for kind in CERTIFICATES if options.only in kind]:
        with gateways(kind) as running:
            table[kind] = {"handshakes": costs(options, running), "storm": storms(options, running)}
        report(kind, table[kind])
    bench.print_machine()
    print(f"openssl:   {ssl.OPENSSL_VERSION} (of the clients)")
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "table": table})
    judge(options, table)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each run")
    parser.add_argument("--storm", type=int, default=64, help="connections of the storm at a time")
    parser.add_argument("--only", default="", help="a part of the kind of certificate")
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--max-ratio", type=float, help="fail when a full handshake costs more than that of nginx's")
    parser.add_argument("--max-p99", type=float, help="fail when a storm makes the 99th percentile that many times larger")
    return parser.parse_args()


@contextlib.contextmanager
def gateways(kind):
    with tempfile.TemporaryDirectory(prefix="northgate-load-") as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        certificate(folder, CERTIFICATES[kind])
        stack.callback(bench.origin(folder).end)
        running = {}
        for number, (name, command) in enumerate(COMMANDS.items()):
            port = 18110 + number
            process = bench.Process(name, command(folder, port, False), bench.cores()[0], folder)
            stack.callback(process.end)
            running[name] = (process.ready(port), port)
        yield running


def certificate(folder, key):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", *key, "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        + ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    both = (folder / "cert.pem").read_text() + (folder / "key.pem").read_text()
    (folder / "both.pem").write_text(both)


def context():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.set_alpn_protocols(["http/1.1"])
    return made


def connect(port, tls, session=None):
    plain = socket.create_connection(("127.0.0.1", port), 10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(plain, server_hostname=NAME, session=session)


def ask(stream):
    stream.sendall(REQUEST)
    received = b""
    while not received.endswith(b"x" * 1024):
        part = stream.recv(8192)
        if not part:
            raise SystemExit(f"a connection was closed: {received[:200]!r}")
        received += part


def costs(options, running):
    """CPU time of handshakes in full and resumed, by gateway."""
    names = list(running)
    runs = {(name, resumed): [] for name in names for resumed in (False, True)}
    for number in range(options.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            for resumed in (False, True):
                process, port = running[name]
                runs[name, resumed].append(handshakes(process, port, options.seconds, resumed))
    table = {}
    for name in names:
        row = {}
        for resumed, kind in ((False, "full"), (True, "resumed")):
            own, other = runs[name, resumed], runs[YARDSTICK, resumed]
            row[kind] = statistics.median(own)
            row[f"{kind}_ratio"] = statistics.median(one / yard for one, yard in zip(own, other))
        table[name] = row
    return table


def handshakes(process, port, seconds, resumed):
    """One connection after another; seconds of CPU for each."""
    tls = context()
    session = None
    with connect(port, tls) as first:
        # the ticket comes with or after the answer
        ask(first)
        session = first.session
    before, count, until = process.cpu_seconds(), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        with connect(port, tls, session if resumed else None) as stream:
            if stream.session_reused != resumed:
                raise SystemExit(f"{process.name}: resumed is {stream.session_reused}, and should be {resumed}")
        count += 1
    # what is still on its way belongs to them
    time.sleep(0.05)
    return (process.cpu_seconds() - before) / count


def storms(options, running):
    """The times of requests on kept connections, quietly and in a storm, by gateway."""
    table = {}
    for name, (process, port) in running.items():
        held = [connect(port, context()) for _ in range(10)]
        for stream in held:
            ask(stream)
        quiet = times(held, options.seconds * options.rounds)
        with multiprocessing.Manager() as manager:
            counted = manager.Value("i", 0)
            stop = manager.Event()
            storm = multiprocessing.Process(target=rage, args=(port, options.storm, stop, counted))
            storm.start()
            time.sleep(0.5)
            before = process.cpu_seconds()
            began = time.monotonic()
            raging = times(held, options.seconds * options.rounds)
            busy = (process.cpu_seconds() - before) / (time.monotonic() - began)
            stop.set()
            storm.join()
            hellos = counted.value / (time.monotonic() - began)
        for stream in held:
            stream.close()
        table[name] = {"quiet": quiet, "storm": raging, "ratio": raging["p99"] / quiet["p99"], "rate": hellos, "busy": busy}
    return table


def times(held, seconds):
    taken, until, turn = [], time.monotonic() + seconds, 0
    while time.monotonic() < until:
        began = time.perf_counter()
        ask(held[turn % len(held)])
        taken.append(time.perf_counter() - began)
        turn += 1
        time.sleep(0.002)
    taken.sort()
    return {"p50": taken[len(taken) // 2], "p99": taken[len(taken) * 99 // 100], "max": taken[-1], "requests": len(taken)}


def rage(port, width, stop, counted):
    """Sends the same beginning of a handshake on connection after connection. At the lowest priority, so that the requests
    that are measured have their core whenever they need it."""
    os.nice(19)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    begun = context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with contextlib.suppress(ssl.SSLWantReadError):
        begun.do_handshake()
    hello = outgoing.read()
    waiting, count = selectors.DefaultSelector(), 0

    def begin():
        stream = socket.socket()
        stream.setblocking(False)
        stream.connect_ex(("127.0.0.1", port))
        waiting.register(stream, selectors.EVENT_WRITE)

    for _ in range(width):
        begin()
    while not stop.is_set():
        for key, events in waiting.select(0.1):
            stream = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    stream.send(hello)
                    waiting.modify(stream, selectors.EVENT_READ)
                    continue
                count += bool(stream.recv(16384))
            except OSError:
                pass
            waiting.unregister(stream)
            # a reset, so that no port is waited for
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            stream.close()
            begin()
    counted.value = count


def report(kind, table):
    print(f"\n{kind}")
    print(f"{'CPU us/handshake':22}{'full':>9}{'ratio':>8}{'resumed':>10}{'ratio':>8}")
    for name, row in table["handshakes"].items():
        print(
            f"{name:22}{row['full'] * 1e6:9.0f}{row['full_ratio']:8.3f}{row['resumed'] * 1e6:10.0f}"
            f"{row['resumed_ratio']:8.3f}"
        )
    print(f"{'requests meanwhile, ms':22}{'p50':>9}{'p99':>8}{'storm p50':>11}{'p99':>8}{'max':>8}{'p99 x':>8}{'hello/s':>9}{'CPU':>6}")
    for name, row in table["storm"].items():
        quiet, storm = row["quiet"], row["storm"]
        print(
            f"{name:22}{quiet['p50'] * 1e3:9.2f}{quiet['p99'] * 1e3:8.2f}{storm['p50'] * 1e3:11.2f}"
            f"{storm['p99'] * 1e3:8.2f}{storm['max'] * 1e3:8.1f}{row['ratio']:8.2f}{row['rate']:9.0f}{row['busy']:6.0%}",
            flush=True,
        )


def judge(options, table):
    for kind, rows in table.items():
        ratio, storm = rows["handshakes"]["northgate"]["full_ratio"], rows["storm"]["northgate"]["ratio"]
        if options.max_ratio and ratio > options.max_ratio:
            raise SystemExit(f"a full handshake ({kind}) costs {ratio:.3f} of nginx's, more than {options.max_ratio}")
        if options.max_p99 and storm > options.max_p99:
            raise SystemExit(f"a storm ({kind}) makes the 99th percentile {storm:.2f} times larger, more than {options.max_p99}")


if __name__ == "__main__":
    main()
