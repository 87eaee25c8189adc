"""TLS and HTTP/2, side by side; see protocols.sh."""

import argparse
import contextlib
import json
import pathlib
import shutil
import subprocess
import tempfile

import bench

YARDSTICK = "haproxy"
ORIGIN_H2 = ("127.0.0.1", 18091)

# how clients come, and whether endpoints are spoken to in HTTP/2 too
KINDS = {
    "h1 over TLS": (["--insecure"], False),
    "h2 over TLS": (["--insecure", "--http2", "-p", "10"], False),
    "h2 to h2c": (["--insecure", "--http2", "-p", "10"], True),
}


def main():
    options = arguments()
    table = {}
    for kind, (flags, http2) in KINDS.items():
        if options.only in kind:
            table[kind] = measure(options, flags, http2)
            report(kind, table[kind])
    bench.print_machine()
    print(f"oha:       {subprocess.run(['oha', '-V'], capture_output=True, text=True).stdout.strip()}")
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "table": table})
    failed = [f"{name}, {kind}" for kind, rows in table.items() for name, row in rows.items() if row["errors"]]
    if failed:
        raise SystemExit(f"failed requests: {'; '.join(failed)}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--connections", type=int, default=50, help="of HTTP/1.1; HTTP/2 has five with ten streams each")
    parser.add_argument("--only", default="", help="a part of the name of a kind")
    parser.add_argument("--json", help="a file for the figures")
    return parser.parse_args()


def measure(options, flags, http2):
    commands = {"northgate": northgate, "nginx": nginx, "haproxy": haproxy}
    if http2:
        del commands["nginx"]
    bench.allow_many_files()
    with tempfile.TemporaryDirectory(prefix="northgate-load-") as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        certificate(folder)
        stack.callback(origin(folder, http2).end)
        running = {}
        for number, (name, command) in enumerate(commands.items()):
            port = 18100 + number
            process = bench.Process(name, command(folder, port, http2), bench.cores()[0], folder)
            stack.callback(process.end)
            running[name] = (process.ready(port), port)
        return rounds(options, flags, running)


def rounds(options, flags, running):
    connections = 5 if "--http2" in flags else options.connections
    names = list(running)
    runs = {name: [] for name in names}
    for name in names:
        oha(running[name][1], 1, connections, flags)
    for number in range(options.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            process, port = running[name]
            before = process.cpu_seconds()
            run = oha(port, options.seconds, connections, flags)
            run["cpu"] = (process.cpu_seconds() - before) / max(run["requests"], 1)
            run["rss_kib"] = process.rss_kib()
            runs[name].append(run)
    table = {}
    for name in names:
        row = {key: bench.median(runs[name], key) for key in ("cpu", "rate", "p50", "p99", "rss_kib")}
        pairs = zip(runs[name], runs[YARDSTICK])
        row["ratio"] = bench.statistics.median(own["cpu"] / other["cpu"] for own, other in pairs)
        row["errors"] = sum(run["errors"] for run in runs[name])
        table[name] = row
    return table


def oha(port, duration, connections, flags):
    """One run of the load generator."""
    command = ["taskset", "-c", str(bench.cores()[1]), "oha", "--no-tui", "--output-format", "json"]
    command += ["-z", f"{duration}s", "-c", str(connections), "--wait-ongoing-requests-after-deadline", *flags]
    command.append(f"https://127.0.0.1:{port}/")
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    statuses = {int(status): count for status, count in result["statusCodeDistribution"].items()}
    failed = sum(result["errorDistribution"].values())
    return {
        "requests": sum(statuses.values()),
        "rate": result["summary"]["requestsPerSec"],
        "p50": result["latencyPercentiles"]["p50"],
        "p99": result["latencyPercentiles"]["p99"],
        "errors": failed + sum(count for status, count in statuses.items() if status != 200),
    }


def report(kind, table):
    print(f"\n{kind}")
    print(f"{'':22}{'CPU us/req':>11}{'ratio':>8}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}{'RSS MiB':>9}")
    for name, row in table.items():
        print(
            f"{name:22}{row['cpu'] * 1e6:11.2f}{row['ratio']:8.3f}{row['rate']:9.0f}{row['p50'] * 1e3:9.2f}"
            f"{row['p99'] * 1e3:9.2f}{row['errors']:8}{row['rss_kib'] / 1024:9.1f}",
            flush=True,
        )


def certificate(folder):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        + ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    both = (folder / "cert.pem").read_text() + (folder / "key.pem").read_text()
    (folder / "both.pem").write_text(both)


def origin(folder, http2):
    """As bench.origin, and beside it the same in HTTP/2 in clear."""
    answer = f'default_type text/plain; location / {{ return 200 "{"x" * 1024}"; }}'
    http = f"""
  server {{ listen {bench.ORIGIN[0]}:{bench.ORIGIN[1]} reuseport backlog=4096; {answer} }}
  server {{ listen {ORIGIN_H2[0]}:{ORIGIN_H2[1]} http2 reuseport backlog=4096;
    http2_max_requests 1000000000; {answer} }}"""
    process = bench.Process("origin", bench.nginx(folder, "origin", http), bench.cores()[1], folder)
    return process.ready(ORIGIN_H2[1] if http2 else bench.ORIGIN[1])


def northgate(folder, port, http2):
    place = ORIGIN_H2 if http2 else bench.ORIGIN
    protocol = "h2c" if http2 else "auto"
    path = folder / "northgate.yaml"
    path.write_text(f"""
version: 1
threads: 1
admin: {{address: "unix:{folder}/northgate.sock"}}
access_log: off
listeners: {{public: {{address: "127.0.0.1:{port}", tls: {{default: own}}}}}}
certificates: {{own: {{cert: "{folder}/cert.pem", key: "{folder}/key.pem"}}}}
services: {{app: {{endpoints: "{place[0]}:{place[1]}", protocol: {protocol}}}}}
routes: {{all: {{match: {{path: /**}}, service: app}}}}
""")
    return [bench.target() / "northgate", "run", "-c", path]


def nginx(folder, port, _):
    http = f"""
  upstream app {{ server {bench.ORIGIN[0]}:{bench.ORIGIN[1]}; keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} ssl http2 backlog=4096; http2_max_requests 1000000000;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; }} }}"""
    return bench.nginx(folder, "nginx", http)


def haproxy(folder, port, http2):
    place = ORIGIN_H2 if http2 else bench.ORIGIN
    path = folder / "haproxy.cfg"
    path.write_text(f"""
global
  nbthread 1
  maxconn {bench.connections_max()}
defaults
  mode http
  timeout connect 3s
  timeout client 600s
  timeout server 30s
  timeout http-keep-alive 600s
  option forwardfor
  http-reuse always
frontend public
  bind 127.0.0.1:{port} ssl crt {folder}/both.pem alpn h2,http/1.1 backlog 4096
  default_backend app
backend app
  server one {place[0]}:{place[1]} {"proto h2" if http2 else ""}
""")
    return [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", path]


if __name__ == "__main__":
    main()
