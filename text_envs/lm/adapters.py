"""Low-rank adapters of peft inside of language models: put in, compared, taken out, merged.

A model with adapters stays the model of transformers that it is, with some of its layers wrapped;
nothing else here needs to know. peft is imported when somebody asks for adapters.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from text_envs.episodes.errors import suggest
from text_envs.lm.rows import LearntRows
from text_envs.lm.sharing import Base, base_of, shared_copy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "LORA_ARGUMENTS",
    "add_lora",
    "adopt_peft",
    "inject",
    "is_peft",
    "merged",
    "plain_base",
    "require_peft",
    "starts_as_base",
    "without_adapters",
]

LORA_ARGUMENTS = (
    "alpha_pattern", "bias", "exclude_modules", "fan_in_fan_out", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_bias", "lora_dropout", "r",
    "rank_pattern", "target_modules", "use_dora", "use_rslora",
)  # fmt: skip
"""Arguments of `peft.LoraConfig` that can be given; others train or change the base itself."""

_TRAINS_BASE = (
    "bias", "layer_replication", "modules_to_save", "target_parameters", "trainable_token_indices",
)  # fmt: skip

# Ways to begin that leave the base as it is, and with it all that share it.
_INITS = (True, False, "gaussian", "orthogonal")


def require_peft() -> Any:
    """Return the module peft.

    Raises:
        ImportError: it is missing; the message says how to get it.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            f"low-rank adapters need peft: pip install 'text_envs[lora]' ({error})"
        ) from error
    return peft


def is_peft(model: Any) -> bool:
    """Return whether something is a `peft.PeftModel`."""
    peft = sys.modules.get("peft")  # whatever is one was made by a module that is loaded by now
    return peft is not None and isinstance(model, peft.PeftModel)


def add_lora(
    lm: PreTrainedModel, lora: Mapping[str, Any], name: str | None = None
) -> PreTrainedModel:
    """Put new adapters into a model and freeze everything else of it; return the model.

    Args:
        lm: changed in place.
        lora: arguments of `peft.LoraConfig`, see `LORA_ARGUMENTS`. Without `target_modules` those
            that peft knows for the family.
        name: what the model was loaded by; None where it has no name that finds it again.

    Raises:
        ImportError: peft is missing.
        TypeError: it is no mapping, or names an argument that cannot be given.
        ValueError: a value that cannot be used, or the model has nothing to adapt or has adapters.
    """
    peft = require_peft()
    given = _checked(lora)
    if base_of(lm) is not None:
        raise ValueError(
            f"this {type(lm).__name__} has adapters already; accepted: lora=... with a model that "
            "has none, or the model as it is without lora"
        )
    from transformers.pytorch_utils import Conv1D

    turned = any(isinstance(part, Conv1D) for part in lm.modules())
    given.setdefault("fan_in_fan_out", turned)
    try:
        config = peft.LoraConfig(**given, task_type=_task(lm))
        made = inject(lm, config)
    except (ValueError, TypeError) as error:
        kinds = sorted({n.rsplit(".", 1)[-1] for n, p in lm.named_modules() if _is_linear(p)})
        raise ValueError(
            f"lora={dict(lora)!r} does not fit {type(lm).__name__}: {error}. Accepted for "
            f"target_modules: names of its layers, {', '.join(kinds)}"
        ) from error
    cast(Any, made).adapted_base = Base(name, checked=name is not None)
    return made


def inject(lm: PreTrainedModel, config: Any) -> PreTrainedModel:
    """Put the adapters of a `LoraConfig` into a model, in place, and freeze the rest of it."""
    with warnings.catch_warnings():  # peft asks transformers by names that are going to change
        warnings.simplefilter("ignore", FutureWarning)
        return cast("PreTrainedModel", require_peft().get_peft_model(lm, config).get_base_model())


def adopt_peft(model: Any) -> PreTrainedModel:
    """Return the model inside of a `PeftModel`, its active adapter ready to be trained.

    Raises:
        ValueError: it has adapters of another kind, several active ones, or trains weights of the
            base.
    """
    active = list(model.active_adapters)
    if len(active) != 1:
        raise ValueError(f"one adapter of a PeftModel must be active, got {active}")
    config = model.peft_config[active[0]]
    if getattr(config.peft_type, "value", config.peft_type) != "LORA":
        raise ValueError(f"adapters must be LORA, got {config.peft_type} in {type(model).__name__}")
    for kept in _TRAINS_BASE:
        plain = "none" if kept == "bias" else None
        if getattr(config, kept, plain) not in (plain, [], {}):
            raise ValueError(
                f"a PeftModel with {kept}={getattr(config, kept)!r} trains or changes its base, "
                f"which the reference is to share; accepted: {kept}={plain!r}, or the model merged "
                "(merge_and_unload), which is then trained whole"
            )
    lm = model.get_base_model()
    if any(part.merged for part, _, _ in _wrapped(lm)):
        raise ValueError("the adapter of a PeftModel is merged into its base; unmerge it first")
    if base_of(lm) is None:
        name = getattr(lm.config, "_name_or_path", "") or config.base_model_name_or_path or None
        lm.adapted_base = Base(name, adapter=active[0])
    lm.requires_grad_(False)
    for part, _, _ in _wrapped(lm):
        for kind in part.adapter_layer_names:
            adapters = getattr(part, kind, None)
            if adapters is not None and active[0] in adapters:
                entry = adapters[active[0]]
                entry.requires_grad_(True)
    return cast("PreTrainedModel", lm)


