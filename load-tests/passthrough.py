"""Plain proxying of 1 KiB, side by side; see passthrough.sh."""

import argparse

import bench

YARDSTICK = "bare pingora"


def main():
    options = arguments()
    names = bench.chosen(options.only)
    runs = {name: [] for name in names}
    for start in range(options.starts):
        with bench.setting(names, options.body) as (_, running):
            bench.rounds(options, running, runs, start, warm_up=2)
        print(f"start {start + 1} of {options.starts} done", flush=True)
    report(options, runs)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3, help="of all processes")
    parser.add_argument("--rounds", type=int, default=3, help="for each start")
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--body", type=int, default=1024, help="bytes of an answer")
    parser.add_argument("--only", default="", help="names separated by semicolons")
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--max-ratio", type=float, help="fail when `northgate` costs more than that")
    return parser.parse_args()


def report(options, runs):
    print()
    bench.print_machine()
    print(f"{options.body} bytes, {options.connections} connections, medians of {options.starts} x {options.rounds} x {options.seconds} s\n")
    table = bench.print_table(runs, YARDSTICK)
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "medians": table, "runs": runs})
    judge(options, table)


def judge(options, table):
    failed = [name for name, row in table.items() if row["errors"]]
    if failed:
        raise SystemExit(f"failed requests: {', '.join(failed)}")
    own = table.get("northgate", {}).get("ratio")
    if options.max_ratio and own and own > options.max_ratio:
        raise SystemExit(f"northgate costs {own:.3f} of bare Pingora, which is more than {options.max_ratio}")


if __name__ == "__main__":
    main()
