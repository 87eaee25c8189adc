"""A WebSocket server of another make: python3-websockets. Prints its port."""

import asyncio
import sys

import websockets


async def serve(socket, path=None):
    path = path or socket.path
    if path.endswith("/bye"):
        await socket.recv()
        await socket.close(code=4001, reason="enough")
        return
    async for message in socket:
        # a message of this beginning is answered with more than itself
        await socket.send(message * 2 if message[:5] == "twice" else message)


async def main():
    async with websockets.serve(
        serve, sys.argv[1], 0, max_size=64 << 20, subprotocols=["chat"], ping_interval=None
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main())
