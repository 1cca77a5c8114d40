"""Loading causal language models, and freezing copies of them.

`load_lm("reviews")` gives the bundled model and its tokenizer; a folder or a Hub name gives any
other causal model of transformers. Weights are read from safetensors only and code that comes with
a model is never run.
"""

from __future__ import annotations

import difflib
import importlib.resources
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn

from text_envs.lm.action_lm import ActionLM
from text_envs.lm.adapter_files import add_saved, has_adapter_files, saved_base
from text_envs.lm.adapters import (
    add_lora,
    adopt_peft,
    is_peft,
    require_peft,
    starts_as_base,
    without_adapters,
)
from text_envs.lm.precision import as_dtype, check_dtype
from text_envs.lm.rows import count_rows
from text_envs.lm.sharing import base_of, shared_copy
from text_envs.tokens.hub import find_model
from text_envs.tokens.loading import load_tokenizer
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.vocabulary import model_folder

# transformers' models take as long to import as all else together, and not everybody loads one.
if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["BUNDLED", "adapted", "freeze", "load_lm", "quietly"]

logger = logging.getLogger(__name__)

BUNDLED = ("reviews",)
"""Names of the models that come with the package."""

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model", "*.tiktoken", "tekken.json")

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_lm(
    name_or_path: str | os.PathLike[str] | PreTrainedModel,
    *,
    device: torch.device | str = "cpu",
    dtype: str | torch.dtype | None = None,
    seq2seq: bool = False,
) -> tuple[PreTrainedModel, Tokenizer | None]:
    """Return a causal language model in evaluation mode and its tokenizer.

    A tokenizer without a padding token of its own (GPT-2's, for example) gets one; if the model
    has fewer embeddings than the tokenizer has ids, they are added and a message is logged.

    Args:
        name_or_path: `"reviews"`, a folder (of a model, or that an agent was saved to), a Hub
            name, or a model, which is passed through; of GPT-2's family only the activation is
            exchanged for a faster form of the same function. A folder of adapters, and a
            `peft.PeftModel`, give the base with its adapters inside.
        device: where to put the model.
        dtype: of the weights: "float32", "bfloat16", a type of torch, or "auto" for the one they
            are stored in. None for float32; a model that is passed through keeps its own.
        seq2seq: load an encoder-decoder model instead of a causal one.

    Returns:
        the model, and the tokenizer: None for a model that was passed through or comes without.

    Raises:
        ValueError: nothing of that name is found, the Hub cannot be reached, weights are no
            safetensors of the model's own folder, adapters belong to another base, or the device
            cannot compute in that type.
        TypeError: the argument is of another kind.
        ImportError: it has adapters, and peft is missing.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

    if dtype is not None:
        check_dtype(dtype, device)
    if is_peft(name_or_path):
        name_or_path = adopt_peft(name_or_path)
    if isinstance(name_or_path, PreTrainedModel):
        _fuse_gelu(name_or_path)
        given = cast(Any, name_or_path)
        wanted = None if dtype is None else as_dtype(dtype)
        if isinstance(wanted, torch.dtype) and given.dtype != wanted:
            given = given.to(wanted)
        return cast("PreTrainedModel", given.to(device)).eval(), None
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            "model must be 'reviews', a folder, a Hub name or a transformers model, got "
            f"{type(name_or_path).__name__}"
        )
    source = _locate(os.fspath(name_or_path))
    if has_adapter_files(source):
        return _load_adapted(Path(source), device, dtype, seq2seq)
    kind, bundled = "encoder-decoder", ""
    if not seq2seq:
        kind, bundled = "causal", ", ".join(map(repr, BUNDLED)) + ", "
    architecture = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    try:
        with quietly():
            source = find_model(source)
            model = _read(architecture, source, as_dtype(dtype or torch.float32))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no {kind} language model {os.fspath(name_or_path)!r} (safetensors). Accepted: "
            f"{bundled}a folder, a Hub name. What went wrong: {error}"
        ) from error
    check_dtype(model.dtype, device)  # "auto" is known only now
    _fuse_gelu(model)
    tokenizer = _tokenizer_of(source)
    if tokenizer is not None:
        _fit_embeddings(model, tokenizer)
    return cast("PreTrainedModel", model.to(cast(Any, device))).eval(), tokenizer


def adapted(lm: PreTrainedModel, lora: Mapping[str, Any], source: Any) -> PreTrainedModel:
    """Put new adapters into a model, see `text_envs.lm.adapters.add_lora`; return it.

    Args:
        lm: changed in place.
        lora: arguments of `peft.LoraConfig`.
        source: what it was loaded by, or the model itself.
    """
    named = isinstance(source, str | os.PathLike) and not hasattr(source, "parameters")
    name = os.fspath(source) if named else None
    if name is not None and name not in BUNDLED and Path(name).exists():
        name = str(Path(name).absolute())  # whoever loads it may stand elsewhere
    return add_lora(lm, lora, name)


def freeze(module: ModuleT) -> ModuleT:
    """Return a copy in evaluation mode whose parameters take no gradient.

    It is deep but for the base under adapters, which is never trained and therefore shared; and
    adapters that change nothing yet are left out.
    """
    from transformers import PreTrainedModel

    frozen = shared_copy(module).requires_grad_(False)
    for part in frozen.modules():
        if isinstance(part, PreTrainedModel) and base_of(part) and starts_as_base(part):
            without_adapters(part)
        if isinstance(part, ActionLM):  # what a policy was in the midst of, this one is not
            part.drop_cache()
    return frozen.eval()


def _load_adapted(
    folder: Path, device: torch.device | str, dtype: Any, seq2seq: bool
) -> tuple[PreTrainedModel, Tokenizer | None]:
    """Return the base of saved adapters with these inside, and their tokenizer."""
    require_peft()
    named = saved_base(folder)
    try:
        base, tokenizer = load_lm(named, device=device, dtype=dtype, seq2seq=seq2seq)
    except ValueError as error:
        raise ValueError(
            f"the base of the adapters in {folder} cannot be loaded: {error}"
        ) from error
    inside = Path(named).is_relative_to(folder)  # it goes where the adapters go, and has no name
    model = add_saved(base, folder, None if inside else named)
    own = _tokenizer_of(str(folder))
    return model.to(cast(Any, device)), tokenizer if own is None else own


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from drawing a progress bar for every file it reads or writes."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _read(architecture: Any, source: str, dtype: torch.dtype | str) -> Any:
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    try:
        return architecture.from_pretrained(
            source, attn_implementation="sdpa", trust_remote_code=False, **options
        )
    except ValueError as error:
        if "attn_implementation" not in str(error):
            raise
    # A family without the fast form, such as GPT-Neo.
    return architecture.from_pretrained(
        source, attn_implementation="eager", trust_remote_code=False, **options
    )


def _locate(name: str) -> str:
    if name in BUNDLED:
        return str(importlib.resources.files("text_envs") / "assets" / name)
    if (kept := model_folder(name)) != name:
        return os.fspath(kept)
    if not Path(name).exists() and "/" not in name:
        close = difflib.get_close_matches(name, BUNDLED, n=1, cutoff=0.7)
        if close:  # answered here: asking the Hub for a misspelt name takes long without network
            raise ValueError(
                f"no language model {name!r}. Did you mean {close[0]!r}? Accepted: "
                f"{', '.join(map(repr, BUNDLED))}, a folder, a Hub name"
            )
    return name


def _tokenizer_of(source: str) -> Tokenizer | None:
    if source == _locate("reviews"):
        return load_tokenizer("reviews")
    if Path(source).is_dir() and not any(list(Path(source).glob(f)) for f in _TOKENIZER_FILES):
        return None  # transformers would make up an empty one
    try:
        return load_tokenizer(source, add_padding=True)
    except ImportError:
        raise
    except Exception as error:
        logger.warning("%s comes without a tokenizer that can be used: %s", source, error)
        return None


def _fit_embeddings(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    rows = count_rows(model)
    if rows < tokenizer.vocab_size:
        model.resize_token_embeddings(tokenizer.vocab_size, mean_resizing=False)
        logger.info(
            "embeddings resized from %d to %d rows, the tokenizer's vocabulary",
            rows,
            tokenizer.vocab_size,
        )


def _fuse_gelu(model: PreTrainedModel) -> None:
    """Replace GPT-2's activation, eight operations, by the same function as one operation."""
    from transformers.activations import GELUTanh, NewGELUActivation

    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, GELUTanh())
    if getattr(model.config, "activation_function", None) == "gelu_new":
        model.config.activation_function = "gelu_pytorch_tanh"
