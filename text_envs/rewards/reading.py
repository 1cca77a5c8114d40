"""What every network that scores texts needs: how much it can read, and batches that leave no mark.

The score of a text must not depend on the texts beside it. Padding breaks that in many ways (on
the left it moves positions, some families attend to it or count it, some have no token for it), so
only rows of one length share a batch, unless a network was seen to give padded rows the numbers
that it gives them alone.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

__all__ = ["batches", "longest_input", "longest_positions"]

_STATED = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length",
    "max_sequence_length", "seq_length", "max_encoder_position_embeddings",
    "max_decoder_position_embeddings", "max_source_positions", "max_target_positions",
)  # fmt: skip
_TABLE = re.compile(r"wpe|pos(ition)?s?(_|$)")
_ABSURD = 10**9  # tokenizers without a limit of their own state a huge one


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """Return how many tokens a model of transformers can read; None if there is no limit.

    Args:
        model: the network.
        tokenizer: its tokenizer, which may state less than the network has positions.
    """
    stated = tokenizer.model_max_length
    own = longest_positions(model)
    limits = [n for n in (stated, own) if n is not None and 0 < n < _ABSURD]
    return min(map(int, limits), default=None)


def longest_positions(model: Any) -> int | None:
    """Return how many positions a network has; None if there is no limit.

    The least of what its configuration states and of its tables of positions, of which some
    families leave the first rows unused (RoBERTa those up to the padding, BART and OPT two).
    """
    config = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(text, name, None) for name in _STATED]
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        rows = getattr(module, "num_embeddings", None)
        if isinstance(rows, int) and _TABLE.search(name) and "rel" not in name:
            before = getattr(module, "padding_idx", None)
            limits.append(rows - (getattr(module, "offset", 0) if before is None else before + 1))
    # Families without a limit state -1.
    known = [n for n in limits if isinstance(n, int) and 0 < n < _ABSURD]
    return min(known, default=None)


def batches(keys: Sequence[Hashable], size: int) -> Iterator[list[int]]:
    """Yield the numbers of rows with equal keys, at most `size` at a time.

    >>> list(batches([3, 5, 3, 3], 2))
    [[0, 2], [3], [1]]
    """
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    for rows in groups.values():
        for begin in range(0, len(rows), size):
            yield rows[begin : begin + size]
