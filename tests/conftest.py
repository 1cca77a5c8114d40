"""Small real models and tokenizers, built on the spot, so that loading is tested without a hub."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests run in one process a core; threads of torch beside them would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import SENTENCES, Echo


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


@pytest.fixture
def share() -> Any:
    from models import Share

    return Share()


@pytest.fixture
def gpt2() -> Callable[..., Any]:
    from models import tiny_gpt2

    return tiny_gpt2


@pytest.fixture(params=["gpt2-sdpa", "gpt2-eager", "llama-sdpa", "llama-eager"])
def any_lm(request: pytest.FixtureRequest) -> Any:
    """A language model with a vocabulary of 20 and 32 positions."""
    from models import tiny_gpt2, tiny_llama

    family, attention = request.param.split("-")
    lm = tiny_gpt2(20, layers=2) if family == "gpt2" else tiny_llama(20)
    lm.set_attn_implementation(attention)
    return lm
