"""What a worker is told when it begins: its place and its settings, over the control channel."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, field, frozen

from mcpguard.config.settings import Settings

_CLASSES = frozenset(
    {
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("ipaddress", "IPv4Network"),
        ("ipaddress", "IPv6Network"),
        ("pathlib", "Path"),
        ("pathlib", "PosixPath"),
    }
)
"""What settings are made of besides their own classes."""


@frozen
class Assignment:
    """One worker's place, and what it serves."""

    number: int
    """1 to `workers`."""
    life: int
    """As in `control.Peer`."""
    workers: int
    settings: Settings = field(repr=False)
    """Those of the file, with a ``session_key`` in any case: all workers share one."""
    directory: Path
    """A private directory (mode 0700) that all workers share while the parent lives."""
    settle_secs: float
    """How long to wait for the upstreams before connections are accepted."""

    def pack(self) -> dict[str, Any]:
        """As plain data for the control channel."""
        packed = asdict(self, recurse=False)
        return {**packed, "directory": str(self.directory), "settings": pickle.dumps(self.settings)}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> "Assignment":
        """From what `pack` gave; raises when it is anything else."""
        settings = _Settings(io.BytesIO(packed["settings"])).load()
        if not isinstance(settings, Settings):
            raise TypeError("no settings")
        return cls(**{**packed, "directory": Path(packed["directory"]), "settings": settings})


class _Settings(pickle.Unpickler):
    """Makes settings and nothing else, although only the parent process can send any."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The classes of settings, by name."""
        if module_name == Settings.__module__ or (module_name, global_name) in _CLASSES:
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of settings")
