"""Tables of settings: known keys, what each may be, and what must hold between them."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from attrs import field, frozen

from mcpguard.config.kinds import LATER, MAX_ITEMS, Kind, meant
from mcpguard.config.places import INVALID, Invalid, Place

T = TypeVar("T")


@frozen
class Draft:
    """A table read so far: the settings that could be used, by key."""

    place: Place
    values: Mapping[str, Any]

    def given(self, key: str) -> bool:
        """Whether the file has the key, usable or not."""
        return key in self.place.value

    def at(self, key: str) -> Place:
        """The place of a key that is given, else of the table."""
        return self.place.item(key) if self.given(key) else self.place


@frozen
class Table(Generic[T]):
    """A table of known keys."""

    build: Callable[..., T]
    """Called with the given keys when all of them, and all rules, hold."""
    keys: Mapping[str, Kind[Any]]
    required: tuple[str, ...] = ()
    later: frozenset[str] = frozenset()
    """Keys of the product whose feature this version does not have."""
    elsewhere: Mapping[str, str] = field(factory=dict)
    """Keys that belong somewhere else, with the words to say so."""
    rules: tuple[Callable[[Draft], None], ...] = ()
    """What must hold between keys; they report to the draft's place."""
    accepts: str = "a table"

    def __call__(self, place: Place) -> T | Invalid:
        """Convert."""
        read = self.draft(place)
        return INVALID if isinstance(read, Invalid) else self.finish(read)

    def draft(self, place: Place) -> Draft | Invalid:
        """Read every key and apply the rules."""
        if not isinstance(place.value, dict):
            return place.mistyped(self.accepts)
        values = {}
        for key in place.value:
            kind = self.keys.get(key)
            if kind is None:
                self._unknown(place, key)
                continue
            value = kind(place.item(key))
            if not isinstance(value, Invalid):
                values[key] = value
        for key in self.required:
            if key not in place.value:
                accepts = getattr(self.keys[key], "accepts", "")
                place.complain(f"{key} is missing; accepted: {accepts}")
        draft = Draft(place, values)
        for rule in self.rules:
            rule(draft)
        return draft

    def finish(self, draft: Draft) -> T | Invalid:
        """Build the setting, unless the report already has problems."""
        return INVALID if draft.place.report.problems else self.build(**draft.values)

    def _unknown(self, place: Place, key: str) -> None:
        inner = place.item(key)
        if key in self.later:
            inner.complain(f"unknown key: {LATER}")
        elif key in self.elsewhere:
            inner.complain(f"unknown key here: {self.elsewhere[key]}")
        else:
            known = tuple(self.keys)
            inner.complain("unknown key" + (meant(key, known) or f"; known: {', '.join(known)}"))


@frozen
class Tables(Generic[T]):
    """A list of tables, such as ``[[auth.api_keys]]``."""

    table: Table[T]
    accepts: str
    unique: Mapping[str, str] = field(factory=dict)
    """Keys whose values no two tables may share, with the words for it."""
    rules: tuple[Callable[[list[Draft]], None], ...] = ()
    limit: int = MAX_ITEMS

    def __call__(self, place: Place) -> tuple[T, ...] | Invalid:
        """Convert."""
        if not isinstance(place.value, list):
            return place.mistyped(self.accepts)
        if len(place.value) > self.limit:
            place.complain(f"more than {self.limit} entries; accepted: {self.accepts}")
            return INVALID
        read = [self.table.draft(place.item(index)) for index in range(len(place.value))]
        drafts = [draft for draft in read if not isinstance(draft, Invalid)]
        for key, words in self.unique.items():
            first: dict[Any, Place] = {}
            for draft in drafts:
                value = draft.values.get(key)
                if value is None:
                    continue
                if value in first:
                    owner = first[value]
                    index = owner.path[-1]
                    draft.at(key).complain(f"{words} (entry {index} has it already)")
                first.setdefault(value, draft.place)
        for rule in self.rules:
            rule(drafts)
        built = [self.table.finish(draft) for draft in drafts]
        good = tuple(one for one in built if not isinstance(one, Invalid))
        return good if len(good) == len(place.value) else INVALID
