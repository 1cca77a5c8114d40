"""Sample the demonstrations of `LikelihoodContinuation-v0` from the bundled language model.

    python -m text_envs.assets.build_continuations

needs the extra `agents`. Run it again after the language model has changed: the file holds the
likelihood of every demonstration, which a test compares with what the model says.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from text_envs.rewards.likelihood import Likelihood
from text_envs.tasks.likelihood import CONTINUATIONS
from text_envs.tasks.reviews import PROMPTS
from text_envs.tasks.shared.data import load_examples
from text_envs.tasks.shared.splits import SPLITS
from text_envs.tokens.encoding import encode_prompts

COUNTS = dict(zip(SPLITS, (1024, 256, 256), strict=True))
PROMPT_LENGTH, MAX_TOKENS = 8, 24
SEED = 0
_BATCH = 256


def main() -> None:
    """Write the file, whole or not at all."""
    lines = []
    likelihood = Likelihood("reviews")
    for number, (split, count) in enumerate(COUNTS.items()):
        prompts = [example.prompt for example in load_examples(PROMPTS, split=split)]
        lines += _continue(prompts, count, likelihood, split, number)
    CONTINUATIONS.parent.mkdir(exist_ok=True)
    draft = CONTINUATIONS.with_suffix(".draft")
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(draft, CONTINUATIONS)
    print(f"{len(lines)} continuations, {CONTINUATIONS.stat().st_size} bytes: {_short()}")


def _continue(
    prompts: list[str], count: int, likelihood: Likelihood, split: str, number: int
) -> list[str]:
    """Return `count` JSON lines: one text for each prompt whose text reads back as it was drawn."""
    tokenizer = likelihood.tokenizer
    encoded = encode_prompts(prompts, tokenizer, PROMPT_LENGTH)
    lines: list[str] = []
    for begin in range(0, len(prompts), _BATCH):
        chosen = encoded[begin : begin + _BATCH]
        rngs = [np.random.default_rng([SEED, number, begin + i]) for i in range(len(chosen))]
        texts = likelihood.continue_prompts(chosen, MAX_TOKENS, rngs)
        tokens = np.full((len(chosen), MAX_TOKENS), tokenizer.pad_id, dtype=np.int64)
        for row, ids in zip(tokens, texts, strict=True):
            row[: len(ids)] = ids
        whole = np.concatenate([chosen, tokens], axis=1)
        scored = whole != tokenizer.pad_id
        scored[:, :PROMPT_LENGTH] = False
        means = likelihood.score_tokens(whole, scored).sum(axis=1) / scored.sum(axis=1)
        for prompt, ids, mean in zip(prompts[begin:], texts, means.tolist(), strict=False):
            text = tokenizer.decode(ids)
            if text and tokenizer.encode(text) == [i for i in ids if i != tokenizer.eos_id]:
                row_of_data = {"prompt": prompt, "split": split, "reference": text}
                row_of_data["reviews_log_likelihood"] = round(mean, 6)
                lines.append(json.dumps(row_of_data))
        if len(lines) >= count:
            return lines[:count]
    raise RuntimeError(f"only {len(lines)} of {count} texts of split {split!r} read back")


def _short() -> str:
    return str(Path(CONTINUATIONS.parent.name) / CONTINUATIONS.name)


if __name__ == "__main__":
    main()
