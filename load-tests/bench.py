"""What the load tests share: gateways to compare, an origin, a load generator, and what the kernel says about them.

Every gateway runs on one core and proxies to the same origin; the origin and the load generator run on another one, so
that none of them takes time from what is measured. The figure is the CPU time that the gateway's processes used, from
/proc, divided by the requests that the load generator counted: unlike a rate it hardly depends on how fast the other
core is.
"""

import contextlib
import functools
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORIGIN = ("127.0.0.1", 18090)
TICKS = os.sysconf("SC_CLK_TCK")


@functools.cache
def cores():
    """The core for the gateway and the one for everything else."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        sys.exit("two cores are needed: one for the gateway, one for its origin and its clients")
    return usable[0], usable[1]


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / os.environ.get("PROFILE", "release")


class Process:
    """A process (and its children) pinned to a core; ended with the `with` block."""

    def __init__(self, name, command, core, folder):
        self.name = name
        self.log = open(folder / f"{name}.log", "w")
        self.child = subprocess.Popen(
            ["taskset", "-c", str(core), *map(str, command)],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )

    def pids(self):
        """The process and all that descend from it."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    # the name in brackets may hold spaces; what follows it does not
                    fields = pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                    parents.setdefault(int(fields[1]), []).append(int(entry))
        found, todo = [], [self.child.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo.extend(parents.get(pid, []))
        return found

    def cpu_seconds(self):
        """User and system time of all threads so far."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def rss_kib(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                total += int(re.search(r"VmRSS:\s+(\d+)", status).group(1))
        return total

    def descriptors(self):
        """Open files of the process that was started last, the one that serves."""
        return len(os.listdir(f"/proc/{self.pids()[-1]}/fd"))

    def ready(self, port):
        """Waits until the port takes connections."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return self
            time.sleep(0.05)
        self.log.flush()
        sys.exit(f"{self.name} is not ready:\n{pathlib.Path(self.log.name).read_text()}")

    def end(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.log.close()


NGINX = """
daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log stderr warn;
events {{ worker_connections {connections}; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-f; uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;
  {http}
}}
"""


def nginx(folder, name, http):
    path = folder / f"{name}.conf"
    path.write_text(NGINX.format(folder=folder, name=name, http=http, connections=2 * connections_max()))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", path, "-e", "stderr"]


def origin(folder, body_bytes=1024):
    """An nginx that answers everything from memory."""
    http = f"""
  server {{ listen {ORIGIN[0]}:{ORIGIN[1]} reuseport backlog=4096; default_type text/plain;
    location / {{ return 200 "{"x" * body_bytes}"; }} }}"""
    return Process("origin", nginx(folder, "origin", http), cores()[1], folder).ready(ORIGIN[1])


def nginx_command(folder, port):
    http = f"""
  upstream app {{ server {ORIGIN[0]}:{ORIGIN[1]}; keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; }} }}"""
    return nginx(folder, "nginx", http)


def haproxy_command(folder, port):
    path = folder / "haproxy.cfg"
    path.write_text(f"""
global
  nbthread 1
  maxconn {connections_max()}
defaults
  mode http
  timeout connect 3s
  timeout client 600s
  timeout server 30s
  timeout http-keep-alive 600s
  option forwardfor
  http-reuse always
frontend public
  bind 127.0.0.1:{port} backlog 4096
  default_backend app
backend app
  server one {ORIGIN[0]}:{ORIGIN[1]}
""")
    return [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", path]


def bare_command(folder, port):
    return [target() / "examples/bare_pingora", f"127.0.0.1:{port}", f"{ORIGIN[0]}:{ORIGIN[1]}"]


def edge_command(folder, port):
    return [target() / "examples/bare_edge", f"127.0.0.1:{port}", f"{ORIGIN[0]}:{ORIGIN[1]}"]


def northgate_config(folder, name, port, log):
    path = folder / f"{name}.yaml"
    path.write_text(f"""
version: 1
threads: 1
admin: {{address: "unix:{folder}/{name}.sock"}}
access_log: {log}
listeners: {{public: {{address: "127.0.0.1:{port}"}}}}
services: {{app: {{endpoints: "{ORIGIN[0]}:{ORIGIN[1]}"}}}}
routes: {{all: {{match: {{path: /**}}, service: app}}}}
""")
    return path


def northgate_command(folder, port):
    return [target() / "northgate", "run", "-c", northgate_config(folder, "northgate", port, "off")]


def northgate_log_command(folder, port):
    log = f'{{path: "{folder}/access.log", format: json}}'
    return [target() / "northgate", "run", "-c", northgate_config(folder, "northgate-log", port, log)]


"""Name, port and command of each, the yardstick first."""
GATEWAYS = {
    "bare pingora": (18081, bare_command),
    "northgate": (18082, northgate_command),
    "northgate, JSON log": (18083, northgate_log_command),
    "nginx": (18084, nginx_command),
    "haproxy": (18085, haproxy_command),
}


"""Started only where they are asked for by name."""
OTHERS = {"bare edge": (18086, edge_command)}


def chosen(names):
    """The gateways of that list, all of them when it is empty."""
    wanted = [name.strip() for name in names.split(";") if name.strip()] or list(GATEWAYS)
    GATEWAYS.update({name: OTHERS[name] for name in wanted if name in OTHERS})
    unknown = [name for name in wanted if name not in GATEWAYS]
    if unknown:
        sys.exit(f"unknown: {unknown}; there are {list(GATEWAYS)}")
    return wanted


def start(name, folder):
    port, command = GATEWAYS[name]
    core = cores()[0]
    return Process(re.sub(r"\W+", "-", name), command(folder, port), core, folder).ready(port)


@contextlib.contextmanager
def setting(names, body_bytes=1024):
    """A folder, an origin and the gateways of that list, all ended at the end."""
    allow_many_files()
    with tempfile.TemporaryDirectory(prefix="northgate-load-") as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        # nginx's worker drops its privileges when it is started by root
        folder.chmod(0o755)
        stack.callback(origin(folder, body_bytes).end)
        running = {}
        for name in names:
            running[name] = start(name, folder)
            stack.callback(running[name].end)
        yield folder, running


def allow_many_files():
    """As many descriptors as this user may have, for us and all that we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_max():
    """What a proxy can hold when each connection takes two descriptors."""
    return (min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536) - 200) // 2


def seconds(text):
    """wrk's `1.23ms` in seconds."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[unit]


def wrk(port, duration, connections, headers=()):
    """One run of the load generator."""
    command = ["taskset", "-c", str(cores()[1]), "wrk", "-t1", f"-c{connections}", f"-d{duration}s", "--latency"]
    for header in headers:
        command += ["-H", header]
    command.append(f"http://127.0.0.1:{port}/")
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return {
        "requests": int(re.search(r"(\d+) requests in", text).group(1)),
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)),
        # at the start of a line: the share within one deviation may end in the same digits
        "p50": seconds(re.search(r"^\s+50%\s+(\S+)", text, re.MULTILINE).group(1)),
        "p99": seconds(re.search(r"^\s+99%\s+(\S+)", text, re.MULTILINE).group(1)),
        "errors": sum(map(int, socket_errors.groups())) if socket_errors else 0,
        "refused": int(other.group(1)) if other else 0,
    }


def measured(process, port, duration, connections, headers=()):
    """A run of the load generator with the CPU time that it cost the gateway."""
    before = process.cpu_seconds()
    run = wrk(port, duration, connections, headers)
    run["cpu"] = (process.cpu_seconds() - before) / max(run["requests"], 1)
    run["rss_kib"] = process.rss_kib()
    return run


def rounds(options, running, runs, start, warm_up, headers=()):
    """The rounds of one start: where the memory of a process lies makes a difference of some percent."""
    names = list(running)
    for name in names:
        wrk(GATEWAYS[name][0], warm_up, options.connections, headers)
    for number in range(options.rounds):
        turn = (start + number) % len(names)
        for name in names[turn:] + names[:turn]:
            port = GATEWAYS[name][0]
            runs[name].append(measured(running[name], port, options.seconds, options.connections, headers))


def ratio(name, runs, yardstick):
    """The median over rounds of this gateway's cost by the yardstick's in the same round."""
    if yardstick not in runs:
        return None
    pairs = zip(runs[name], runs[yardstick])
    return statistics.median(own["cpu"] / other["cpu"] for own, other in pairs)


def print_table(runs, yardstick):
    """Medians of all runs, printed and given back."""
    print(f"{'':22}{'CPU us/req':>11}{'ratio':>8}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}{'RSS MiB':>9}")
    table = {}
    for name in runs:
        row = {key: median(runs[name], key) for key in ("cpu", "rate", "p50", "p99", "rss_kib")}
        row["errors"] = sum(run["errors"] + run["refused"] for run in runs[name])
        row["ratio"] = ratio(name, runs, yardstick)
        table[name] = row
        shown = f"{row['ratio']:.3f}" if row["ratio"] else "-"
        print(
            f"{name:22}{row['cpu'] * 1e6:11.2f}{shown:>8}{row['rate']:9.0f}{row['p50'] * 1e3:9.2f}"
            f"{row['p99'] * 1e3:9.2f}{row['errors']:8}{row['rss_kib'] / 1024:9.1f}"
        )
    return table


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def machine():
    """What the figures were measured on, and with which versions."""

    def first_line(*command):
        done = subprocess.run(command, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    cpu = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    versions = {
        "machine": f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "nginx": first_line("nginx", "-v") if shutil.which("nginx") else "",
        "haproxy": first_line("haproxy", "-v") if shutil.which("haproxy") else "",
        "wrk": first_line("wrk", "-v"),
        "rustc": first_line("rustc", "-V"),
    }
    binary = target() / "northgate"
    if binary.exists():
        versions["northgate"] = first_line(str(binary), "--version")
    lock = re.search(r'name = "pingora-core"\nversion = "([^"]+)"', (ROOT / "Cargo.lock").read_text())
    versions["pingora"] = lock.group(1) if lock else "?"
    return {name: text for name, text in versions.items() if text}


def print_machine():
    for key, value in machine().items():
        print(f"{key + ':':11}{value}")


def save(path, result):
    if path:
        pathlib.Path(path).write_text(json.dumps(result, indent=2) + "\n")
