"""A client of PyPI's ``mcp`` 2.x whose one session stays open: it calls for each line it is told.

Arguments: URL, key. It writes what came of each call, a line each.
"""

import sys

import anyio
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


async def main(url: str, key: str) -> None:
    """Call until there are no more lines."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http), mode="legacy") as client,
    ):
        print("connected", flush=True)
        while line := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
            try:
                result = await client.call_tool("note", {"text": line})
            except Exception as error:
                print(f"{line}: {type(error).__name__}: {error}", flush=True)
            else:
                print(f"{line}: {result.content[0].text}", flush=True)


anyio.run(main, *sys.argv[1:])
