"""What agents read from an environment: its batch of rows, its tokens."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np

from text_envs.datasets import EpisodeDataset
from text_envs.lm.scratch import make_lm
from text_envs.tokens.loading import load_tokenizer
from text_envs.tokens.protocol import Tokenizer, end_ids
from text_envs.tokens.vocabulary import check_vocabulary, saved_vocabulary, tokenizer_facts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "as_vec_env",
    "attribute",
    "policy_kwargs_for",
    "recorded_env",
    "say_untrained",
    "tokenizer_of",
]

logger = logging.getLogger(__name__)


def as_vec_env(env: Any, num_envs: int | None, n_episodes: int, group_size: int = 1) -> Any:
    """Return a `VecEnv` for an id or a vector environment; leave anything else as it is.

    Of an id, `num_envs=None` makes as many as divide `n_episodes`, at most 64; whole groups if some
    such number has them.
    """
    if isinstance(env, str | gym.vector.VectorEnv):
        import text_envs

        if isinstance(env, str):
            most = min(n_episodes, max(64, group_size))
            fitting = [n for n in range(1, most + 1) if n_episodes % n == 0]
            most = max([n for n in fitting if n % group_size == 0] or fitting)
            return text_envs.make_sb3(env, num_envs=most if num_envs is None else num_envs)
        return text_envs.make_sb3(env)
    if num_envs is not None and num_envs != getattr(env, "num_envs", 1):
        raise ValueError(
            f"num_envs={num_envs} is for environments given by id; this one has "
            f"{getattr(env, 'num_envs', 1)}"
        )
    return env


def recorded_env(dataset: EpisodeDataset, num_envs: int) -> Any:
    """Return a `VecEnv` like the one that episodes were recorded in; None if they do not say."""
    import text_envs

    spec = dataset.metadata.get("env_spec")
    if spec is None or spec["id"] not in gym.registry or spec.get("additional_wrappers"):
        return None  # what a wrapper did to a single row, it may not do to a batch
    limit = spec.get("max_episode_steps")
    limited = {} if limit is None else {"max_episode_steps": limit}
    return text_envs.make_sb3(spec["id"], num_envs=num_envs, **spec["kwargs"], **limited)


def tokenizer_of(env: Any) -> Tokenizer | None:
    """Return the tokenizer of an environment of any kind, or None."""
    return cast("Tokenizer | None", attribute(env, "tokenizer"))


def policy_kwargs_for(
    env: Any,
    model: str | os.PathLike[str] | PreTrainedModel | Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Return the `policy_kwargs` that make `CausalLMPolicy` fit an environment.

    ```python
    env = text_envs.make_sb3("text_envs/Reviews-v0", num_envs=16)
    agent = stable_baselines3.PPO(CausalLMPolicy, env, policy_kwargs=policy_kwargs_for(env))
    ```

    Args:
        env: a text environment: single, Gymnasium vector or Stable-Baselines3 `VecEnv`.
        model: the language model, see `load_lm`; or `"scratch"` for a small untrained one of the
            environment's own words, or its sizes, for example `{"layers": 2, "width": 64}`, see
            `text_envs.lm.make_lm`. None for the bundled one, `"reviews"`, where the environment has
            its words, else `"scratch"`.
        **kwargs: further arguments of `CausalLMPolicy`; they have precedence.

    Raises:
        ValueError: the environment has no tokenizer, or a saved agent learnt with another one.
    """
    tokenizer = tokenizer_of(env)
    if tokenizer is None:
        raise ValueError(
            f"{type(env).__name__} has no tokenizer; accepted: environments of text_envs, or "
            "policy_kwargs with pad_id and bos_id written by hand"
        )
    if model is None:
        bundled = tokenizer_facts(load_tokenizer("reviews")) == tokenizer_facts(tokenizer)
        model = "reviews" if bundled else "scratch"
        if model == "scratch":
            model = make_lm(env)
            say_untrained(model)
    # Not inside: a checkpoint that is being loaded compares by itself, and says more.
    model = _model_of(env, "model", model, inside=False)
    if "value_model" in kwargs:
        kwargs["value_model"] = _model_of(env, "value_model", kwargs["value_model"])
    bos = tokenizer.bos_id
    facts = {
        "model": model,
        "pad_id": int(tokenizer.pad_id),
        "bos_id": int(tokenizer.eos_id if bos is None else bos),
        "eos_id": int(tokenizer.eos_id),
        "prompt_length": getattr(attribute(env, "task"), "prompt_length", None),
        "forbidden": np.flatnonzero(tokenizer.forbidden).tolist(),
    }
    if len(ends := end_ids(tokenizer)) > 1:
        facts["eos_ids"] = [int(end) for end in ends]
    return facts | kwargs


def say_untrained(lm: Any) -> None:
    """Say that nobody named a model, and what was made in its place."""
    config = lm.config
    logger.warning(
        "no model was named, so a small untrained one is made: %s, %d layers of width %d, %s "
        "parameters. Name one in policy_kwargs, {'model': a folder, a Hub name, 'reviews'}, or "
        "sizes, {'model': {'layers': 2, 'width': 64}}; 'scratch' asks for this one",
        type(lm).__name__,
        config.num_hidden_layers,
        config.hidden_size,
        f"{sum(p.numel() for p in lm.parameters()):,}",
    )


def _model_of(env: Any, name: str, model: Any, *, inside: bool = True) -> Any:
    """Return a new model where one from scratch is asked for; else what was given, checked."""
    if model == "scratch" or isinstance(model, Mapping):
        return make_lm(env, **({} if isinstance(model, str) else model))
    if isinstance(model, str | os.PathLike):
        theirs = saved_vocabulary(model, inside=inside)
        check_vocabulary(f"{name} {os.fspath(model)!r}", theirs, tokenizer_of(env))
    return model


def attribute(env: Any, name: str) -> Any:
    """Return an attribute of the innermost environment, or None."""
    try:
        if hasattr(env, "get_attr") and hasattr(env, "num_envs"):
            return env.get_attr(name)[0]
        return getattr(env.unwrapped, name)
    except AttributeError:
        return None
