"""Three times the load that can be served; see overload.sh."""

import argparse
import asyncio
import collections
import pathlib
import statistics
import tempfile
import time
import urllib.request

import bench

PLACES, SPENT = 10, 0.1
PATIENCE = 1.0
RATES = (50, 100, 300)
PORT, ORIGIN, OPERATORS = 18120, 18121, 18122

CONFIG = """version: 1
threads: 1
admin: {{address: "unix:{folder}/admin.sock"}}
listeners:
  public: {{address: 127.0.0.1:{port}}}
  operators: {{address: 127.0.0.1:{operators}, serve: [health, metrics]}}
{overload}
services:
  app: {{endpoints: 127.0.0.1:{origin}, retries: off, outlier: off}}
routes:
  all: {{match: {{path: /**}}, service: app}}
"""


async def origin():
    """Serves so many at a time, and lets others wait. As most, it works for those too who have left by then."""
    places = asyncio.Semaphore(PLACES)

    async def serve(reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                async with places:
                    await asyncio.sleep(SPENT)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", ORIGIN, backlog=4096)


async def ask():
    """One request on a connection of its own: its status, or what became of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return int((await reader.readline()).split(b" ")[1])
    finally:
        writer.close()


async def client(rate, seconds):
    """Asks so often, whatever the answers. Tells how each request ended, and how long those took that were served."""
    ends, times = collections.Counter(), []

    async def one():
        began = time.monotonic()
        try:
            status = await asyncio.wait_for(ask(), PATIENCE)
        except asyncio.TimeoutError:
            status = "gave up"
        except (OSError, IndexError, ValueError):
            status = "broken"
        ends[status] += 1
        if status == 200:
            times.append(time.monotonic() - began)

    begin, asked, running = time.monotonic(), 0, set()
    while (passed := time.monotonic() - begin) < seconds:
        while asked < passed * rate:
            running.add(asyncio.ensure_future(one()))
            asked += 1
        running = {task for task in running if not task.done()}
        await asyncio.sleep(0.002)
    await asyncio.gather(*running)
    return ends, sorted(times)


async def run(overload, rate, seconds):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = folder / "northgate.yaml"
        ports = {"port": PORT, "origin": ORIGIN, "operators": OPERATORS}
        config.write_text(CONFIG.format(folder=folder, overload=overload, **ports))
        gateway_core, _ = bench.cores()
        server = await origin()
        gateway = bench.Process("northgate", [bench.target() / "northgate", "run", "-c", config], gateway_core, folder)
        try:
            for _ in range(200):
                await asyncio.sleep(0.05)
                try:
                    await asyncio.to_thread(metrics)
                    break
                except OSError:
                    continue
            before = gateway.cpu_seconds()
            ends, times = await client(rate, seconds)
            used = gateway.cpu_seconds() - before
            return {
                "served": ends[200] / seconds,
                "refused": ends[503] / seconds,
                "gave_up": ends["gave up"] / seconds,
                "broken": ends["broken"],
                "p50": statistics.median(times) if times else None,
                "p99": times[int(len(times) * 0.99)] if times else None,
                "cpu": used / seconds,
                "rss_kib": gateway.rss_kib(),
            }
        finally:
            gateway.child.terminate()
            gateway.child.wait()
            server.close()


def metrics():
    with urllib.request.urlopen(f"http://127.0.0.1:{OPERATORS}/metrics", timeout=5) as answer:
        return answer.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=15, help="of each run")
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    bench.print_machine()
    heads = ("asked/s", "served/s", "refused/s", "gave up/s", "p50 ms", "p99 ms", "core %", "MiB")
    print(f"\n{'':24}" + "".join(f"{head:>11}" for head in heads))
    runs = {}
    for name, overload in (("no limit", ""), ("requests: 12", "overload: {requests: 12}")):
        for rate in RATES:
            found = asyncio.run(run(overload, rate, options.seconds))
            runs[f"{name}, {rate}/s"] = found
            own = [rate, found["served"], found["refused"], found["gave_up"]]
            own += [1000 * (found[key] or 0) for key in ("p50", "p99")]
            own += [100 * found["cpu"], found["rss_kib"] / 1024]
            print(f"{name:24}" + "".join(f"{figure:11.1f}" for figure in own))
    bench.save(options.json, {"setting": bench.machine(), "options": vars(options), "runs": runs})


if __name__ == "__main__":
    main()