def starts_as_base(lm: nn.Module) -> bool:
    """Return whether adapters leave every score what it is without them, as new ones do."""
    base = base_of(lm)
    if base is None or base.adapter is None:
        return True
    for part, _, _ in _wrapped(lm):
        if part.adapter_layer_names != type(part).adapter_layer_names:
            return False  # a variant such as DoRA, which has further weights
        changes = False
        for down, up in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
            pair = [getattr(part, kind, {}) for kind in (down, up)]
            if all(base.adapter in one for one in pair):
                factors = [list(_parameters(one[base.adapter])) for one in pair]
                changes |= all(any(bool(w.any()) for w in factor) for factor in factors)
                changes |= any(w.ndim == 1 and bool(w.any()) for w in factors[1])
        if changes:
            return False
    return True


def without_adapters(lm: PreTrainedModel) -> PreTrainedModel:
    """Take the adapters out of a model, in place; learnt rows stay. Return the model."""
    for part, parent, name in _wrapped(lm):
        setattr(parent, name, part.get_base_layer())
    _forget(lm)
    base = base_of(lm)
    if base is not None:
        cast(Any, lm).adapted_base = dataclasses.replace(base, adapter=None)
    return lm


def plain_base(lm: PreTrainedModel) -> PreTrainedModel:
    """Return the base of a model as it was before adapters and learnt rows; it shares weights."""
    plain = without_adapters(shared_copy(lm))
    embeddings: Any = plain.get_input_embeddings()
    if isinstance(embeddings, LearntRows):
        plain.set_input_embeddings(cast(Any, embeddings.base_layer))
    return plain


@torch.no_grad()
def merged(lm: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Return a plain model, sharing nothing, that has the scores of a model with adapters.

    What adapters add is added in float32: in bfloat16 most of it would be rounded away.

    Args:
        lm: a model, with adapters or without.
        dtype: of the result; None for that of the model. bfloat16 rounds the sum.
    """
    wanted = lm.dtype if dtype is None else dtype
    whole: Any = copy.deepcopy(lm).float()
    base = base_of(whole)
    for part, parent, name in _wrapped(whole):
        assert base is not None
        part.merge(adapter_names=[base.adapter])
        setattr(parent, name, part.get_base_layer())
    _forget(whole)
    vars(whole).pop("adapted_base", None)
    embeddings: Any = whole.get_input_embeddings()
    if isinstance(embeddings, LearntRows):
        whole.set_input_embeddings(cast(Any, embeddings.base_layer))
        whole.resize_token_embeddings(embeddings.num_embeddings, mean_resizing=False)
        weight = cast(nn.Embedding, whole.get_input_embeddings()).weight
        weight[embeddings.first :] = embeddings.rows
    return cast("PreTrainedModel", whole.to(cast(Any, wanted)).requires_grad_(True))


# -- inside --------------------------------------------------------------------------------------


def _wrapped(lm: nn.Module) -> Iterator[tuple[Any, nn.Module, str]]:
    """Yield each layer with adapters, the module it is in, and its name there."""
    found = [
        (part, parent, name)
        for parent in lm.modules()
        for name, part in parent.named_children()
        if hasattr(part, "adapter_layer_names")
    ]
    return iter(found)


def _parameters(entry: Any) -> Iterator[torch.Tensor]:
    """Yield the weights of an adapter in one layer: a module's, or a parameter by itself."""
    return iter([entry]) if isinstance(entry, torch.Tensor) else entry.parameters()


def _forget(lm: nn.Module) -> None:
    """Remove what peft notes at a model, so that others take it for the plain one it is."""
    for name in ("peft_config", "_hf_peft_config_loaded"):
        vars(lm).pop(name, None)


def _is_linear(part: nn.Module) -> bool:
    return type(part).__name__ in ("Linear", "Conv1D")


def _task(lm: PreTrainedModel) -> str:
    return "SEQ_2_SEQ_LM" if getattr(lm.config, "is_encoder_decoder", False) else "CAUSAL_LM"


def _checked(lora: Any) -> dict[str, Any]:
    """Return arguments of `LoraConfig`, none of which changes or trains the base."""
    if not isinstance(lora, Mapping):
        raise TypeError(
            "lora must be a dictionary of arguments of peft.LoraConfig, such as {'r': 16, "
            f"'lora_alpha': 32}}, got {lora!r}"
        )
    for name in lora:
        if name not in LORA_ARGUMENTS:
            raise TypeError(
                f"lora has {name!r}, which is not taken here.{suggest(str(name), LORA_ARGUMENTS)}"
            )
    if lora.get("lora_dropout", 0.0) != 0:
        raise ValueError(
            f"lora_dropout must be 0, got {lora['lora_dropout']!r}: with dropout the "
            "log-probability of a token would differ between sampling and training"
        )
    if lora.get("bias", "none") != "none":
        raise ValueError(
            f"bias of lora must be 'none', got {lora['bias']!r}: biases belong to the base, which "
            "the reference shares; lora_bias=True gives the adapters their own"
        )
    init = lora.get("init_lora_weights", True)
    if init not in _INITS:
        raise ValueError(
            f"init_lora_weights must be one of {', '.join(map(repr, _INITS))}, got {init!r}, which "
            "changes the base"
        )
    return dict(lora)
