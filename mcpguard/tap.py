"""``twistd mcp-guard``: reads the settings and hands them to the gateway, nothing else."""

import os
from datetime import UTC, datetime
from pathlib import Path

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python import usage

from mcpguard.config.load import Loaded, expired_keys, load, with_listener
from mcpguard.errors import ConfigurationError

log = Logger()


class Options(usage.Options):
    """The command line of ``twistd mcp-guard``."""

    synopsis = "[--config FILE] [--host ADDRESS] [--port PORT]"
    longdesc = "Security gateway in front of MCP servers."
    optParameters = [
        ["config", "c", "mcp-guard.toml", "Configuration file; YAML by .yaml or .yml."],
        ["host", None, None, "Listen here instead of [server] host."],
        ["port", None, None, "Instead of [server] port; 0 = any free one.", int],
    ]
    compData = usage.Completions(optActions={"config": usage.CompleteFiles()})

    loaded: Loaded
    path: Path
    """Absolute: twistd changes directory when it goes into the background."""

    def postOptions(self) -> None:
        """Read the configuration now: twistd shows a UsageError and exits with status 1.

        Raised later, out of `makeService`, it would be a traceback.
        """
        path = Path(self["config"])
        self.path = path.absolute()
        try:
            self.loaded = self.read()
        except ConfigurationError as error:
            problems = "".join(f"\n  - {problem}" for problem in error.problems)
            raise usage.UsageError(f"cannot use the configuration {path}:{problems}") from None

    def read(self) -> Loaded:
        """Read the configuration; raises `ConfigurationError`."""
        loaded = load(self.path, environ=os.environ, now=datetime.now(UTC))
        return with_listener(loaded, self["host"], self["port"])


def makeService(options: Options) -> IService:
    """Build the gateway that the options describe."""
    # twistd has chosen its reactor by now; importing it earlier would choose for it.
    from twisted.internet import reactor

    from mcpguard.gateway import Gateway, settle_down, worker_count

    loaded = options.loaded
    for warning in loaded.warnings + expired_keys(loaded.settings, datetime.now(UTC)):
        log.warn("{warning}", warning=warning)
    if worker_count(loaded.settings) == 1:
        gateway = Gateway(loaded.settings, reactor)
        gateway.started.addCallback(lambda _: settle_down())
        return gateway
    # Here, not above: a gateway of one process does without.
    from mcpguard.gateway.parent import WorkerParent

    # Once the reactor runs, twistd has no way to end with a status that says that it failed.
    return WorkerParent(
        loaded.settings, reactor, reread=options.read, log_level="info", keep_trying=True
    )
