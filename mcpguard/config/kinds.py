"""What a setting may be: converters from a value of the file, each with its words for it."""

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Generic, Protocol, TypeVar, cast

from attrs import field, frozen

from mcpguard.config.document import quoted
from mcpguard.config.grammar import Concealed
from mcpguard.config.places import INVALID, Invalid, Place
from mcpguard.config.secrets import Unresolved, resolve
from mcpguard.config.settings import Secret, SecretText

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_STRING = 8_192
MAX_ITEMS = 10_000
LATER = "not available in this version"


class Kind(Protocol[T_co]):
    """Turns a place's value into a setting, or reports why not."""

    def __call__(self, place: Place) -> T_co | Invalid:
        """Convert; everything wrong is reported before INVALID is answered."""
        ...


@frozen
class Flag:
    """``true`` or ``false``."""

    accepts: str = "true or false"

    def __call__(self, place: Place) -> bool | Invalid:
        """Convert."""
        return place.value if isinstance(place.value, bool) else place.mistyped(self.accepts)


@frozen
class Integer:
    """A whole number within limits, both allowed."""

    low: int
    high: int

    @property
    def accepts(self) -> str:
        """In words."""
        return f"an integer from {self.low} to {self.high}"

    def __call__(self, place: Place) -> int | Invalid:
        """Convert; a boolean is not an integer, nor is 3.0."""
        value = place.value
        if isinstance(value, bool) or not isinstance(value, int):
            return place.mistyped(self.accepts)
        if not self.low <= value <= self.high:
            return place.refuse("out of range", self.accepts)
        return value


@frozen
class IntegerOrWord:
    """A whole number within limits, both allowed, or one word."""

    low: int
    high: int
    word: str

    @property
    def accepts(self) -> str:
        """In words."""
        return f"{Integer(self.low, self.high).accepts}, or {quoted(self.word)}"

    def __call__(self, place: Place) -> int | str | Invalid:
        """Convert."""
        value = place.value
        if value == self.word:
            return self.word
        if isinstance(value, bool) or not isinstance(value, int):
            return place.mistyped(self.accepts)
        if not self.low <= value <= self.high:
            return place.refuse("out of range", self.accepts)
        return value


@frozen
class Number:
    """A finite number above ``above`` (or equal to it, with ``or_equal``), at most ``high``."""

    above: float
    high: float
    or_equal: bool = False

    @property
    def accepts(self) -> str:
        """In words."""
        if self.or_equal:
            return f"a number from {self.above:.15g} to {self.high:.15g}"
        return f"a number above {self.above:.15g}, at most {self.high:.15g}"

    def __call__(self, place: Place) -> float | Invalid:
        """Convert."""
        value = place.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return place.mistyped(self.accepts)
        low = value >= self.above if self.or_equal else value > self.above
        if not (low and value <= self.high and math.isfinite(value)):
            return place.refuse("out of range", self.accepts)
        return float(value)


@frozen
class Text(Generic[T]):
    """A string, or a reference to one, made into a setting by ``parse``."""

    accepts: str
    parse: Callable[[str], T]
    """Raises ValueError with the reason, which must not repeat the value."""
    limit: int = MAX_STRING
    plain: bool = False
    """An identifier: shown everywhere by its nature, so not marked even when given by reference."""
    hidden: bool = False
    """Never shown in a message."""

    def __call__(self, place: Place) -> T | Invalid:
        """Convert. A string that came by reference is never shown."""
        place = _hide(place, hidden=self.hidden)
        given = _string(place, self.accepts, self.limit)
        if isinstance(given, Invalid):
            return INVALID
        try:
            parsed = self.parse(given.text)
        except ValueError as error:
            hidden = given.source is not None or isinstance(error, Concealed)
            return _hide(place, hidden=hidden).refuse(str(error), self.accepts)
        if given.source is not None and not self.plain and type(parsed) is str:
            return cast("T", SecretText(str(parsed), given.source))
        return parsed


@frozen
class SecretValue:
    """A string that is a secret wherever it stands."""

    accepts: str
    parse: Callable[[str], str]
    limit: int = MAX_STRING

    def __call__(self, place: Place) -> Secret | Invalid:
        """Convert."""
        place = _hide(place, hidden=True)
        given = _string(place, self.accepts, self.limit)
        if isinstance(given, Invalid):
            return INVALID
        try:
            text = self.parse(given.text)
        except ValueError as error:
            return place.refuse(str(error), self.accepts)
        return Secret(text) if given.source is None else Secret(text, given.source)


@frozen
class _Given:
    text: str
    source: str | None
    """Where a reference led; None for a string in the file."""


def _string(place: Place, accepts: str, limit: int) -> _Given | Invalid:
    """The string at a place, its reference followed."""
    value, source = place.value, None
    if isinstance(value, dict) and value:
        try:
            resolved = resolve(value, environ=place.report.environ, base=place.report.base)
        except Unresolved as error:
            return _hide(place, hidden=True).refuse(str(error), accepts)
        if resolved.warning:
            place.warn(resolved.warning)
        value, source = resolved.secret.value, resolved.secret.source
    if not isinstance(value, str):
        return place.mistyped(accepts)
    if len(value) > limit:
        hiding = _hide(place, hidden=source is not None)
        return hiding.refuse(f"longer than {limit} characters", accepts)
    return _Given(value, source)


