"""Texts sampled from the bundled model: openings for prompts, and whole reviews to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from text_envs.assets.build.corpus import Corpus
from text_envs.tokens.builtin import WordTokenizer

SPLITS = {"train": 4096, "validation": 512, "test": 512}
SHORTEST, LONGEST = 3, 6  # words of an opening
# An opening must leave the sentence open, and read the same from its text as from its ids.
_UNWANTED = frozenset(".?!;:()[]*/#&'\u201c\u201d\u2018") | {"...", "--"}
_BAD_END = frozenset("-,$")
_SPAN = 8  # words in a row that count as copied


@torch.no_grad()
def sample(model: Any, tokenizer: WordTokenizer, count: int, words: int, seed: int) -> list[Any]:
    """Return `count` texts as lists of ids, at most `words` long, at temperature 1."""
    torch.manual_seed(seed)
    texts: list[Any] = []
    while len(texts) < count:
        begin = torch.full((min(512, count - len(texts)), 1), tokenizer.bos_id)
        ids = model.generate(
            begin,
            attention_mask=torch.ones_like(begin),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=words,
        )
        texts += [[i for i in row if i < tokenizer.eos_id] for row in ids.tolist()]
    return texts


def write_openings(model: Any, tokenizer: WordTokenizer, target: Path, seed: int) -> dict[str, int]:
    """Write distinct openings as JSON lines; no opening stands in two splits."""
    rng = np.random.default_rng(seed)
    wanted = sum(SPLITS.values())
    openings: dict[tuple[int, ...], None] = {}
    while len(openings) < wanted:
        for ids in sample(model, tokenizer, 2048, LONGEST + 1, int(rng.integers(2**31))):
            length = int(rng.integers(SHORTEST, LONGEST + 1))
            opening = tuple(ids[:length])
            # The text must go on after the opening, or it would be a whole review.
            if len(ids) > length and _is_good(opening, tokenizer):
                openings[opening] = None
    lines = []
    names = [name for name, count in SPLITS.items() for _ in range(count)]
    for opening, name in zip(openings, names, strict=False):
        lines.append(json.dumps({"prompt": tokenizer.decode(opening), "split": name}))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return dict(SPLITS)


def _is_good(opening: tuple[int, ...], tokenizer: WordTokenizer) -> bool:
    words = [tokenizer.words[i] for i in opening]
    return (
        not _UNWANTED.intersection(words)
        and words[-1] not in _BAD_END
        and words[0][0].isalnum()
        and tokenizer.encode(tokenizer.decode(opening)) == list(opening)
    )


def copied_share(texts: list[Any], corpus: Corpus, tokenizer: WordTokenizer) -> float:
    """Return the share of spans of eight words in `texts` that stand in a training review."""

    def spans(ids: list[int]) -> list[tuple[int, ...]]:
        return [tuple(ids[i : i + _SPAN]) for i in range(len(ids) - _SPAN + 1)]

    seen = {span for review in corpus.train for span in spans(tokenizer.ids(review.words))}
    written = [span for ids in texts for span in spans(ids)]
    return sum(span in seen for span in written) / max(1, len(written))
