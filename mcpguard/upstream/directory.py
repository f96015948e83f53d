"""Every upstream by path and by name: ``/mcp``, ``/mcp/<prefix>``, ``/mcp/<name>``."""

from collections.abc import Mapping, Sequence
from typing import Any

from mcpguard.config.settings import UpstreamSettings
from mcpguard.errors import ConfigurationError
from mcpguard.upstream.link import Route, Upstream
from mcpguard.upstream.paths import split_path

ROOT = "mcp"
DEFAULT_NAME = "default"


class _Mount:
    """One place below ``/mcp`` where an upstream is served."""

    def __init__(self, settings: UpstreamSettings, upstream: Upstream, segments: tuple[str, ...]):
        self.upstream = upstream
        self.segments = segments
        self.public_path = "/".join(("", ROOT, *segments))
        # By name or by prefix, the server sees the same path: the configured prefix if it has one.
        self.prefix = "" if settings.strip_prefix else settings.path_prefix or f"/{settings.name}"
        self.takes_remainder = settings.transport != "stdio"


class UpstreamDirectory:
    """Implements `link.Directory` over the configured servers, in file order.

    Raises `ConfigurationError` when two of them would be served at one path.
    """

    def __init__(self, entries: Sequence[tuple[UpstreamSettings, Upstream]]) -> None:
        self._entries = tuple(entries)
        self._default: _Mount | None = None
        self._mounts: dict[tuple[str, ...], _Mount] = {}
        problems: list[str] = []
        for settings, upstream in self._entries:
            if settings.name == DEFAULT_NAME and settings.path_prefix is None:
                self._default = _Mount(settings, upstream, ())
            by_name, by_prefix = f"/{settings.name}", settings.path_prefix
            for path in dict.fromkeys((by_name, by_prefix or by_name)):
                segments = split_path(path)
                if segments is None and path == by_name and by_prefix is not None:
                    continue  # a name with a space, say: reachable by its prefix only
                if segments is None:
                    problems.append(f"upstream {settings.name!r}: {path!r} cannot be a path")
                elif segments in self._mounts:
                    problems.append(
                        f"upstream {settings.name!r}: {path!r} is taken by "
                        f"{self._mounts[segments].upstream.name!r}"
                    )
                else:
                    self._mounts[segments] = _Mount(settings, upstream, segments)
        if problems:
            raise ConfigurationError(tuple(problems))
        self._deepest = max((len(segments) for segments in self._mounts), default=0)

    def resolve(self, path: str) -> Route | None:
        """See `link.Directory`; None for a path that could be read in two ways.

        ``/mcp`` itself is the server named ``default`` without a prefix. A remainder goes behind
        the upstream's URL, with the prefix unless ``strip_prefix``; stdio servers take none.
        """
        segments = split_path(path)
        if segments is None or segments[0] != ROOT:
            return None
        rest = segments[1:]
        if not rest:
            mount = self._default
            return None if mount is None else Route(mount.upstream, "", mount.public_path)
        for depth in range(min(len(rest), self._deepest), 0, -1):
            mount = self._mounts.get(rest[:depth])
            if mount is None:
                continue
            remainder = rest[depth:]
            if not remainder:
                return Route(mount.upstream, "", mount.public_path)
            if not mount.takes_remainder:
                return None
            behind = mount.prefix + "/" + "/".join(remainder)
            return Route(mount.upstream, behind, mount.public_path)
        return None

    @property
    def upstreams(self) -> Sequence[Upstream]:
        """All, in file order."""
        return tuple(upstream for _, upstream in self._entries)

    @property
    def public_paths(self) -> Sequence[str]:
        """Every path at which a server is served: ``/mcp``, by prefix, by name; in file order."""
        default = () if self._default is None else (self._default.public_path,)
        return (*default, *(mount.public_path for mount in self._mounts.values()))

    def describe(self) -> Sequence[Mapping[str, Any]]:
        """The rows of ``/routes``: name, path, transport, usable."""
        return tuple(
            {
                "name": upstream.name,
                "path": self._public_path(settings),
                "transport": upstream.transport,
                "usable": upstream.standing.usable,
            }
            for settings, upstream in self._entries
        )

    @staticmethod
    def _public_path(settings: UpstreamSettings) -> str:
        if settings.path_prefix is None and settings.name == DEFAULT_NAME:
            return f"/{ROOT}"
        return f"/{ROOT}{settings.path_prefix or f'/{settings.name}'}"
