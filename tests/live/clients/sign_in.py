"""Clients of PyPI's ``mcp`` 1.x or 2.x that sign in: by a token, a certificate, or OAuth discovery.

Jobs on stdin: ``{"jobs": {name: {"url", "token"?, "ca"?, "certificate"?, "key"?, "oauth"?,
"call": [tool, arguments]}}}``; ``oauth`` is ``{"client_id", "client_secret", "issuer", "scope"}``:
the client knows its credentials and finds everything else by what the gateway says, here also the
scopes. The report on stdout:
``{name: {"tools": [...], "called": text} or {"error": words}}``.
"""

import json
import ssl
import sys
import warnings
from typing import Any

import anyio
from mcp import ClientSession
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client

try:
    import httpx2 as httpx
    from mcp.client.client import Client
except ImportError:
    import httpx

    Client = None

warnings.simplefilter("ignore")


class Kept:
    """Tokens for as long as the program runs."""

    def __init__(self) -> None:
        self.tokens: Any = None
        self.client: Any = None

    async def get_tokens(self) -> Any:
        """What was stored."""
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        """Store."""
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        """What was stored."""
        return self.client

    async def set_client_info(self, client_info: Any) -> None:
        """Store."""
        self.client = client_info


def http_client(job: dict[str, Any]) -> Any:
    """What the transport sends its requests by."""
    how: dict[str, Any] = {"timeout": 20}
    if "token" in job:
        how["headers"] = {"Authorization": f"Bearer {job['token']}"}
    if "ca" in job:
        context = ssl.create_default_context(cafile=job["ca"])
        if "certificate" in job:
            context.load_cert_chain(job["certificate"], job["key"])
        how["verify"] = context
    if "oauth" in job:
        known = job["oauth"]
        how["auth"] = ClientCredentialsOAuthProvider(
            server_url=job["url"],
            storage=Kept(),
            client_id=known["client_id"],
            client_secret=known["client_secret"],
            issuer=known["issuer"],
        )
    return httpx.AsyncClient(**how)


async def sign_in(job: dict[str, Any]) -> dict[str, Any]:
    """Sign in, list the tools and call one."""
    tool, arguments = job["call"]
    async with http_client(job) as http:
        if Client is not None:
            async with Client(streamable_http_client(job["url"], http_client=http)) as client:
                tools = [one.name for one in (await client.list_tools()).tools]
                called = await client.call_tool(tool, arguments)
        else:
            async with (
                streamable_http_client(job["url"], http_client=http) as (read, write, _),
                ClientSession(read, write) as session,
            ):
                await session.initialize()
                tools = [one.name for one in (await session.list_tools()).tools]
                called = await session.call_tool(tool, arguments)
    return {"tools": tools, "called": called.content[0].text}


def innermost(error: BaseException) -> BaseException:
    """What is wrapped by task groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def main() -> None:
    """Do the jobs at the same time."""
    jobs = json.load(sys.stdin)["jobs"]
    report: dict[str, Any] = {}

    async def do(name: str, job: dict[str, Any]) -> None:
        try:
            with anyio.fail_after(30):
                report[name] = await sign_in(job)
        except BaseException as error:
            found = innermost(error)
            report[name] = {"error": f"{type(found).__name__}: {found}"}

    async with anyio.create_task_group() as group:
        for name, job in jobs.items():
            group.start_soon(do, name, job)
    json.dump(report, sys.stdout)


anyio.run(main)
