"""The bundled reviews: files, card and what is loaded from them agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import text_envs
from text_envs.tokenizers import load_tokenizer

FOLDER = Path(text_envs.__file__).parent / "assets" / "reviews"
TOKENIZER = load_tokenizer("reviews")


@pytest.fixture(scope="module")
def card() -> Any:
    return json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


def test_sizes(card: Any) -> None:
    for name, size in card["bytes"].items():
        assert (FOLDER / name).stat().st_size == size, name
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 12_000_000


def test_model_fits_the_tokenizer(model: Any, card: Any) -> None:
    import torch

    assert (
        sum(weight.numel() for weight in model.parameters()) == card["language_model"]["parameters"]
    )
    assert model.config.vocab_size == TOKENIZER.vocab_size
    assert model.config.n_positions >= 64
    assert model.config.tie_word_embeddings
    for config in (model.config, model.generation_config):
        assert config.bos_token_id == TOKENIZER.bos_id
        assert config.eos_token_id == TOKENIZER.eos_id
        assert config.pad_token_id == TOKENIZER.pad_id
    begin = torch.tensor([TOKENIZER.encode_prompt("")])
    with torch.no_grad():
        probabilities = model(begin).logits[0, -1].softmax(0)
    assert probabilities[: TOKENIZER.num_actions].sum() > 0.99


def test_model_prefers_english_to_shuffled_english(model: Any) -> None:
    import torch

    words = TOKENIZER.encode_prompt("the film is a funny, moving story of a man and his family.")
    shuffled = [words[0], *np.random.default_rng(0).permutation(words[1:]).tolist()]

    def nats(ids: list[int]) -> float:
        row = torch.tensor([[*ids, TOKENIZER.eos_id]])
        with torch.no_grad():
            return float(model(row, labels=row).loss)

    assert nats(words) + 1.5 < nats(shuffled)


def test_model_generates_only_actions(model: Any) -> None:
    import torch

    torch.manual_seed(0)
    begin = torch.full((8, 1), TOKENIZER.bos_id)
    written = model.generate(begin, attention_mask=torch.ones_like(begin), max_new_tokens=20)[:, 1:]
    ended = (written == TOKENIZER.eos_id).cumsum(1) > 0
    assert (written[~ended] < TOKENIZER.num_actions).all()


def test_prompts(card: Any) -> None:
    lines = (FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    prompts = [row["prompt"] for row in rows]
    assert len(set(prompts)) == len(prompts)
    splits = [row["split"] for row in rows]
    assert {name: splits.count(name) for name in card["prompts"]} == card["prompts"]
    for prompt in prompts:
        ids = TOKENIZER.encode_prompt(prompt)
        assert 4 <= len(ids) <= 7 and TOKENIZER.unk_id not in ids
        assert TOKENIZER.decode(ids) == prompt
