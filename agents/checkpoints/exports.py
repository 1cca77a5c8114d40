"""A policy's language model in the form that transformers reads: model, tokenizer, how to generate.

`AutoTokenizer`, `AutoModelForCausalLM` and `pipeline("text-generation")` find in the folder what
they need for the same ids, texts and scores as in the environment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from text_envs.lm.loading import quietly
from text_envs.tokens.words import BOS, EOS, PAD, UNK

__all__ = ["write_actor", "write_lm"]


def write_lm(lm: Any, folder: Path) -> None:
    """Write a language model as transformers does."""
    with quietly():
        # Under the names that the weights have in memory, which some families change on disk.
        lm.save_pretrained(folder, max_shard_size="1000GB", save_original_format=False)


def write_actor(policy: Any, folder: Path) -> None:
    """Write the language model of a policy, with its tokenizer and how it generates.

    What a policy never writes (forbidden ids, padding, tokens of instructions and returns),
    `generate` is told to suppress, so that it samples what the policy samples.
    """
    write_lm(policy.actor.lm, folder)
    tokenizer = policy.tokenizer
    if tokenizer is not None:
        _write_tokenizer(tokenizer, folder, policy.actor.lm)
    if getattr(policy.actor.lm, "generation_config", None) is not None:
        _write_generation(policy, folder)


def _write_tokenizer(tokenizer: Any, folder: Path, lm: Any) -> None:
    if (hf := getattr(tokenizer, "hf", None)) is not None:
        hf.save_pretrained(folder)
        return
    if not hasattr(tokenizer, "save"):  # somebody's own, of which transformers knows nothing
        return
    tokenizer.save(folder / "tokenizer.json")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "unk_token": UNK}
    if not (folder / "tokenizer.json").is_file() or not hasattr(tokenizer, "words"):
        return
    columns = getattr(lm.config, "max_position_embeddings", None)
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        **({} if columns is None else {"model_max_length": int(columns)}),
    }
    text = json.dumps(facts, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def _write_generation(policy: Any, folder: Path) -> None:
    actor, sampling = policy.actor, policy.actor.sampling
    first = policy.arguments.get("eos_id")
    ends = sorted(actor.eos_ids, key=lambda end: (end != first, end))  # its own end before others
    file = folder / "generation_config.json"
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    never = sorted({*actor.forbidden_ids, *range(actor.num_actions, actor.num_tokens)})
    tokenizer = policy.tokenizer
    facts |= {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or 0,
        "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "min_new_tokens": sampling.min_tokens or None,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": actor.pad_id if actor.pad_id < actor.num_tokens else None,
        "bos_token_id": actor.bos_id if tokenizer is None else tokenizer.bos_id,
        "suppress_tokens": never or None,
    }
    text = json.dumps({k: v for k, v in facts.items() if v is not None}, indent=2, sort_keys=True)
    file.write_text(text + "\n", encoding="utf-8")
