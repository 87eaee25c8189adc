"""Reloads while requests come in; see reload_under_load.sh."""

import argparse
import re
import subprocess
import threading
import time

import bench

NAME = "northgate"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--interval", type=float, default=0.1, help="seconds between two reloads")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    port = bench.GATEWAYS[NAME][0]
    with bench.setting([NAME]) as (folder, running):
        quiet = load(port, options, lambda: None)
        reloads = Reloads(folder / "northgate.yaml", options.interval)
        storm = load(port, options, reloads.one)
        storm["reloads"], storm["refused_reloads"] = reloads.accepted, reloads.refused
        rss = running[NAME].rss_kib()
    show(options, quiet, storm, rss)
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "quiet": quiet, "storm": storm})
    failed = storm["kept"]["errors"] + storm["kept"]["refused"] + storm["new"]["errors"] + storm["new"]["refused"]
    if failed or reloads.refused or not reloads.accepted:
        raise SystemExit("requests or reloads failed")


class Reloads:
    """Rewrites the configuration with a route that was not there before, and asks for a reload."""

    def __init__(self, path, interval):
        self.path, self.interval = path, interval
        self.text = path.read_text()
        self.accepted = self.refused = 0

    def one(self):
        number = self.accepted + self.refused
        route = f"\n  turn{number}: {{match: {{path: /turn/{number}}}, respond: 204}}\n"
        routes = re.search(r"routes: \{(.*)\}\n", self.text).group(1)
        self.path.write_text(re.sub(r"routes: .*\n", lambda _: f"routes:\n  {routes}{route}", self.text))
        command = [bench.target() / "northgate", "reload", "-c", self.path]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr)
            self.refused += 1
        else:
            self.accepted += 1
        time.sleep(self.interval)


def load(port, options, meanwhile):
    """Kept and new connections at once; `meanwhile` runs again and again until they are done."""
    found = {}
    duration = options.seconds

    def kept():
        found["kept"] = bench.wrk(port, duration, options.connections)

    def new():
        found["new"] = bench.wrk(port, duration, 4, ["Connection: close"])

    threads = [threading.Thread(target=job) for job in (kept, new)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        meanwhile()
        time.sleep(0.01)
    return found


def show(options, quiet, storm, rss):
    for key, value in bench.machine().items():
        print(f"{key + ':':11}{value}")
    print(f"{storm['reloads']} reloads in {options.seconds} s, {storm['refused_reloads']} refused, RSS {rss / 1024:.1f} MiB\n")
    print(f"{'':28}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    for title, found in (("quiet", quiet), ("reloading", storm)):
        for kind in ("kept", "new"):
            run = found[kind]
            errors = run["errors"] + run["refused"]
            print(
                f"{title + ', ' + kind + ' connections':28}{run['rate']:9.0f}{run['p50'] * 1e3:9.2f}"
                f"{run['p99'] * 1e3:9.2f}{errors:8}"
            )


if __name__ == "__main__":
    main()
