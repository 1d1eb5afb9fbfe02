"""The package `websockets` of PyPI: prints each message as it came, and connects again by itself."""

import asyncio
import sys

import websockets


async def main() -> None:
    async for connection in websockets.connect(sys.argv[1], max_size=None):
        try:
            async for text in connection:
                print(text, flush=True)
        except websockets.ConnectionClosed:
            continue


asyncio.run(main())
