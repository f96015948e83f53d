"""What must not be written down: secrets, found in text and by the name of a value.

Every pattern is RE2, so the time is linear in the text whatever a caller sends.
"""

from collections.abc import Callable, Iterable
from typing import Any

import re2
from attrs import define, field, frozen

from mcpguard.errors import ConfigurationError

REDACTED = "[REDACTED]"

MARK = "…[cut]"
"""Ends every string that was clipped."""

MARGIN = 1024
"""Characters looked at beyond what is kept, so that a secret on the edge is still recognised."""


@frozen
class _Rule:
    """A pattern and what is put in place of each match."""

    pattern: str
    replacement: str | Callable[[Any], str]


def _keep_lead(match: Any) -> str:
    """Keep the first group (the word that announces the secret), drop the rest."""
    return f"{match.group(1)}{REDACTED}"


def _keep_ends(match: Any) -> str:
    """Keep the first and the second group."""
    return f"{match.group(1)}{REDACTED}{match.group(2)}"


def _keep_lead_and_quote(match: Any) -> str:
    """Keep the announcing word and the opening quote, so that quoting stays readable."""
    value = match.group(2)
    quote = next((q for q in ('\\"', '"', "'") if value.startswith(q)), "")
    return f"{match.group(1)}{quote}{REDACTED}"


_VALUE = (
    r"("
    r'"(?:[^"\\]|\\[\s\S])*'  # quoted
    r'|\\"(?:[^"\\]|\\\\\\"|\\[^"])*'  # quoted in JSON that is itself inside a JSON string
    r"|'[^']*"
    r"|[^\s\"'&,;}\]\\]+"  # a bare word
    r")"
)

# Each rule also matches a secret that is cut short at its end, because text is cut before it is
# looked through.
_BUILT_IN: tuple[_Rule, ...] = (
    _Rule(
        r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----"
        r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----|\z)",
        REDACTED,
    ),
    _Rule(
        r"(?i)((?:proxy-)?authorization[\"'\\]{0,2}\s{0,4}[:=]\s{0,4}[\"'\\]{0,2}"
        r"(?:(?:bearer|basic|digest|token|splunk|apikey|negotiate)\s{1,4})?)[^\s\"',;\\]+",
        _keep_lead,
    ),
    _Rule(r"(?i)(\bbearer(?:\s{1,4}|%20|\+))[^\s\"',;&\\]+", _keep_lead),
    _Rule(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){0,3}", REDACTED),
    # `keygen` makes 43 characters after the prefix; fewer would catch tool and metric names.
    _Rule(r"mcp_[A-Za-z0-9_-]{40,}", REDACTED),
    _Rule(r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA)[A-Z0-9]{16}\b", REDACTED),
    _Rule(r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})", REDACTED),
    _Rule(r"\b(?:glpat-[A-Za-z0-9_-]{16,}|npm_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,})", REDACTED),
    _Rule(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}", REDACTED),
    _Rule(r"\b(?:sk-[A-Za-z0-9_-]{20,}|[prsw]k_(?:live|test)_[A-Za-z0-9]{10,})", REDACTED),
    _Rule(r"\b(?:AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{10,})", REDACTED),
    _Rule(r"(?i)\b([a-z][a-z0-9+.-]{1,20}://)[^/\s@?#]*:[^/\s@?#]*(@)", _keep_ends),
    _Rule(
        r"(?i)((?:passw(?:or)?d|passwd|passphrase|passcode|pwd|secret|credentials?|cookie"
        r"|(?:api|access|private|signing|encryption)[_-]?key|token)"
        r"[\"'\\]{0,2}\s{0,4}[:=]\s{0,4})" + _VALUE,
        _keep_lead_and_quote,
    ),
)

_SECRET_PARTS = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "encryptionkey",
)
_SECRET_ENDS = ("token", "authorization", "cookie", "cookies")
_SECRET_NAMES = frozenset({"auth", "bearer", "jwt", "otp", "pin", "pwd", "tokens"})


def names_secret(name: str) -> bool:
    """Tell whether a value of this name is a secret whatever it looks like.

    Case and separators do not count: ``api_key``, ``apiKey`` and ``X-API-Key`` are one name.
    """
    plain = "".join(c for c in name.casefold() if c.isalnum())
    return (
        plain in _SECRET_NAMES
        or plain.endswith(_SECRET_ENDS)
        or any(part in plain for part in _SECRET_PARTS)
    )


def _compile(pattern: str, *, capture: bool = True) -> Any:
    options = re2.Options()
    options.never_capture = not capture
    options.log_errors = False  # else RE2 itself writes the pattern to stderr
    return re2.compile(pattern, options=options)


def compile_rules(rules: Iterable[tuple[str, str, str]]) -> tuple[tuple[Any, str], ...]:
    """Compile configured rules given as (name, pattern, replacement).

    Raises `ConfigurationError` naming every rule that is not an RE2 expression.
    """
    compiled: list[tuple[Any, str]] = []
    problems: list[str] = []
    for name, pattern, replacement in rules:
        try:
            compiled.append((_compile(pattern), replacement))
        except re2.error as error:
            reason = error.args[0] if error.args else b""
            words = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            problems.append(
                f"audit.redaction_rules: the pattern of {name!r} is not an RE2 expression: {words}"
            )
    if problems:
        raise ConfigurationError(tuple(problems))
    return tuple(compiled)


@define
class Redactor:
    """Takes secrets out of text and clips it; the built-in rules always apply.

    ``rules`` are configured ones as (name, pattern, replacement), applied after the built-in
    ones; the replacement is literal text. Raises `ConfigurationError` for a bad pattern.
    """

    _rules: Iterable[tuple[str, str, str]] = ()
    _configured: tuple[tuple[Any, str], ...] = field(init=False)
    _built_in: tuple[tuple[Any, Any], ...] = field(init=False)
    _any_built_in: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._configured = compile_rules(self._rules)
        self._built_in = tuple((_compile(rule.pattern), rule.replacement) for rule in _BUILT_IN)
        # It is only asked whether there is a match, and that is a fifth faster without groups.
        self._any_built_in = _compile(
            "|".join(f"(?:{rule.pattern})" for rule in _BUILT_IN), capture=False
        )

    def text(self, text: str, limit: int) -> str:
        """Return the text without secrets, at most ``limit`` characters and the mark.

        Only ``limit`` and a margin are looked through, so the time is bounded too. Lone
        surrogates, which no encoder takes, become ``?``.
        """
        cut = len(text) > limit + MARGIN
        if cut:
            text = text[: limit + MARGIN]
        clean = self._redact(text)
        # Redaction may have shortened the text so far that its unreliable end would show: the
        # last MARGIN characters of a cut text may hold half of a secret.
        keep = min(limit, max(0, len(clean) - MARGIN)) if cut else limit
        return clean if not cut and len(clean) <= keep else clean[:keep] + MARK

    def _redact(self, text: str) -> str:
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            raw = text.encode("utf-8", "replace")
            text = raw.decode()
        if self._any_built_in.search(raw) is not None:
            for pattern, replacement in self._built_in:
                text = pattern.sub(replacement, text)
        for pattern, replacement in self._configured:
            text = pattern.sub(lambda _, words=replacement: words, text)
        return text
