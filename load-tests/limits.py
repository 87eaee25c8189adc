"""The cost of limits on a route; see limits.sh."""

import argparse
import contextlib
import pathlib
import tempfile

import bench

BARE = "no limit"
KINDS = {"sliding window": "", "token bucket": ", algorithm: token_bucket"}
REDIS = 18099
# none of which refuses
OTHERS = {
    "quota": "quota: {limit: 1000000000/month, by: client_address}",
    "concurrency": "concurrency: {limit: 1000, by: client_address}",
    "shared, by leases": "rate_limit: {limit: 1000000000/1m, by: client_address, store: shared}",
    "shared, exact": "rate_limit: {limit: 1000000000/1m, by: client_address, store: shared, exact: on}",
}


def command(policies):
    """A gateway whose route has these policies."""

    def made(folder, port):
        name = f"limits-{port}"
        path = bench.northgate_config(folder, name, port, "off")
        text = path.read_text().replace("service: app}", f"service: app, policies: {{{', '.join(policies)}}}}}")
        if "store: shared" in text:
            # a deadline that a busy core does not miss
            text += f'stores: {{shared: {{redis: "redis://127.0.0.1:{REDIS}", timeout: 1s}}}}\n'
        path.write_text(text)
        state = folder / f"{name}.state"
        state.mkdir(exist_ok=True)
        return ["env", f"STATE_DIRECTORY={state}", bench.target() / "northgate", "run", "-c", path]

    return made


def gateways():
    found = {BARE: (18100, command([]))}
    for kind, settings in KINDS.items():
        for limits in (1, 3, 5):
            written = f"{{limit: 1000000000/1m, by: client_address{settings}}}"
            policies = [f"rate_limit.l{at}: {written}" for at in range(limits)]
            found[f"{limits} x {kind}"] = (18100 + len(found), command(policies))
    for name, policy in OTHERS.items():
        found[name] = (18100 + len(found), command([policy]))
    return found


@contextlib.contextmanager
def redis():
    """Beside the load generator, on its core."""
    command = ["redis-server", "--port", REDIS, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder:
        server = bench.Process("redis", command, bench.cores()[1], pathlib.Path(folder))
        try:
            yield
        finally:
            server.end()


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
    with redis():
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
