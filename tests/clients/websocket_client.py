"""A WebSocket client of another make. Arguments: URL, scenario, and what it needs. Exits with 1 if it fails."""

import asyncio
import os
import sys

import websockets


def connect(path="", **more):
    return websockets.connect(
        sys.argv[1] + path, max_size=64 << 20, open_timeout=10, close_timeout=10, ping_interval=None, **more
    )


async def talk():
    async with connect(subprotocols=["chat"]) as socket:
        assert socket.subprotocol == "chat"
        for message in ["hello", "", "ä" * 70_000, b"\x00" * 125, b"\x01" * 126, os.urandom(8 << 20)]:
            await socket.send(message)
            answer = await asyncio.wait_for(socket.recv(), 30)
            assert answer == message, (type(message), len(message))
        await socket.send(iter(["in ", "three ", "parts"]))
        assert await asyncio.wait_for(socket.recv(), 10) == "in three parts"
        await asyncio.wait_for(await socket.ping(), 10)
    assert socket.close_code == 1000, socket.close_code


async def many():
    async def one(number):
        async with connect() as socket:
            for turn in range(20):
                await socket.send(f"{number}.{turn}")
                assert await asyncio.wait_for(socket.recv(), 30) == f"{number}.{turn}"

    await asyncio.gather(*(one(number) for number in range(30)))


async def closed_by_server():
    async with connect("/bye") as socket:
        await socket.send("x")
        try:
            await asyncio.wait_for(socket.recv(), 10)
            raise AssertionError("it was not closed")
        except websockets.ConnectionClosed:
            pass
    assert (socket.close_code, socket.close_reason) == (4001, "enough"), socket.close_code


async def until_closed():
    """Says "open", and then how it was closed."""
    async with connect() as socket:
        await socket.send("x")
        assert await asyncio.wait_for(socket.recv(), 10) == "x"
        print("open", flush=True)
        try:
            await asyncio.wait_for(socket.recv(), 30)
        except websockets.ConnectionClosed:
            pass
    print(socket.close_code, flush=True)


async def too_long():
    """A text of a KiB passes, what is longer in any of its ways ends it with 1009."""
    async def closed_by(message):
        async with connect() as socket:
            await socket.send("y" * 1024)
            assert await asyncio.wait_for(socket.recv(), 10) == "y" * 1024
            await socket.send(message)
            try:
                answer = await asyncio.wait_for(socket.recv(), 10)
                raise AssertionError(f"{len(answer)} bytes came")
            except websockets.ConnectionClosed:
                pass
        assert socket.close_code == 1009, socket.close_code

    await closed_by("x" * 1025)
    await closed_by(os.urandom(1 << 20))
    await closed_by(iter(["x" * 600, "x" * 600]))
    await closed_by("twice" + "x" * 600)


async def patient():
    async with connect() as socket:
        await socket.send("before")
        assert await asyncio.wait_for(socket.recv(), 10) == "before"
        await asyncio.sleep(float(sys.argv[3]))
        await socket.send("after")
        assert await asyncio.wait_for(socket.recv(), 10) == "after"


async def refused():
    more = {"origin": sys.argv[4]} if len(sys.argv) > 4 else {}
    try:
        async with connect(**more):
            status = 101
    except websockets.InvalidStatusCode as error:
        status = error.status_code
    assert status == int(sys.argv[3]), status


asyncio.run(
    {
        "talk": talk,
        "many": many,
        "closed_by_server": closed_by_server,
        "patient": patient,
        "too_long": too_long,
        "until_closed": until_closed,
        "status": refused,
    }[sys.argv[2]]()
)
print("ok")
