"""The wording of orders: instruments in a row, runners in a race, vehicles by age."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NUMBERS", "THEMES", "Theme"]

NUMBERS = ("two", "three", "four", "five", "six", "seven")
_ORDINALS = ("second", "third", "fourth")


@dataclass(frozen=True)
class Theme:
    """The wording of one kind of order; `{x}` and `{y}` are objects, `{place}` a place."""

    objects: tuple[str, ...]
    intro: str
    listed: str
    before: tuple[str, str]  # said of the earlier, and of the later object
    next: str
    at: str
    ask: str
    ends: tuple[str, str]
    inner: tuple[str, str]  # a place counted from either end; `{n}` is an ordinal

    def place(self, place: int, count: int) -> str:
        """Name place `place` (from 1) of `count` from the nearer end."""
        from_end = count - place
        if place - 1 <= from_end:
            return self._named(0, place)
        return self._named(1, from_end + 1)

    def _named(self, end: int, number: int) -> str:
        if number == 1:
            return self.ends[end]
        return self.inner[end].format(n=_ORDINALS[number - 2])


THEMES = {
    "shelf": Theme(
        ("drum", "flute", "harp", "lute", "horn", "bell", "cello", "organ", "viola", "gong"),
        "{n} instruments stand in one row: {all}.",
        "the {x}",
        ("the {x} stands left of the {y}.", "the {y} stands right of the {x}."),
        "the {x} stands directly left of the {y}.",
        "the {x} is {place}.",
        "which instrument is {place}?",
        ("leftmost", "rightmost"),
        ("{n} from the left", "{n} from the right"),
    ),
    "race": Theme(
        ("ana", "ben", "cleo", "dan", "edith", "finn", "gail", "hugo", "iris", "jon"),
        "{n} runners finished one race, each at another time: {all}.",
        "{x}",
        ("{x} finished ahead of {y}.", "{y} finished behind {x}."),
        "{x} finished directly ahead of {y}.",
        "{x} finished {place}.",
        "who finished {place}?",
        ("first", "last"),
        ("{n}", "{n} to last"),
    ),
    "age": Theme(
        ("van", "truck", "bus", "tram", "coach", "jeep", "sedan", "ferry", "yacht", "canoe"),
        "{n} vehicles were built in different years: {all}.",
        "the {x}",
        ("the {x} is older than the {y}.", "the {y} is newer than the {x}."),
        "the {x} comes directly before the {y} in age, oldest first.",
        "the {x} is the {place}.",
        "which vehicle is the {place}?",
        ("oldest", "newest"),
        ("{n} oldest", "{n} newest"),
    ),
}
