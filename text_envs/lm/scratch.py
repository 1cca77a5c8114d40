"""A small causal language model, untrained, with exactly the words and columns of a task.

The bundled model knows the words of film reviews. A game of its own words (Wordle, the maze) wants
a model of its own, and a small one learns it from demonstrations in minutes on a laptop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from text_envs.core.facts import task_of

# transformers' models take as long to import as all else together, and not everybody makes one.
if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedModel

__all__ = ["make_iid_lm", "make_lm"]


def make_lm(
    source: Any,
    columns: int | None = None,
    *,
    layers: int = 2,
    width: int = 64,
    heads: int = 2,
    rotary: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """Return a GPT-2 with random weights for a task, without dropout and in evaluation mode.

    Input and output embeddings are tied, as in GPT-2. A position that no training text has reached
    is unknown to a GPT-2; `rotary` positions are relative, so a model trained on the beginnings of
    games also plays on from there.

    Args:
        source: an environment of text_envs (an id, or of any face), a task, or a tokenizer.
        columns: positions of the model; None for the columns of an observation, which a tokenizer
            does not know.
        layers: transformer blocks.
        width: of the hidden states, a multiple of `heads`.
        heads: attention heads.
        rotary: a Llama in place of a GPT-2.
        seed: of the weights; torch's own generator is left as it was.

    Raises:
        ValueError: a size is below 1, `width` is no multiple of `heads`, or `columns` is unknown.
        TypeError: `source` is of another kind.

    >>> from text_envs.tasks.toy import Toy
    >>> lm = make_lm(Toy(), width=8)
    >>> lm.config.vocab_size, lm.config.n_positions
    (6, 4)
    """
    from transformers import AutoModelForCausalLM

    tokenizer, known = _facts(source)
    columns = known if columns is None else columns
    if columns is None:
        raise ValueError("a tokenizer does not say how long texts are; pass columns=...")
    sizes = {"columns": columns, "layers": layers, "width": width, "heads": heads}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if width % heads:
        raise ValueError(f"width must be a multiple of heads={heads}, got {width}")
    ids = {
        "vocab_size": int(tokenizer.vocab_size),
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    config = (_llama if rotary else _gpt2)(columns, layers, width, heads, ids)
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return cast("PreTrainedModel", lm.eval())


def _gpt2(columns: int, layers: int, width: int, heads: int, ids: dict[str, Any]) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        n_positions=columns,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **ids,
    )


def _llama(columns: int, layers: int, width: int, heads: int, ids: dict[str, Any]) -> Any:
    if width // heads % 2:
        raise ValueError(f"rotary needs an even width / heads, got {width} / {heads}")
    from transformers import LlamaConfig

    return LlamaConfig(
        max_position_embeddings=columns,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        tie_word_embeddings=True,
        **ids,
    )


def make_iid_lm(source: Any, probabilities: Sequence[float], *, seed: int = 0) -> GPT2LMHeadModel:
    """Return a small GPT-2 that is a known distribution at first, and free to become any other.

    Its tokens are independent draws from `probabilities`, whatever came before: a reference whose
    numbers can be worked out by hand, for small tasks such as `Toy-v0`.

    Args:
        source: an environment of text_envs or a task, see `make_lm`.
        probabilities: one an action, above 0, with sum 1.
        seed: of the weights that do not matter yet.

    Raises:
        ValueError: another number of probabilities, or no distribution.

    >>> lm = make_iid_lm("text_envs/Toy-v0", (0.5, 0.3, 0.2))  # a, b, end
    >>> from text_envs import exact
    >>> round(exact.evaluate("text_envs/Toy-v0", lm).mean_return, 3)
    0.514
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer, columns = _facts(source)
    if columns is None:
        raise ValueError(f"source must be a task or an environment, got {type(source).__name__}")
    values = torch.tensor(probabilities, dtype=torch.float32)
    actions = int(tokenizer.num_actions)
    if len(values) != actions or not bool((values > 0).all()) or abs(values.sum() - 1) > 1e-5:
        raise ValueError(
            f"probabilities must be {actions} numbers above 0 with sum 1, got {list(probabilities)}"
        )
    config = GPT2Config(
        vocab_size=int(tokenizer.vocab_size),
        n_positions=columns,
        n_embd=32,
        n_layer=1,
        n_head=2,
        activation_function="gelu_pytorch_tanh",
        initializer_range=0.3,  # so that training finds directions to go in
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = GPT2LMHeadModel(config)
    with torch.no_grad():
        # Only a constant passes the last normalisation, and the output layer reads it.
        lm.transformer.ln_f.weight.zero_()
        lm.transformer.ln_f.bias.zero_()
        lm.transformer.ln_f.bias[0] = 1.0
        lm.lm_head.weight[:actions, 0] = values.log()
    return cast("GPT2LMHeadModel", lm.eval())


def _facts(source: Any) -> tuple[Any, int | None]:
    """Return the tokenizer and the number of columns, or None where these are unknown."""
    if _is_tokenizer(source):
        return source, None
    task = task_of(source)
    return task.tokenizer, int(task.prompt_length + task.max_tokens)


def _is_tokenizer(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("vocab_size", "eos_id", "pad_id", "encode"))
