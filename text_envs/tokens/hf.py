"""Any tokenizer of transformers behind the protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.tokens import chat, special
from text_envs.tokens.padding import padding_fault

__all__ = ["HFTokenizer"]


class HFTokenizer:
    """The `Tokenizer` face of a tokenizer of `transformers`.

    `num_actions` is one more than the highest id that may be written; special tokens below it,
    except the end of text, and ids without a token are `forbidden`. Special are the tokens with a
    declared name, those marked as special, and whatever the tokenizer puts around a text. Prompts
    get what the tokenizer itself puts in front of a text (a begin token), and never what it puts
    behind. A tokenizer that names no end token ends with the one that it puts behind a text, or
    that the settings of the model in its folder name. Where `generation_config.json` there names
    further ones, as of chat models, each of them ends a text: `eos_ids`.

    Args:
        tokenizer: any `transformers.PreTrainedTokenizerBase`, slow or fast; it is not changed.
        ends: further tokens, as words or ids, each of which ends a text; by default those that the
            settings of the model name.

    Raises:
        ValueError: it has no end token, no padding token, or one that means something else too;
            or one of `ends` is no token of its.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[str | int] | None = None) -> None:
        self.hf = tokenizer
        name = type(tokenizer).__name__
        known = special.known_ids(tokenizer)
        named = special.special_ids(tokenizer)
        declared = special.declared_ends(tokenizer)
        before, behind = special.affixes(tokenizer, (i for i in known if i not in named))
        self.eos_id = _end_of(tokenizer, [*behind, *declared] if len(behind) == 1 else declared)
        if fault := padding_fault(tokenizer) or _shared(tokenizer, (self.eos_id, *before)):
            raise ValueError(
                f"{name} {fault}; padding must differ from every token that may be written. "
                'Remedy: tokenizer.add_special_tokens({"pad_token": "<pad>"})'
            )
        self.pad_id = int(tokenizer.pad_token_id)
        further = special.generation_ends(tokenizer) if ends is None else _ids_of(tokenizer, ends)
        self.eos_ids = (self.eos_id, *(i for i in further if i not in (self.eos_id, self.pad_id)))
        bos, unk = tokenizer.bos_token_id, special.unknown_id(tokenizer)
        self.bos_id: int | None = bos if bos is not None else next(iter(before), None)
        # GPT-2 names its end token for unknown words as well, and has none.
        self.unk_id: int | None = None if unk == self.eos_id else unk
        self.vocab_size = known[-1] + 1
        around = {self.pad_id, *self.eos_ids, *before, *behind, *declared}
        around |= set() if self.bos_id is None else {self.bos_id}
        self._silent = frozenset(around - {self.unk_id})
        forbidden = np.ones(self.vocab_size, dtype=np.bool_)
        forbidden[known] = False
        forbidden[[*named, *around]] = True
        forbidden[[] if self.unk_id is None else [self.unk_id]] = True
        forbidden[list(self.eos_ids)] = False
        self.num_actions = int(np.flatnonzero(~forbidden)[-1]) + 1
        self.forbidden: NDArray[np.bool_] = forbidden[: self.num_actions]
        self.forbidden.flags.writeable = False
        self._prefix = before

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` without any special token added.

        Special tokens that `text` spells out are themselves, except padding, which marks absence:
        a text that spells it keeps its letters.
        """
        ids = list(self.hf.encode(text, add_special_tokens=False))
        if self.pad_id in ids:
            ids = list(self.hf.encode(text, add_special_tokens=False, split_special_tokens=True))
        return [i for i in ids if i != self.pad_id]

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of `text` after the tokenizer's own prefix; the end id if both are empty.

        An empty prompt starts from the begin token where there is one.
        """
        ids = self._prefix + self.encode(text)
        return ids or [self.eos_id if self.bos_id is None else self.bos_id]

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the ids of messages in the tokenizer's chat template, asking for an answer.

        A last message of the assistant is what is to be continued. The template writes all special
        tokens, the begin token too if there is to be one.

        Raises:
            ValueError: there is no template, it refuses these messages, or it writes padding.
        """
        return chat.encode(self.hf, messages, self.pad_id)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` without special tokens."""
        plain = [int(index) for index in ids if index not in self._silent]
        return str(
            self.hf.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def token_bytes(self) -> dict[int, bytes] | None:
        """Return the bytes of the tokens that may hold a part of a character; None if none can."""
        return special.byte_table(self.hf)

    def __deepcopy__(self, memo: dict[int, Any]) -> HFTokenizer:
        return self  # as heavy as its vocabulary, and never changed here

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HFTokenizer):
            return NotImplemented
        same = self.hf is other.hf or self.hf.get_vocab() == other.hf.get_vocab()
        return same and (self.eos_ids, self.pad_id) == (other.eos_ids, other.pad_id)

    def __hash__(self) -> int:
        return hash((self.vocab_size, self.eos_id, self.pad_id))

    def __repr__(self) -> str:
        return f"HFTokenizer({type(self.hf).__name__}, {self.vocab_size} tokens)"


def _ids_of(tokenizer: Any, tokens: Sequence[str | int]) -> list[int]:
    """Return the ids of tokens given as words or ids."""
    known = tokenizer.get_vocab()
    given = [tokens] if isinstance(tokens, str | int) else tokens
    found = [known.get(token) if isinstance(token, str) else token for token in given]
    for token, i in zip(given, found, strict=True):
        if i is None or i not in known.values():
            raise ValueError(f"ends has {token!r}, which is no token of {type(tokenizer).__name__}")
    return [int(i) for i in found]


def _end_of(tokenizer: Any, others: list[int]) -> int:
    """Return the id that ends a text: the declared one, or else the first of `others`."""
    eos = tokenizer.eos_token_id
    if eos is None and not others:
        raise ValueError(
            f"{type(tokenizer).__name__} has no end-of-text token, so no episode could end; name "
            'one: tokenizer.add_special_tokens({"eos_token": "<eos>"})'
        )
    return int(others[0] if eos is None else eos)


def _shared(tokenizer: Any, around: tuple[int, ...]) -> str:
    pad = tokenizer.pad_token_id
    return f"pads with a token that it puts around texts ({pad})" if pad in around else ""
