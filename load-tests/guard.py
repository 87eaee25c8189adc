"""What the guard costs; see guard.sh."""

import argparse
import re
import subprocess

import bench

NAMES = ["bare pingora", "bare edge", "northgate"]

# the heads of the bench that stand for what clients send
HEADS = ("head/small", "head/browser")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3, help="of all processes")
    parser.add_argument("--rounds", type=int, default=4, help="for each start")
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--max-share", type=float, help="fail when a head takes more than that share of a request")
    options = parser.parse_args()
    names = bench.chosen("; ".join(NAMES))
    runs = {name: [] for name in names}
    for start in range(options.starts):
        with bench.setting(names) as (_, running):
            bench.rounds(options, running, runs, start, warm_up=2)
        print(f"start {start + 1} of {options.starts} done", flush=True)
    heads = scans()
    report(options, runs, heads)


def scans():
    """Nanoseconds for each head, by the bench."""
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "edge", "--", "head/", "--quick", "--noplot"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=bench.ROOT).stdout
    units = {"ps": 1e-3, "ns": 1, "µs": 1e3, "us": 1e3, "ms": 1e6}
    found = re.findall(r"^(head/\S+)\s+time:\s+\[\S+ \S+ ([\d.]+) (\S+) ", text, re.MULTILINE)
    return {name: float(number) * units[unit] for name, number, unit in found}


def report(options, runs, heads):
    print()
    bench.print_machine()
    print(f"1 KiB, {options.connections} connections that stay open, medians of {options.starts} x {options.rounds} x {options.seconds} s\n")
    print(f"{'':22}{'CPU us/req':>11}{'ratio':>8}{'errors':>8}")
    table = {}
    for name, own in runs.items():
        pairs = zip(own, runs["bare pingora"])
        row = {
            "cpu": bench.median(own, "cpu"),
            "ratio": bench.statistics.median(run["cpu"] / bare["cpu"] for run, bare in pairs),
            "errors": sum(run["errors"] + run["refused"] for run in own),
        }
        table[name] = row
        print(f"{name:22}{row['cpu'] * 1e6:11.2f}{row['ratio']:8.3f}{row['errors']:8}")
    whole = table["northgate"]["cpu"] * 1e9
    print("\nlooking at a head, and its share of what a request costs northgate")
    for name, nanoseconds in heads.items():
        print(f"{name:30}{nanoseconds:9.0f} ns{nanoseconds / whole:9.2%}")
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "medians": table, "heads": heads})
    if any(row["errors"] for row in table.values()):
        raise SystemExit("there were failed requests")
    shares = [heads[name] / whole for name in HEADS if name in heads]
    if options.max_share and shares and max(shares) > options.max_share:
        raise SystemExit(f"a head takes {max(shares):.2%} of a request, which is more than {options.max_share:.2%}")


if __name__ == "__main__":
    main()
