"""A policy's language model in the form that transformers reads: model, tokenizer, how to generate.

`AutoTokenizer`, `AutoModelForCausalLM` and `pipeline("text-generation")` find in the folder what
they need for the same ids, texts and scores as in the environment.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from text_envs.episodes.drafts import drafting
from text_envs.lm.adapter_files import write_adapters
from text_envs.lm.adapters import merged
from text_envs.lm.loading import BUNDLED, load_lm, quietly
from text_envs.lm.precision import as_dtype
from text_envs.lm.sharing import Base, base_of, weights_mark
from text_envs.tokens.words import BOS, EOS, PAD, UNK

__all__ = ["export_merged", "write_actor", "write_lm"]

logger = logging.getLogger(__name__)


def write_lm(lm: Any, folder: Path, target: Any = None, save_base: bool = False) -> None:
    """Write a language model as transformers does, or its adapters as peft does.

    Args:
        lm: the model.
        folder: where to.
        target: the checkpoint that this becomes a part of, which replaces what is there now.
        save_base: write the base of adapters too, whether or not its name finds it again.
    """
    base = base_of(lm)
    with quietly():
        if base is not None and base.adapter is not None:
            whole = save_base or not _is_found_again(lm, base, target)
            write_adapters(lm, folder, with_base=whole)
        else:
            # Under the names that the weights have in memory, which some families change on disk.
            lm.save_pretrained(folder, max_shard_size="1000GB", save_original_format=False)


def _is_found_again(lm: Any, base: Base, target: Any) -> bool:
    """Return whether the base of adapters can be loaded by its name; say why if not."""
    name, why = base.name, ""
    if name is None:
        why = "it has no name"
    elif name not in BUNDLED and Path(name).exists():
        home = None if target is None else Path(target).resolve()
        if home is not None and (
            home == Path(name).resolve() or home in Path(name).resolve().parents
        ):
            why = f"it was loaded from {name!r}, which this save replaces"
    elif base.checked and os.path.isabs(name):
        why = f"{name!r}, which it was loaded from, is gone"
    if not why and not base.checked:
        why = _differs(lm, str(name))
        base.checked = not why
    if why:
        logger.warning("the base of the adapters is saved with them: %s", why)
    return not why


def _differs(lm: Any, name: str) -> str:
    """Return why what has a name is not the base of a model, "" where it is."""
    try:
        named, _ = load_lm(name, dtype=lm.dtype, seq2seq=lm.config.is_encoder_decoder)
    except Exception as error:  # whatever a hub, a disk or an unknown family raises
        return f"nothing of the name {name!r} can be loaded ({error})"
    same = type(named) is type(lm) and weights_mark(named) == weights_mark(lm)
    return "" if same else f"{name!r} has other weights"


def export_merged(
    policy: Any, folder: str | os.PathLike[str], dtype: str | torch.dtype | None
) -> None:
    """Write the language model of a policy whole; see `StoredPolicy.merge_and_export`."""
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder must be a path, got {type(folder).__name__}")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty; it is not overwritten")
    wanted = None if dtype is None else as_dtype(dtype)
    if isinstance(wanted, str):
        raise ValueError("dtype of an export must be 'float32', 'bfloat16' or a type of torch")
    if policy.tokenizer is None:
        logger.warning("%s is written without a tokenizer: the policy was told of none", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with drafting(target) as draft:
        whole = merged(policy.actor.lm, wanted)
        with quietly():
            whole.save_pretrained(draft / "tree", max_shard_size="5GB")
        write_around(policy, draft / "tree")
        if target.exists():
            target.rmdir()
        os.replace(draft / "tree", target)


def write_actor(policy: Any, folder: Path, target: Any = None, save_base: bool = False) -> None:
    """Write the language model of a policy, with its tokenizer and how it generates.

    What a policy never writes (forbidden ids, padding, tokens of instructions and returns),
    `generate` is told to suppress, so that it samples what the policy samples.
    """
    write_lm(policy.actor.lm, folder, target, save_base)
    write_around(policy, folder)


def write_around(policy: Any, folder: Path) -> None:
    """Write what stands beside the weights: the tokenizer, and how the model generates."""
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
