"""What each token adds to a text: the pieces that pictures are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from text_envs.tokens.protocol import Tokenizer

__all__ = ["Speller"]

_MOST_PAIRS = 1 << 16


class Speller:
    """Spells tokens one by one; remembers what it has decoded.

    What a token adds is found with the token before it, because most tokenizers drop a space at
    the start of what they decode. Two tokens that share the bytes of one character show what the
    tokenizer makes of an incomplete one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Spell for `tokenizer`."""
        self.tokenizer = tokenizer
        self._pieces: dict[tuple[int, int], str] = {}

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return the text that each token adds, white space included; empty for special ones."""
        pairs = zip((-1, *tokens), tokens, strict=False)
        known = self._pieces
        return [known.get(pair) or self._decode(pair) for pair in pairs]

    def _decode(self, pair: tuple[int, int]) -> str:
        before, token = pair
        alone = self.tokenizer.decode([token])
        first = self.tokenizer.decode([before]) if before >= 0 else ""
        both = self.tokenizer.decode(pair) if first else alone
        piece = both[len(first) :] if first and both.startswith(first) else alone
        if len(self._pieces) < _MOST_PAIRS:
            self._pieces[pair] = piece
        return piece

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens as the tokenizer decodes them."""
        return self.tokenizer.decode([int(token) for token in tokens])
