"""From settings to upstreams, and the check that tries each of them as a client would."""

import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList, TimeoutError, maybeDeferred
from twisted.logger import Logger

from mcpguard.config.settings import Settings, UpstreamSettings
from mcpguard.errors import ConfigurationError, Reason
from mcpguard.gateway.outward_tls import OutwardTls
from mcpguard.observe.events import Event, Meter, Recorder
from mcpguard.pipeline.pool import PooledSession
from mcpguard.pipeline.schemas import CLIENT_INFO, OneAnswer, gateway_meta
from mcpguard.protocol.mcp import LATEST_LEGACY, META_SERVER_INFO, MODERN_VERSIONS
from mcpguard.upstream.link import (
    Eras,
    InitializeRejected,
    Link,
    Message,
    Outbound,
    Upstream,
    UpstreamFailure,
)
from mcpguard.upstream.report import UpstreamReport

if TYPE_CHECKING:
    from mcpguard.upstream.url_upstream import UrlUpstream

log = Logger()

_MAX_PAGES = 50
_CHECKER = "mcp-guard:check-upstream"


def build_upstream(
    settings: UpstreamSettings,
    *,
    reactor: Any,
    meter: Meter,
    recorder: Recorder,
    tls: OutwardTls,
    environ: Mapping[str, str] | None = None,
    keep_sessions: bool = False,
) -> Upstream:
    """The upstream of one configured server, not yet started.

    ``tls`` has the trust and credentials for https servers. ``keep_sessions``: a stop does not end
    the sessions that can be taken up again later. Raises `ConfigurationError` for what cannot be
    used.
    """
    # Imported here: each kind is 1 MiB, and most gateways have servers of one kind only.
    if settings.transport == "stdio":
        from mcpguard.upstream.stdio import StdioUpstream

        return StdioUpstream(
            settings,
            reactor=reactor,
            meter=meter,
            recorder=recorder,
            random=random.random,
            environ=os.environ if environ is None else environ,
        )
    behind_url: type[UrlUpstream]
    if settings.transport == "sse":
        from mcpguard.upstream.sse import SseUpstream

        behind_url = SseUpstream
    else:
        from mcpguard.upstream.http import HttpUpstream

        behind_url = HttpUpstream
    return behind_url(
        settings,
        reactor=reactor,
        meter=meter,
        recorder=recorder,
        random=random.random,
        https=tls.upstream(settings),
        keep_sessions=keep_sessions,
    )


