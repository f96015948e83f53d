"""A fastmcp proxy with a bearer token, as its documentation sets one up. Runs under its own Python.

    python fastmcp_peer.py --port N [--shared] (--url URL | -- COMMAND ARGUMENT...)

The token comes in the environment as BENCH_TOKEN. Without ``--shared`` the proxy opens a session
at the upstream for every request, which is what it does by itself.
"""

import argparse
import asyncio
import importlib
import os
from typing import Any


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal ends the process."""
    fastmcp: Any = importlib.import_module("fastmcp")
    server: Any = importlib.import_module("fastmcp.server")
    auth: Any = importlib.import_module("fastmcp.server.auth")
    transports: Any = importlib.import_module("fastmcp.client.transports")
    verifier = auth.StaticTokenVerifier({os.environ["BENCH_TOKEN"]: {"client_id": "bench"}})
    if options.url:
        target = options.url
    else:
        command, *args = options.command
        target = transports.StdioTransport(command=command, args=args)

    async def run(behind: Any) -> None:
        proxy = server.create_proxy(behind, name="bench", auth=verifier)
        await proxy.run_http_async(
            host="127.0.0.1", port=options.port, log_level="warning", show_banner=False
        )

    if options.shared:
        async with fastmcp.Client(target) as client:
            await run(client)
    else:
        await run(target)


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--url")
    parser.add_argument("command", nargs="*")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
