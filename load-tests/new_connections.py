"""A new connection for each request, side by side; see new_connections.sh."""

import argparse

import bench

YARDSTICK = "nginx"
CLOSE = ["Connection: close"]


def main():
    options = arguments()
    names = bench.chosen(options.only)
    closing, keeping = ({name: [] for name in names} for _ in range(2))
    for start in range(options.starts):
        with bench.setting(names) as (_, running):
            bench.rounds(options, running, keeping, start, warm_up=1)
            bench.rounds(options, running, closing, start, warm_up=1, headers=CLOSE)
        print(f"start {start + 1} of {options.starts} done", flush=True)
    print()
    bench.print_machine()
    print(f"{options.connections} connections at a time, medians of {options.starts} x {options.rounds} x {options.seconds} s")
    print("\nrequests on connections that are kept")
    kept = bench.print_table(keeping, YARDSTICK)
    print("\none request for each connection")
    closed = bench.print_table(closing, YARDSTICK)
    print("\nthe connection alone: the difference")
    alone = {name: closed[name]["cpu"] - kept[name]["cpu"] for name in names}
    for name in names:
        shown = f"{alone[name] / alone[YARDSTICK]:.3f}" if YARDSTICK in alone else "-"
        print(f"{name:22}{alone[name] * 1e6:11.2f}{shown:>8}")
    tables = {"kept": kept, "closed": closed, "alone": alone}
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "medians": tables})
    judge(options, tables)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=2, help="of all processes")
    parser.add_argument("--rounds", type=int, default=3, help="for each start")
    parser.add_argument("--seconds", type=int, default=2, help="of each run")
    parser.add_argument("--connections", type=int, default=50, help="at a time")
    parser.add_argument("--only", default="bare pingora; northgate; nginx; haproxy", help="names separated by semicolons")
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--max-ratio", type=float, help="fail when a connection alone costs more than that of nginx's")
    return parser.parse_args()


def judge(options, tables):
    failed = [name for kind in ("kept", "closed") for name, row in tables[kind].items() if row["errors"]]
    if failed:
        raise SystemExit(f"failed requests: {', '.join(failed)}")
    alone = tables["alone"]
    if options.max_ratio and {"northgate", YARDSTICK} <= set(alone):
        own = alone["northgate"] / alone[YARDSTICK]
        if own > options.max_ratio:
            raise SystemExit(f"a connection costs {own:.3f} of nginx's, which is more than {options.max_ratio}")


if __name__ == "__main__":
    main()
