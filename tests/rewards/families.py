"""Small randomly initialised networks of many families, with tokenizers that pad in every way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    XLNetConfig,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
WIDE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "intermediate_size": 24}  # fmt: skip
POSITIONS = 24

TEXTS = [
    "a", "the film is a quiet triumph", "ful film", " of patience", "a loud empty picture that",
    "never finds its story and the cast is warm and the script is sharp and nobody enjoys it",
    "", "?", "sharp sharp sharp", "</s>", "the film </s> again </s>",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kind:
    """A family, and how its tokenizer pads: the side; a token of its own, the end token, none."""

    family: str
    side: str = "right"
    pad: str = "own"
    stated: int | None = None  # what the tokenizer says that the model reads

    def __str__(self) -> str:
        return "-".join(map(str, (self.family, self.side, self.pad, self.stated)))


FAMILIES = ("gpt2", "llama", "bert", "roberta", "distilbert", "t5", "bart", "xlnet")
KINDS = [
    *(Kind(family, side) for family in FAMILIES for side in ("left", "right")),
    *(Kind(family, side, pad) for family in ("gpt2", "llama") for side in ("left", "right")
      for pad in ("end", "none")),
    *(Kind(family, "right", "none") for family in ("bert", "roberta", "distilbert", "t5")),
    *(Kind(family, "left", "own", 12) for family in ("gpt2", "bert")),
]  # fmt: skip


def make_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE whose padding is that of `kind`; by its word, it reads anything."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator(TEXTS, trainer)
    if kind.family in ("bert", "roberta", "distilbert", "bart"):
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
            special_tokens=[("<s>", 0), ("</s>", 2)],
        )  # fmt: skip
    elif kind.family in ("t5", "xlnet"):
        core.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
        )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if kind.family in ("bert", "roberta", "distilbert", "bart"):
        marks |= {"cls_token": "<s>", "sep_token": "</s>"}
    if kind.pad != "none":
        marks["pad_token"] = "<pad>" if kind.pad == "own" else "</s>"
    limit = {} if kind.stated is None else {"model_max_length": kind.stated}
    return PreTrainedTokenizerFast(tokenizer_object=core, padding_side=kind.side, **marks, **limit)


def make_config(kind: Kind, size: int) -> Any:
    pad = {"own": 1, "end": 2, "none": None}[kind.pad]
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": pad}
    common: dict[str, Any] = {"vocab_size": size, "num_labels": 1, **ids}
    wide, family = {**WIDE, "initializer_range": 0.5}, kind.family
    if family in ("bert", "roberta", "t5", "distilbert") and pad is None:
        common["pad_token_id"] = 1  # their tables of words want one; the tokenizer has none
    if family == "gpt2":
        return GPT2Config(n_positions=POSITIONS, n_embd=16, n_layer=2, n_head=2,
                          initializer_range=0.5, **common)  # fmt: skip
    if family == "llama":
        return LlamaConfig(max_position_embeddings=POSITIONS, num_key_value_heads=1,
                           **wide, **common)  # fmt: skip
    if family == "bert":
        return BertConfig(max_position_embeddings=POSITIONS, **wide, **common)
    if family == "roberta":  # two positions are never used
        return RobertaConfig(max_position_embeddings=POSITIONS, type_vocab_size=1,
                             **wide, **common)  # fmt: skip
    if family == "distilbert":
        return DistilBertConfig(max_position_embeddings=POSITIONS, dim=16, n_layers=2, n_heads=2,
                                hidden_dim=24, initializer_range=0.5, **common)  # fmt: skip
    if family == "t5":
        return T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
                        decoder_start_token_id=0, **common)  # fmt: skip
    if family == "bart":
        return BartConfig(d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=24,
                          decoder_ffn_dim=24, encoder_attention_heads=2, init_std=0.5,
                          decoder_attention_heads=2, max_position_embeddings=POSITIONS,
                          **common)  # fmt: skip
    return XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=24, **common)


def save(kind: Kind, folder: Path, head: str = "classifier") -> Path:
    """Save a network of a kind, with a head or without, and its tokenizer."""
    makers: dict[str, Any] = {
        "classifier": AutoModelForSequenceClassification, "encoder": AutoModel,
        "lm": AutoModelForCausalLM,
    }  # fmt: skip
    tokenizer = make_tokenizer(kind)
    torch.manual_seed(0)
    config = make_config(kind, len(tokenizer))
    model = makers[head].from_config(config, trust_remote_code=False)
    with torch.no_grad():  # so that every weight counts, those that begin at zero included
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
