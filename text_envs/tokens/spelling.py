"""What each token adds to a text: the pieces that pictures are made of."""

from __future__ import annotations

import codecs
import os.path
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from text_envs.tokens.protocol import Tokenizer

__all__ = ["OPEN", "PART", "Piece", "Speller"]

PART = "\u00b7"  # a middle dot: the token begins a character that a later one completes
OPEN = "\u25cc"  # a dotted circle: the token is part of a character that none completes

_MOST_PAIRS = 1 << 16
_MOST_SHARING = 16  # tokens tried together, where only their text tells what they share
_LOST = "\N{REPLACEMENT CHARACTER}"  # what tokenizers make of bytes that are no character


class Piece(NamedTuple):
    """What one token adds.

    Attributes:
        text: white space included; empty for special tokens.
        mark: `PART` or `OPEN` where the token holds bytes without the rest of their character.
    """

    text: str
    mark: str = ""


class Speller:
    """Spells tokens one by one; remembers what it has decoded.

    What a token adds is found with the token before it, because most tokenizers drop a space at
    the start of what they decode. A character whose bytes several tokens share stands at the last
    of them. The pieces together make the text of all tokens, except for bytes that make no
    character: these have a mark and no text. The replacement character is shown where the text
    itself holds it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Spell for `tokenizer`."""
        self.tokenizer = tokenizer
        self._pairs: dict[tuple[int, int], str] = {}
        self._alone: dict[int, str] = {}
        # Tokens of bytes, asked for when the first one is met that is no text alone.
        self._bytes: Mapping[int, bytes] | None = None
        self._asked = False

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return the text that each token adds, white space included; empty for special ones."""
        return [piece.text for piece in self.spell(tokens)]

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, with `OPEN` for each that holds bytes of no character."""
        spelled = self.spell([int(token) for token in tokens])
        return "".join(text + (mark if mark == OPEN else "") for text, mark in spelled)

    def spell(self, tokens: Sequence[int]) -> list[Piece]:
        """Return what each token adds."""
        spelled = self._in_pairs(tokens)
        if any(_LOST in self._text_of(token) for token in tokens):
            for run in self._runs(tokens, spelled):
                ids = [tokens[place] for place in run]
                table = self._bytes
                found = self._from_texts(ids) if table is None else _from_bytes(ids, table)
                for place, piece in zip(run, found, strict=True):
                    spelled[place] = piece
        whole = self.tokenizer.decode(tokens)
        if _LOST in whole or "".join(piece.text for piece in spelled) == whole:
            return spelled
        return self._by_length(tokens, spelled, whole)

    def _text_of(self, token: int) -> str:
        """Return the text of a token alone."""
        text = self._alone.get(token)
        if text is None:
            text = self._alone[token] = self.tokenizer.decode([token])
        return text

    def _in_pairs(self, tokens: Sequence[int]) -> list[Piece]:
        """Return the pieces as each token and the last one with a text before it make them."""
        spelled, before = [], -1
        for token in tokens:
            spelled.append(Piece(self._pairs.get((before, token)) or self._pair(before, token)))
            before = token if self._text_of(token) else before
        return spelled

    def _pair(self, before: int, token: int) -> str:
        first = self._text_of(before) if before >= 0 else ""
        both = self.tokenizer.decode([before, token]) if first else self._text_of(token)
        piece = both[len(first) :] if both.startswith(first) else self._text_of(token)
        if len(self._pairs) < _MOST_PAIRS:
            self._pairs[before, token] = piece
        return piece

    def _by_length(
        self, tokens: Sequence[int], spelled: Sequence[Piece], whole: str
    ) -> list[Piece]:
        """Return pieces of the whole text, cut where the texts of all first tokens end.

        For tokenizers whose tokens depend on more than one neighbour.
        """
        cut, done = [], 0
        for stop, piece in enumerate(spelled, start=1):
            end = done
            if stop == len(tokens):
                end = len(whole)
            elif not piece.mark:
                shared = os.path.commonprefix((self.tokenizer.decode(tokens[:stop]), whole))
                end = max(done, len(shared))
            cut.append(Piece(whole[done:end], piece.mark))
            done = end
        return cut

    def _runs(self, tokens: Sequence[int], spelled: Sequence[Piece]) -> list[list[int]]:
        """Return the places of neighbours that may share characters, over special tokens too."""
        if not self._asked:
            self._asked = True
            ask = getattr(self.tokenizer, "token_bytes", None)
            self._bytes = None if ask is None else ask()
        runs: list[list[int]] = [[]]
        for place, (token, piece) in enumerate(zip(tokens, spelled, strict=True)):
            if self._text_of(token) == piece.text == "":
                continue
            lossy = _LOST in self._text_of(token)
            if lossy if self._bytes is None else token in self._bytes:
                runs[-1].append(place)
            elif runs[-1]:
                runs.append([])
        return [run for run in runs if run]

    def _from_texts(self, run: Sequence[int]) -> list[Piece]:
        """Return the pieces of tokens that are no text alone, of which only texts are known."""
        whole = self.tokenizer.decode(run)
        if _LOST in whole and list(self.tokenizer.encode(whole)) == list(run):
            alone = [self._text_of(token) for token in run]  # the text itself holds the character
            if "".join(alone) == whole:
                return [Piece(text) for text in alone]
            return [*[Piece("", PART)] * (len(run) - 1), Piece(whole)]
        found: list[Piece] = []
        while (start := len(found)) < len(run):
            stops = range(start + 1, min(start + _MOST_SHARING, len(run)) + 1)
            texts = ((stop, self.tokenizer.decode(run[start:stop])) for stop in stops)
            stop, text = next(((n, text) for n, text in texts if _LOST not in text), (0, ""))
            if stop:
                found += [*[Piece("", PART)] * (stop - start - 1), Piece(text)]
            else:
                found.append(Piece(self._text_of(run[start]).replace(_LOST, ""), OPEN))
        return found


def _from_bytes(run: Sequence[int], table: Mapping[int, bytes]) -> list[Piece]:
    """Return the pieces of tokens whose bytes are known."""
    # Bytes of no character become surrogates, which no text in UTF-8 can hold.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    found: list[Piece] = []
    waiting = 0  # tokens with bytes of a character that is not complete
    for place, token in enumerate(run):
        held = len(decoder.getstate()[0])
        raw = decoder.decode(table[token], final=place == len(run) - 1)
        text = "".join(c for c in raw if not _is_byte(c))
        if raw and _is_byte(raw[0]) and waiting:
            found[-waiting:] = [Piece(piece.text, OPEN) for piece in found[-waiting:]]
        own = len(raw) - len(text) > held  # some bytes of this token are no character
        kept = bool(decoder.getstate()[0])
        found.append(Piece(text, OPEN if own else PART if kept else ""))
        waiting = (waiting if kept and not raw else 0) + kept
    return found


def _is_byte(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"
