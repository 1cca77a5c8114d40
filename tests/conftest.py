"""Small real models and tokenizers, built on the spot, so that loading is tested without a hub."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests run in one process a core; threads of torch beside them would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from text_envs import Example, Replies, Task, Turns
from text_envs.tokenizers import WordTokenizer

SENTENCES = [
    "the film is a quiet triumph of patience and light",
    "a loud empty picture that never finds its story",
    "the cast is warm and the script is sharp",
    "nobody involved seems to enjoy this film",
]


class Echo(Task):
    """A dialogue for tests: the agent says a word, the environment repeats it, `bye` ends it.

    The number of turns is remembered, each turn costs 1, the last one costs nothing, and the
    environment's reply has one or two tokens, drawn from the row's generator.
    """

    multi_turn = True

    def __init__(self, max_tokens: int = 12, max_turn_tokens: int | None = None) -> None:
        super().__init__(
            [Example("say"), Example("say bye")],
            tokenizer=WordTokenizer(["say", "hello", "bye", "yes"]),
            prompt_length=4,
            max_tokens=max_tokens,
        )
        self.max_turn_tokens = max_turn_tokens

    def memory(self, num_envs: int) -> dict[str, Any]:
        return {"turns": np.zeros(num_envs, dtype=np.int64)}

    def begin(self, memory: Any, rows: Any, indices: Any, rngs: Any) -> None:
        memory["turns"][rows] = 0

    def reply(self, turns: Turns) -> Replies:
        turns.memory["turns"][turns.rows] += 1
        spoken = turns.tokens[np.arange(len(turns.rows)), turns.start]
        two = np.array([rng.random() < 0.5 for rng in turns.rngs], dtype=bool)
        pad = self.tokenizer.pad_id
        tokens = np.stack([np.full(len(two), 3), np.where(two, spoken, pad)], axis=1)
        done = spoken == 2
        return Replies(tokens, np.where(done, 0.0, -1.0), done, ["bye"] * len(two))


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(scope="session")
def bpe_tokenizer() -> Any:
    """A byte-level BPE tokenizer as GPT-2 has it, with a pad token of its own."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=["<|endoftext|>", "<|pad|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>"
    )


@pytest.fixture(scope="session")
def classifier_path(tmp_path_factory: pytest.TempPathFactory, bpe_tokenizer: Any) -> Path:
    """A randomly initialised two-class GPT-2 saved in the hub's format."""
    import torch
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("classifier")
    config = GPT2Config(
        vocab_size=len(bpe_tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2,
        num_labels=2, id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1}, pad_token_id=bpe_tokenizer.pad_token_id,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(path)
    bpe_tokenizer.save_pretrained(path)
    return path
