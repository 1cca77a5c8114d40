"""Adapters in a folder, as peft writes and reads them, and which base they belong to.

```
adapter_config.json        peft's, with the name of the base
adapter_model.safetensors  the adapters' weights
base.json                  what tells their base from other models
rows.safetensors           learnt rows of the embedding, where there are any
base/                      the base itself, where no name finds it again
```
"""

from __future__ import annotations

import copy
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from text_envs.lm.adapters import inject, plain_base, require_peft
from text_envs.lm.rows import LearntRows, add_rows
from text_envs.lm.sharing import Base, base_of, describe_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "BASE",
    "CONFIG",
    "WEIGHTS",
    "add_saved",
    "has_adapter_files",
    "is_seq2seq",
    "read_weights",
    "saved_base",
    "write_adapters",
]

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE, _FACTS, _ROWS = "base", "base.json", "rows.safetensors"
_PREFIX = "base_model.model."  # how peft calls the model inside of a PeftModel
# What must agree; the type of the weights may be chosen anew.
_TELLING = ("architecture", "layers", "width", "tokens")


def has_adapter_files(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds adapters rather than a whole model."""
    return (Path(folder) / CONFIG).is_file()


def write_adapters(lm: PreTrainedModel, folder: Path, *, with_base: bool) -> None:
    """Write the adapters of a model, its learnt rows, and its base if asked for.

    Args:
        lm: a model with adapters.
        folder: made if needed.
        with_base: write the base's weights too; else its name must find it again.
    """
    from safetensors.torch import save_file

    peft, base = require_peft(), base_of(lm)
    assert base is not None and base.adapter is not None
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = copy.copy(lm.peft_config[base.adapter])
    config.inference_mode, config.init_lora_weights = True, True
    config.base_model_name_or_path = None if with_base else base.name
    config.save_pretrained(folder)
    weights = peft.get_peft_model_state_dict(
        lm, adapter_name=base.adapter, save_embedding_layers=False
    )
    plain = {_PREFIX + k: v.detach().cpu().contiguous() for k, v in weights.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    facts = describe_base(lm)
    if with_base:
        facts["name"] = None
        plain_base(lm).save_pretrained(
            folder / BASE, max_shard_size="1000GB", save_original_format=False
        )
    rows: Any = lm.get_input_embeddings()
    if isinstance(rows, LearntRows):
        facts["first_row"] = rows.first
        save_file({"rows": rows.rows.detach().cpu().contiguous()}, folder / _ROWS)
    (folder / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def saved_base(folder: Path) -> str:
    """Return what the base of saved adapters is loaded by: its folder beside them, or its name.

    Raises:
        ValueError: nobody wrote down which it is.
    """
    if (folder / BASE).is_dir():
        return str(folder / BASE)
    name = _json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{folder / CONFIG} does not say which model its adapters belong to; accepted: "
            "model= that one, or peft.PeftModel.from_pretrained(model, folder)"
        )
    return name


def is_seq2seq(folder: Path) -> bool:
    """Return whether saved adapters are of an encoder-decoder model."""
    return _json(folder / CONFIG).get("task_type") == "SEQ_2_SEQ_LM"


def add_saved(lm: PreTrainedModel, folder: Path, name: str | None) -> PreTrainedModel:
    """Put saved adapters and rows into a plain model, in place; return it.

    Args:
        lm: the base.
        folder: see the module.
        name: what the base was loaded by; None where it has no name that finds it again.

    Raises:
        ImportError: peft is missing.
        ValueError: the adapters belong to another base, or the files are damaged.
    """
    peft = require_peft()
    _check_base(lm, folder)
    config = peft.LoraConfig.from_pretrained(str(folder))
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA":
        raise ValueError(f"{folder / CONFIG}: adapters must be LORA, got {kind}")
    config.inference_mode, config.base_model_name_or_path = False, None
    try:
        lm = inject(lm, config)
    except ValueError as error:
        raise ValueError(f"{_other(folder, lm)}: {error}") from error
    vars(lm)["adapted_base"] = Base(name, checked=name is not None)
    if (folder / _ROWS).is_file():
        first: Any = _json(folder / _FACTS).get("first_row")
        rows = _tensors(folder / _ROWS).get("rows")
        whole = type(first) is int and 0 < first < 2**31
        if rows is None or rows.ndim != 2 or not whole:
            raise ValueError(f"{folder / _ROWS} holds no rows of an embedding")
        add_rows(lm, first, len(rows))
    read_weights(lm, folder)
    return cast("PreTrainedModel", lm.eval())


def read_weights(lm: PreTrainedModel, folder: Path) -> None:
    """Put the weights of saved adapters and rows into a model that has such adapters.

    Raises:
        ValueError: they belong to another base or other adapters, or hold what is no number.
    """
    peft, base = require_peft(), base_of(lm)
    if base is None or base.adapter is None:
        raise ValueError(f"{folder} holds adapters, and this {type(lm).__name__} has none")
    _check_base(lm, folder)
    weights = {k.removeprefix(_PREFIX): v for k, v in _tensors(folder / WEIGHTS).items()}
    own = peft.get_peft_model_state_dict(lm, adapter_name=base.adapter, save_embedding_layers=False)
    shapes = {k: tuple(v.shape) for k, v in own.items()}
    theirs = {k: tuple(v.shape) for k, v in weights.items()}
    if shapes != theirs:
        differ = sorted(k for k in shapes | theirs if shapes.get(k) != theirs.get(k))
        raise ValueError(
            f"{_other(folder, lm)}: {differ[0]} has the shape {theirs.get(differ[0])} there, "
            f"{shapes.get(differ[0])} here"
        )
    peft.set_peft_model_state_dict(lm, weights, adapter_name=base.adapter)
    rows: Any = lm.get_input_embeddings()
    if isinstance(rows, LearntRows):
        rows.load_state_dict(_tensors(folder / _ROWS), strict=False)


def _check_base(lm: PreTrainedModel, folder: Path) -> None:
    """Raise a ValueError if a model is not the base that saved adapters were trained on."""
    if not (folder / _FACTS).is_file():
        return  # written by others, who do not say more than a name
    theirs, ours = _json(folder / _FACTS), describe_base(lm)
    same = all(theirs.get(name) == ours[name] for name in _TELLING)
    if not same or (
        theirs.get("dtype") == ours["dtype"] and theirs.get("weights") != ours["weights"]
    ):
        raise ValueError(_other(folder, lm))


def _other(folder: Path, lm: PreTrainedModel) -> str:
    facts = _json(folder / _FACTS) if (folder / _FACTS).is_file() else _json(folder / CONFIG)
    name = facts.get("name") or facts.get("base_model_name_or_path") or "a model without a name"
    ours = describe_base(lm)
    here = ours["name"] or getattr(lm, "name_or_path", "") or "a model without a name"

    def shown(what: dict[str, Any], called: str) -> str:
        sizes = [f"{k} {what[k]}" for k in _TELLING[1:] if what.get(k) is not None]
        marks = [f"weights {what['weights']:x}"] if isinstance(what.get("weights"), int) else []
        return f"{called!r} ({', '.join([str(what.get('architecture', '?')), *sizes, *marks])})"

    return (
        f"the adapters in {folder} belong to the base {shown(facts, str(name))}, not to "
        f"{shown(ours, here)}"
    )


def _json(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no object, but {type(content).__name__}")
    return content


def _tensors(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    if not file.is_file():
        raise ValueError(f"{file} is missing")
    found = load_file(file)
    for name, tensor in found.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{file}: {name} holds numbers that are not finite")
    return found
