"""Any tokenizer of transformers behind the protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["HFTokenizer"]


class HFTokenizer:
    """The `Tokenizer` face of a tokenizer of `transformers`.

    `num_actions` is one more than the highest id that may be written; special tokens below it,
    except the end of text, and ids without a token are `forbidden`. Prompts get what the tokenizer
    itself puts in front of a text (a begin token), and never what it puts behind.

    Args:
        tokenizer: any `transformers.PreTrainedTokenizerBase`, slow or fast.

    Raises:
        ValueError: it has no end token, no padding token, or one token for both.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.hf = tokenizer
        eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        name = type(tokenizer).__name__
        if eos is None:
            raise ValueError(
                f"{name} has no end-of-text token, so no episode could end; name one: "
                'tokenizer.add_special_tokens({"eos_token": "<eos>"})'
            )
        if pad is None or pad == eos:
            fault = "has no padding token" if pad is None else f"pads with its end token ({eos})"
            raise ValueError(
                f"{name} {fault}; padding must differ from every token that may be written. "
                'Remedy: tokenizer.add_special_tokens({"pad_token": "<pad>"})'
            )
        self.eos_id, self.pad_id = int(eos), int(pad)
        self.bos_id: int | None = tokenizer.bos_token_id
        self.unk_id: int | None = tokenizer.unk_token_id
        known = np.fromiter(tokenizer.get_vocab().values(), dtype=np.int64)
        self.vocab_size = int(known.max()) + 1
        forbidden = np.ones(self.vocab_size, dtype=np.bool_)
        forbidden[known] = False
        forbidden[list(tokenizer.all_special_ids)] = True
        forbidden[self.eos_id] = False
        self.num_actions = int(np.flatnonzero(~forbidden)[-1]) + 1
        self.forbidden: NDArray[np.bool_] = forbidden[: self.num_actions]
        self.forbidden.flags.writeable = False
        self._prefix = self._find_prefix()

    def _find_prefix(self) -> list[int]:
        """Return the ids that the tokenizer puts before a text."""
        sample = "a"
        whole, bare = list(self.hf(sample)["input_ids"]), self.encode(sample)
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return whole[:start]
        return []

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` without any special token added."""
        return list(self.hf.encode(text, add_special_tokens=False))

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of `text` after the tokenizer's own prefix; the end id if both are empty.

        An empty prompt starts from the begin token where there is one.
        """
        ids = self._prefix + self.encode(text)
        return ids or [self.eos_id if self.bos_id is None else self.bos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` without special tokens."""
        plain = [int(index) for index in ids]
        return str(
            self.hf.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> HFTokenizer:
        return self  # as heavy as its vocabulary, and never changed here

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HFTokenizer):
            return NotImplemented
        same = self.hf is other.hf or self.hf.get_vocab() == other.hf.get_vocab()
        return same and (self.eos_id, self.pad_id) == (other.eos_id, other.pad_id)

    def __hash__(self) -> int:
        return hash((self.vocab_size, self.eos_id, self.pad_id))

    def __repr__(self) -> str:
        return f"HFTokenizer({type(self.hf).__name__}, {self.vocab_size} tokens)"
