"""The cost of limits on a route; see limits.sh."""

import argparse

import bench

BARE = "no limit"
KINDS = {"sliding window": "", "token bucket": ", algorithm: token_bucket"}


def command(limits, settings):
    """A gateway whose route has so many limits, none of which refuses."""

    def made(folder, port):
        name = f"limits-{port}"
        path = bench.northgate_config(folder, name, port, "off")
        policies = [f"rate_limit.l{at}: {{limit: 1000000000/1m, by: client_address{settings}}}" for at in range(limits)]
        text = path.read_text().replace("service: app}", f"service: app, policies: {{{', '.join(policies)}}}}}")
        path.write_text(text)
        return [bench.target() / "northgate", "run", "-c", path]

    return made


def gateways():
    found = {BARE: (18100, command(0, ""))}
    for kind, settings in KINDS.items():
        for limits in (1, 3, 5):
            found[f"{limits} x {kind}"] = (18100 + len(found), command(limits, settings))
    return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3, help="of all processes")
    parser.add_argument("--rounds", type=int, default=3, help="for each start")
    parser.add_argument("--seconds", type=int, default=2, help="of each run")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--json", help="a file for the figures")
    return parser.parse_args()


def main():
    options = arguments()
    bench.GATEWAYS.clear()
    bench.GATEWAYS.update(gateways())
    names = list(bench.GATEWAYS)
    runs = {name: [] for name in names}
    for start in range(options.starts):
        with bench.setting(names) as (_, running):
            bench.rounds(options, running, runs, start, warm_up=1)
    report(options, runs)


def report(options, runs):
    bench.print_machine()
    print(f"\n{'':22}{'CPU us/req':>11}{'ratio':>8}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    failed = []
    for name, own in runs.items():
        ratio = bench.statistics.median(run["cpu"] / bare["cpu"] for run, bare in zip(own, runs[BARE]))
        errors = sum(run["errors"] + run["refused"] for run in own)
        failed += [name] if errors else []
        cpu, rate, p50, p99 = (bench.median(own, key) for key in ("cpu", "rate", "p50", "p99"))
        print(f"{name:22}{cpu * 1e6:11.2f}{ratio:8.3f}{rate:9.0f}{p50 * 1e3:9.2f}{p99 * 1e3:9.2f}{errors:8}")
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "runs": runs})
    if failed:
        raise SystemExit(f"failed requests: {', '.join(failed)}")


if __name__ == "__main__":
    main()