def _hide(place: Place, *, hidden: bool) -> Place:
    return Place(place.report, place.path, place.value, hidden or place.hidden)


@frozen
class Choice:
    """One of a few words or numbers."""

    values: tuple[str | int, ...]
    later: frozenset[str] = frozenset()
    """Known words whose feature this version does not have."""
    meaning: Mapping[str, str] = field(factory=dict)
    """What is meant by words that have another name for the same."""

    @property
    def accepts(self) -> str:
        """In words."""
        return " or ".join(quoted(v) if isinstance(v, str) else str(v) for v in self.values)

    def __call__(self, place: Place) -> Any:
        """Convert; 403.0 and true are not 403 and 1."""
        value = place.value
        if isinstance(value, dict) and value and isinstance(self.values[0], str):
            given = _string(place, self.accepts, MAX_STRING)
            if isinstance(given, Invalid):
                return INVALID
            value = given.text
        if type(value) is not type(self.values[0]):
            return place.mistyped(self.accepts)
        if value in self.values:
            return self.meaning.get(value, value) if isinstance(value, str) else value
        if value in self.later:
            return place.refuse(LATER, self.accepts)
        return place.refuse(f"not known{meant(str(value), self.values)}", self.accepts)


@frozen
class ListOf(Generic[T]):
    """A list of one kind of thing."""

    kind: Kind[T]
    accepts: str
    limit: int = MAX_ITEMS
    unique: bool = False
    """Whether the same entry twice is an error rather than harmless."""

    def __call__(self, place: Place) -> tuple[T, ...] | Invalid:
        """Convert every entry, reporting each that cannot be used."""
        if not isinstance(place.value, list):
            return place.mistyped(self.accepts)
        if len(place.value) > self.limit:
            place.complain(f"more than {self.limit} entries; accepted: {self.accepts}")
            return INVALID
        items = [self.kind(place.item(index)) for index in range(len(place.value))]
        good = tuple(item for item in items if not isinstance(item, Invalid))
        if self.unique:
            _refuse_twins(place, items, "given twice")
        return good if len(good) == len(items) else INVALID


@frozen
class Pairs:
    """A table from names of the user's choice to secrets."""

    accepts: str
    name: Callable[[str], str]
    """The canonical name, by which twins are found; raises ValueError with the reason."""
    value: Kind[Secret]
    limit: int = 256

    def __call__(self, place: Place) -> Mapping[str, Secret] | Invalid:
        """Convert."""
        if not isinstance(place.value, dict):
            return place.mistyped(self.accepts)
        if len(place.value) > self.limit:
            place.complain(f"more than {self.limit} entries; accepted: {self.accepts}")
            return INVALID
        pairs: dict[str, Secret] = {}
        seen: set[str] = set()
        sound = True
        for key in place.value:
            inner = place.item(key, hidden=True)
            value = self.value(inner)
            try:
                name = self.name(key)
            except ValueError as error:
                inner.complain(f"{error}; accepted: {self.accepts}")
                sound = False
                continue
            if name in seen:
                inner.complain("given twice (upper and lower case are the same here)")
                sound = False
            seen.add(name)
            if isinstance(value, Invalid):
                sound = False
            else:
                pairs[key] = value
        return pairs if sound else INVALID


@frozen
class OneOrMore(Generic[T]):
    """One thing, or a list of at least one."""

    kind: Kind[T]
    accepts: str
    limit: int

    def __call__(self, place: Place) -> tuple[T, ...] | Invalid:
        """Convert."""
        if not isinstance(place.value, list):
            one = self.kind(place)
            return INVALID if isinstance(one, Invalid) else (one,)
        if not place.value:
            return place.refuse("empty", self.accepts)
        return ListOf(self.kind, self.accepts, self.limit)(place)


@frozen
class ListsByName(Generic[T]):
    """A table from names of the user's choice to lists of one kind of thing."""

    accepts: str
    name: Callable[[str], str]
    """Raises ValueError with the reason."""
    kind: Kind[T]
    limit: int = 1000

    def __call__(self, place: Place) -> Mapping[str, tuple[T, ...]] | Invalid:
        """Convert."""
        if not isinstance(place.value, dict):
            return place.mistyped(self.accepts)
        if len(place.value) > self.limit:
            place.complain(f"more than {self.limit} entries; accepted: {self.accepts}")
            return INVALID
        found: dict[str, tuple[T, ...]] = {}
        for key in place.value:
            inner = place.item(key)
            items = ListOf(self.kind, "a list of names or patterns", self.limit)(inner)
            try:
                name = self.name(key)
            except ValueError as error:
                inner.complain(f"{error}; accepted: {self.accepts}")
                continue
            if not isinstance(items, Invalid):
                found[name] = items
        return found if len(found) == len(place.value) else INVALID


def _refuse_twins(place: Place, items: list[Any], words: str) -> None:
    seen = set()
    for index, item in enumerate(items):
        if isinstance(item, Invalid):
            continue
        if item in seen:
            place.item(index).refuse(words)
        seen.add(item)


def meant(word: str, known: tuple[str | int, ...]) -> str:
    """Say which known word was most likely meant; nothing when none is close."""
    close = get_close_matches(word[:64], [k for k in known if isinstance(k, str)], n=1)
    return f'; did you mean "{close[0]}"?' if close else ""