class _Silent:
    """A trail and meters for a check that is nobody's request."""

    def record(self, event: Event) -> None:
        """Nothing is kept."""

    def request(self, method: str, status: int, seconds: float) -> None:
        """Nothing is kept."""

    def auth(self, provider: str, result: str) -> None:
        """Nothing is kept."""

    def rate_limit(self, allowed: bool) -> None:
        """Nothing is kept."""

    def upstream(self, server: str, transport: str, result: str, seconds: float) -> None:
        """Nothing is kept."""

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Nothing is kept."""


async def check_upstreams(
    reactor: Any, settings: Settings, *, timeout: float, server: str | None = None
) -> Sequence[UpstreamReport]:
    """Shake hands with every configured server (or the named one) and list its tools.

    ``timeout`` is in seconds, for each server; all are tried at once and everything that was
    started is stopped again before this returns.
    """
    chosen = [one for one in settings.upstreams if server is None or one.name == server]
    checks = [Deferred.fromCoroutine(_check(reactor, one, timeout)) for one in chosen]
    results = await DeferredList(checks)
    return [report for _, report in results]


async def _check(reactor: Any, settings: UpstreamSettings, timeout: float) -> UpstreamReport:
    started = time.monotonic()
    silent = _Silent()
    tls = OutwardTls(reactor, silent, silent)
    try:
        upstream = build_upstream(settings, reactor=reactor, meter=silent, recorder=silent, tls=tls)
    except ConfigurationError as problem:
        return _report(settings, started, {}, "; ".join(problem.problems))
    tls.start()
    trying = Deferred.fromCoroutine(_try(upstream))
    trying.addTimeout(timeout, reactor)
    found: dict[str, Any] = {}
    error = ""
    try:
        found = await trying
    except TimeoutError:
        error = f"no answer within {timeout:g} seconds"
    except UpstreamFailure as failure:
        error = failure.detail or failure.reason.value.replace("_", " ")
    except InitializeRejected as rejected:
        error = f"the server refused the handshake: {rejected.error.get('message')}"
    except Exception as problem:
        log.failure("the check of {name} went wrong", name=settings.name)
        error = f"the check itself failed: {problem!r}"
    finally:
        # A child that ignores everything is killed by the ladder, which takes a few seconds.
        await maybeDeferred(upstream.stop)
        tls.stop()
    return _report(settings, started, found, error)


def _report(
    settings: UpstreamSettings, started: float, found: Mapping[str, Any], error: str
) -> UpstreamReport:
    return UpstreamReport(
        name=settings.name,
        transport=settings.transport,
        ok=not error,
        error=error,
        server_name=str(found.get("name", "")),
        server_version=str(found.get("version", "")),
        protocol=str(found.get("protocol", "")),
        eras=tuple(found.get("eras", ())),
        tools=tuple(found.get("tools", ())),
        seconds=time.monotonic() - started,
    )


async def _try(upstream: Upstream) -> dict[str, Any]:
    eras = await upstream.eras()
    names = (["handshake"] if eras.legacy else []) + (["stateless"] if eras.modern else [])
    if eras.legacy:
        session = PooledSession(on_closed=lambda _: None)
        params: Message = {
            "protocolVersion": LATEST_LEGACY,
            "capabilities": {},
            "clientInfo": dict(CLIENT_INFO),
        }
        opening = await upstream.open_session(_CHECKER, params, session, "")
        link = session.link = opening.link
        link.notify("notifications/initialized", None)
        info, protocol = opening.result.get("serverInfo"), opening.result.get("protocolVersion")
        capabilities = opening.result.get("capabilities")
        meta = None
    else:
        link = await upstream.stateless(_CHECKER, "")
        info, protocol, capabilities = _discovered(eras)
        if eras.discovered is None:
            # It is only said to be stateless (era = "modern"): its tools must show that it is.
            capabilities = {"tools": {}}
        meta = gateway_meta()
    try:
        listed = isinstance(capabilities, dict) and "tools" in capabilities
        tools = await _tools(link, str(protocol), meta) if listed else []
    finally:
        await link.close()
    known = info if isinstance(info, dict) else {}
    return {
        "name": known.get("name", ""),
        "version": known.get("version", ""),
        "protocol": protocol,
        "eras": names,
        "tools": tools,
    }


def _discovered(eras: Eras) -> tuple[Any, str, Any]:
    result = eras.discovered or {}
    meta = result.get("_meta")
    info = meta.get(META_SERVER_INFO) if isinstance(meta, dict) else None
    return info, eras.modern[0] if eras.modern else "", result.get("capabilities")


async def _tools(link: Link, version: str, meta: Message | None) -> list[str]:
    names: list[str] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        params: Message = {} if meta is None else {"_meta": meta}
        if cursor is not None:
            params["cursor"] = cursor
        sink = OneAnswer()
        link.request(
            Outbound(
                id=1,
                method="tools/list",
                params=params or None,
                version=version or MODERN_VERSIONS[0],
                principal_key=_CHECKER,
            ),
            sink,
        )
        answer = await sink.done
        result = answer.get("result")
        if not isinstance(result, dict):
            error = answer.get("error")
            words = error.get("message") if isinstance(error, dict) else "no result"
            raise UpstreamFailure(Reason.UPSTREAM_FAILED, f"tools/list: {words}")
        listed = result.get("tools")
        names += [
            tool["name"]
            for tool in (listed if isinstance(listed, list) else [])
            if isinstance(tool, dict) and isinstance(tool.get("name"), str)
        ]
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str):
            break
    return names
