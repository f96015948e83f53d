"""What a child writes that is no protocol: stderr, and banners on stdout, on the way to the log."""

from collections.abc import Callable

from attrs import define, field

from mcpguard.policy.buckets import Level, Rate, take

MARGIN = 1024
"""Bytes looked at beyond what is kept, at least."""

SHORTEST_SECRET = 6
"""Shorter values ("1", "true") are no secrets, and replacing them would garble every line."""


@define
class Chatter:
    """Text in arbitrary chunks in, lines out to ``emit``: cut, rated and cleaned of secrets.

    ``rate`` counts lines; what is over it is dropped, and the next line that passes is preceded by
    how many were. Time is an argument, in seconds.
    """

    emit: Callable[[str], None]
    clean: Callable[[str], str]
    """Takes secrets out of one line."""
    max_line: int
    """Bytes kept of a line; the rest is dropped."""
    rate: Rate
    margin: int = field(kw_only=True)
    """Bytes looked at beyond what is kept, so that no secret is cut in half and not recognised."""
    _part: bytearray = field(init=False, factory=bytearray)
    _level: Level | None = field(init=False, default=None)
    _dropped: int = field(init=False, default=0)

    def feed(self, data: bytes, now: float) -> None:
        """Take a chunk; complete lines go out at once."""
        *lines, last = data.split(b"\n")
        for line in lines:
            self._hold(line)
            self._finish(now)
        self._hold(last)

    def line(self, line: bytes, now: float) -> None:
        """Take one whole line."""
        self._hold(line)
        self._finish(now)

    def end(self, now: float) -> None:
        """The text is over: let go of what is held."""
        self._finish(now)
        self._tell_dropped()

    def _hold(self, data: bytes) -> None:
        self._part += data[: max(0, self.max_line + self.margin - len(self._part))]

    def _finish(self, now: float) -> None:
        raw = bytes(self._part)
        full = len(raw) >= self.max_line + self.margin
        self._part.clear()
        if not raw.strip():
            return
        level, wait = take(self.rate, self._level, now, 1.0)
        self._level = level
        if wait > 0:
            self._dropped += 1
            return
        self._tell_dropped()
        text = self.clean(raw.decode("utf-8", "backslashreplace").rstrip())
        # The end of what was looked at may hold half of a secret, and replacing others before it
        # may have brought it into view.
        keep = min(self.max_line, max(0, len(text) - self.margin)) if full else self.max_line
        cut = text[:keep]
        plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
        self.emit(plain + ("…" if len(text) > keep else ""))

    def _tell_dropped(self) -> None:
        if self._dropped:
            self.emit(f"({self._dropped} lines dropped)")
            self._dropped = 0


def cleaner(secrets: tuple[str, ...]) -> Callable[[str], str]:
    """A function that takes these very values out of a text.

    Secrets known only by their form are left to the log's own redaction.
    """
    known = sorted(_lines_of(secrets), key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in known:
            text = text.replace(secret, "[REDACTED]")
        return text

    return clean


def margin_for(secrets: tuple[str, ...]) -> int:
    """How far beyond the end of what is kept these values may reach, in bytes."""
    return max(MARGIN, *(len(line.encode("utf-8", "replace")) for line in _lines_of(secrets)), 0)


def _lines_of(secrets: tuple[str, ...]) -> set[str]:
    """The values by lines, as a child prints them: a key in PEM form has many."""
    lines = {line.strip() for secret in secrets for line in secret.splitlines()}
    return {line for line in lines if len(line) >= SHORTEST_SECRET}
