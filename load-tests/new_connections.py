"""A new connection for each request, side by side; see new_connections.sh."""

import argparse

import bench

YARDSTICK = "nginx"
CLOSE = ["Connection: close"]


def main():
    options = arguments()
    names = bench.chosen(options.only)
    runs = {name: [] for name in names}
    for start in range(options.starts):
        with bench.setting(names) as (_, running):
            bench.rounds(options, running, runs, start, warm_up=1, headers=CLOSE)
        print(f"start {start + 1} of {options.starts} done", flush=True)
    print()
    bench.print_machine()
    print(f"one request for each connection, {options.connections} at a time, medians of {options.starts} x {options.rounds} x {options.seconds} s\n")
    table = bench.print_table(runs, YARDSTICK)
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "medians": table, "runs": runs})
    judge(options, table)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=2, help="of all processes")
    parser.add_argument("--rounds", type=int, default=3, help="for each start")
    parser.add_argument("--seconds", type=int, default=2, help="of each run")
    parser.add_argument("--connections", type=int, default=50, help="at a time")
    parser.add_argument("--only", default="bare pingora; northgate; nginx; haproxy", help="names separated by semicolons")
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--max-ratio", type=float, help="fail when `northgate` costs more than that of nginx")
    return parser.parse_args()


def judge(options, table):
    failed = [name for name, row in table.items() if row["errors"]]
    if failed:
        raise SystemExit(f"failed requests: {', '.join(failed)}")
    own = table.get("northgate", {}).get("ratio")
    if options.max_ratio and own and own > options.max_ratio:
        raise SystemExit(f"northgate costs {own:.3f} of nginx, which is more than {options.max_ratio}")


if __name__ == "__main__":
    main()
