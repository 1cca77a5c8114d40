"""Characters that would move, hide or reorder what is around them, as signs that can be seen.

A text that an agent or a data set wrote may hold the codes by which a terminal is told to clear its
screen, or by which "abc" is shown as "cba". None of them gets to a terminal or a page as it is.
"""

from __future__ import annotations

import functools
import unicodedata

__all__ = ["one_line", "visible"]

_CONTROL = 0x2400  # from here on pictures of the first 32 characters
_DELETE = "\u2421"
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Characters of other categories without a look of their own: fillers, joiners, the blank pattern
# of Braille, and variation selectors except the two that choose between text and picture.
_BLANK = frozenset(
    (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810))
) | {*range(0xFE00, 0xFE0E), *range(0xE0100, 0xE01F0)}
_PICTOGRAMS = range(0x1F000, 0x1FB00)  # new ones come with every version of Unicode


def visible(text: str) -> str:
    r"""Return a text with signs for what cannot be seen; line feeds and plain spaces stay.

    >>> visible("a\x1b[2J\r\n\tb\u202ec"), visible("\u200b")
    ('a␛[2J␍\n␉b<U+202E>c', '<U+200B>')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c == "\n" else _sign(c) for c in text)


def one_line(text: str) -> str:
    """Return a visible text in one line, for places that have no more."""
    return visible(text).replace("\n", "\u21b5")


@functools.lru_cache(maxsize=4096)
def _sign(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(_CONTROL + code)
    if code == 0x7F:
        return _DELETE
    kind = unicodedata.category(character)
    unseen = kind in _UNSEEN and not (kind == "Cn" and code in _PICTOGRAMS)
    return f"<U+{code:04X}>" if unseen or code in _BLANK else character
