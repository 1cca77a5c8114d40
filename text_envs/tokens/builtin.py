"""The tokenizers that need nothing but numpy: characters, and words with punctuation.

They order their ids as words `0..W-1`, end of text `W`, then padding, begin and unknown, so that
the action space `Discrete(W + 1)` holds exactly what may be written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.tokens import chars
from text_envs.tokens.words import BOS, EOS, PAD, UNK, has_word_rules, join, pieces, split, to_json

__all__ = ["CharTokenizer", "WordTokenizer"]


class _BuiltinTokenizer:
    """What the word and the character tokenizer share: the order of ids and the look-up."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)  # a set would give other ids in every process
        n = len(self.words)
        if n == 0:
            raise ValueError("a tokenizer needs at least one word, got none")
        taken = Counter((*self.words, EOS, PAD, BOS, UNK))
        twice = [word for word, count in taken.items() if count > 1 or not word]
        if twice:
            raise ValueError(
                f"words must be distinct, not empty and none of {EOS} {PAD} {BOS} {UNK}; "
                f"got {twice[:5]}"
            )
        self.eos_id, self.pad_id, self.bos_id, self.unk_id = n, n + 1, n + 2, n + 3
        self.num_actions, self.vocab_size = n + 1, n + 4
        self.forbidden: NDArray[np.bool_] = np.zeros(self.num_actions, dtype=np.bool_)
        self.forbidden.flags.writeable = False
        self._ids = {word: index for index, word in enumerate((*self.words, EOS, PAD, BOS))}
        self._ids[UNK] = self.unk_id

    def encode_prompt(self, text: str) -> list[int]:
        """Return the begin id followed by the ids of `text`."""
        return [self.bos_id, *self.encode(text)]

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> _BuiltinTokenizer:
        # Immutable: Gymnasium deep-copies the arguments of every environment it makes.
        return self

    def __eq__(self, other: object) -> bool:
        # Identity first: environments ask at every end, and a tuple compares all of its words.
        return other is self or (
            type(other) is type(self) and self.words == getattr(other, "words", None)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.words))


class CharTokenizer(_BuiltinTokenizer):
    """Every character of `alphabet` is a token; any other character is unknown.

    `encode(decode(ids)) == ids` for all ids of the alphabet.

    Args:
        alphabet: the characters in the order of their ids.

    Raises:
        ValueError: `alphabet` is empty or repeats a character.

    >>> tokenizer = CharTokenizer("abc")
    >>> tokenizer.encode("cab"), tokenizer.decode([2, 0, 1, tokenizer.eos_id])
    ([2, 0, 1], 'cab')
    """

    def __init__(self, alphabet: str) -> None:
        super().__init__(tuple(alphabet))
        self._pieces = (*self.words, "", "", "", "\N{REPLACEMENT CHARACTER}")

    def encode(self, text: str) -> list[int]:
        """Return one id per character."""
        return [self._ids.get(character, self.unk_id) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the characters of `ids`; an unknown one shows as the replacement character."""
        return "".join(map(self._pieces.__getitem__, ids))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> CharTokenizer:
        """Read a `tokenizer.json` that `save` wrote, or the folder that holds one.

        Raises:
            ValueError: the file was not written by `save`.
        """
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        content = json.loads(file.read_text(encoding="utf-8"))
        if not chars.has_char_rules(content):
            raise ValueError(f"{file} is no alphabet of CharTokenizer")
        ids: dict[str, int] = content["model"]["vocab"]
        tokenizer = cls("".join(sorted(ids, key=ids.__getitem__)[:-4]))
        if tokenizer._ids != ids:
            raise ValueError(f"{file} does not end with {EOS} {PAD} {BOS} {UNK}")
        return tokenizer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `tokenizer.json` that `from_file` and `transformers` both read."""
        text = json.dumps(chars.to_json(self._ids), ensure_ascii=False, indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        return f"CharTokenizer({len(self.words)} characters)"


class WordTokenizer(_BuiltinTokenizer):
    """Words and punctuation marks are tokens, lower-cased and without accents.

    "It's well-acted, isn't it?" becomes `it 's well - acted , is n't it ?`: clitics are tokens of
    their own, hyphenated words are split, `...` and `--` (any spaced or long dash) are one token,
    quotation marks are told apart as opening and closing. A word outside the vocabulary becomes
    `<unk>`, which may stand in a prompt and can never be written.

    `encode(decode(ids)) == ids` holds for sequences in which words stand as people write them. It
    does not hold across runs of dots or dashes (`. ...` and `... .` look the same), for an opening
    quotation mark with nothing after it to quote or a closing one with nothing before it, for the
    end of a word put after an apostrophe or a number split at its point, and it drops begin, end
    and padding. Decoded text is what people read; the ids stay the record.

    Args:
        words: the vocabulary in the order of its ids, as `split` yields the words.

    Raises:
        ValueError: `words` is empty, repeats a word or contains a special token.

    >>> tokenizer = WordTokenizer(["the", "plot", "is", "n't", "thin", "."])
    >>> tokenizer.encode("The plot isn't THIN.")
    [0, 1, 2, 3, 4, 5]
    >>> tokenizer.decode([0, 1, 2, 3, 4, 5, tokenizer.eos_id])
    "the plot isn't thin."
    """

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(words)
        self._pieces = [*pieces(self.words), "", "", "", " " + UNK]

    @staticmethod
    def split(text: str) -> list[str]:
        """Return the tokens of `text` as words, known or not."""
        return split(text)

    @classmethod
    def from_texts(cls, texts: Iterable[str], max_words: int = 4000) -> WordTokenizer:
        """Build a vocabulary of the `max_words` most frequent words, ties in the order met."""
        return cls.from_words((cls.split(text) for text in texts), max_words)

    @classmethod
    def from_words(cls, texts: Iterable[Iterable[str]], max_words: int = 4000) -> WordTokenizer:
        """Build a vocabulary as `from_texts` does, from texts already split into words."""
        if max_words < 1:
            raise ValueError(f"max_words must be at least 1, got {max_words}")
        counts = Counter(word for text in texts for word in text if word != UNK)
        return cls([word for word, _ in counts.most_common(max_words)])

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> WordTokenizer:
        """Read a `tokenizer.json` that `save` wrote, or the folder that holds one.

        Raises:
            ValueError: the file was not written by `save` (its rules differ from this class's).
        """
        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        content = json.loads(file.read_text(encoding="utf-8"))
        if not has_word_rules(content):
            raise ValueError(
                f"{file} is no vocabulary of WordTokenizer; load it through transformers: "
                "load_tokenizer(transformers.AutoTokenizer.from_pretrained(...))"
            )
        ids: dict[str, int] = content["model"]["vocab"]
        tokenizer = cls(sorted(ids, key=ids.__getitem__)[:-4])
        if tokenizer._ids != ids:
            raise ValueError(f"{file} does not end with {EOS} {PAD} {BOS} {UNK}")
        return tokenizer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `tokenizer.json` that `from_file` and `transformers` both read."""
        text = json.dumps(to_json(self._ids), ensure_ascii=False, indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Return the ids of the words of `text`; unknown words become `unk_id`."""
        return self.ids(self.split(text))

    def ids(self, words: Iterable[str]) -> list[int]:
        """Return the ids of words as `split` yields them."""
        return [self._ids.get(word, self.unk_id) for word in words]

    def decode(self, ids: Iterable[int]) -> str:
        """Return running text: punctuation and clitics attached, quotation marks closed."""
        return join(map(self._pieces.__getitem__, ids))

    def __repr__(self) -> str:
        return f"WordTokenizer({len(self.words)} words)"
