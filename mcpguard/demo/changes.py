"""What has changed, and who asked to be told: resource subscriptions of either era."""

import threading
from collections.abc import Callable, Iterable

Deliver = Callable[[str, dict[str, object]], None]
"""Sends one notification: method and params. Must not block for long and must not raise."""


class Watcher:
    """One party that is told about changes: a legacy session, or one ``subscriptions/listen``."""

    def __init__(
        self,
        deliver: Deliver,
        *,
        lists: bool,
        uris: Iterable[str],
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self.deliver = deliver
        self.end = end
        """Called when the server stops and nothing more will change."""
        self.lists = lists
        """Whether it wants ``notifications/resources/list_changed``."""
        self.uris = set(uris)


class Changes:
    """The board on which tools post changes, read by at most ``max_watchers`` watchers."""

    def __init__(self, *, max_watchers: int) -> None:
        self._max_watchers = max_watchers
        self._watchers: set[Watcher] = set()
        self._lock = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        """How many times something was echoed or written: the text of ``demo://counter``."""
        return self._count

    def watch(self, watcher: Watcher, opening: Callable[[], None] = lambda: None) -> bool:
        """Start telling ``watcher``; false when there are too many already.

        ``opening`` runs before anything can be delivered, and nothing posted after it is missed.
        """
        with self._lock:
            if len(self._watchers) >= self._max_watchers:
                return False
            opening()
            self._watchers.add(watcher)
            return True

    def forget(self, watcher: Watcher) -> None:
        """Stop telling ``watcher``."""
        with self._lock:
            self._watchers.discard(watcher)

    def counted(self) -> None:
        """Something was echoed or written."""
        with self._lock:
            self._count += 1
        self.updated("demo://counter")

    def updated(self, uri: str) -> None:
        """The resource ``uri`` has new contents."""
        with self._lock:
            interested = [watcher for watcher in self._watchers if uri in watcher.uris]
        for watcher in interested:
            watcher.deliver("notifications/resources/updated", {"uri": uri})

    def relisted(self) -> None:
        """The list of resources has changed."""
        with self._lock:
            interested = [watcher for watcher in self._watchers if watcher.lists]
        for watcher in interested:
            watcher.deliver("notifications/resources/list_changed", {})

    def end(self) -> None:
        """The server stops: tell every watcher."""
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.end()
