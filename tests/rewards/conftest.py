"""Small models with the heads that reward models have, saved in the Hub's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import SENTENCES


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to this machine go to this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _save_head(path: Path, tokenizer: Any, labels: dict[int, str], positions: int = 64) -> Path:
    import torch
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(len(labels))
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=positions, n_embd=16, n_layer=1, n_head=2,
        id2label=labels, label2id={name: number for number, name in labels.items()},
        pad_token_id=tokenizer.pad_token_id, bos_token_id=0, eos_token_id=0,
        initializer_range=0.5,
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def scalar_path(tmp_path_factory: pytest.TempPathFactory, bpe_tokenizer: Any) -> Path:
    """A model with one output."""
    return _save_head(tmp_path_factory.mktemp("scalar"), bpe_tokenizer, {0: "score"})


@pytest.fixture(scope="session")
def pairwise_path(tmp_path_factory: pytest.TempPathFactory, bpe_tokenizer: Any) -> Path:
    """A model with two labels, which one of a pair is better."""
    labels = {0: "FIRST", 1: "SECOND"}
    return _save_head(tmp_path_factory.mktemp("pairwise"), bpe_tokenizer, labels)


@pytest.fixture(scope="session")
def encoder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised BERT of two layers with a word-piece tokenizer."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder")
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(SENTENCES, vocab_size=200, show_progress=False)
    pieces.save_model(str(path))
    tokenizer = BertTokenizerFast(vocab=str(path / "vocab.txt"), model_max_length=32)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def sentences_path(tmp_path_factory: pytest.TempPathFactory, encoder_path: Path) -> Path:
    """The same encoder with the mean of its vectors as embedding of a sentence."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    path = tmp_path_factory.mktemp("sentences")
    SentenceTransformer(str(encoder_path), device="cpu").save_pretrained(str(path))
    return path
