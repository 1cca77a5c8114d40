"""Networks as scores of the next token: language models and agents of Stable-Baselines3.

What `text_envs.policies.as_log_probs` turns into policy functions. torch is imported where a model
is at hand, never before.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.vocabulary import check_vocabulary, saved_vocabulary, vocabulary_of

if TYPE_CHECKING:
    from text_envs.lm import ActionLM

__all__ = [
    "Scores",
    "action_lm",
    "agent_scores",
    "check_actions",
    "check_tokens",
    "is_lm",
    "lm_scores",
    "load_for",
]

Scores: TypeAlias = Callable[[NDArray[np.int64], "NDArray[np.int64] | None"], Any]
"""Maps observations `(B, L)` and names of the rows, or None, to scores `(B, num_actions)`."""


def check_actions(name: str, actions: int, tokenizer: Tokenizer) -> None:
    """Raise a ValueError if a policy of `actions` actions is not one for `tokenizer`."""
    if actions != tokenizer.num_actions:
        raise ValueError(
            f"policy {name} has {actions} actions, the task {tokenizer.num_actions}: "
            "both need the same tokenizer"
        )


# -- language models -----------------------------------------------------------------------------


def is_lm(source: Any) -> bool:
    """Return whether `source` is a language model: of transformers, or an `ActionLM`."""
    # Whatever is a model was made by a module that is loaded by now.
    if "transformers" not in sys.modules or "torch" not in sys.modules:
        return False
    from transformers import PreTrainedModel

    from text_envs.lm import ActionLM
    from text_envs.lm.adapters import is_peft

    return isinstance(source, PreTrainedModel | ActionLM) or is_peft(source)


def load_for(tokenizer: Tokenizer, name: str | os.PathLike[str], device: Any = "auto") -> Any:
    """Return the language model `name` on `device`, see `text_envs.lm.load_lm`.

    Raises:
        ValueError: there is none, it comes with another tokenizer, or there is no such device.
    """
    from text_envs.lm import load_lm
    from text_envs.lm.devices import pick_device

    lm, own = load_lm(name, device=pick_device(device))
    check_tokens(f"policy {os.fspath(name)!r}", own, tokenizer, source=name)
    return lm


def check_tokens(
    name: str, own: Tokenizer | None, tokenizer: Tokenizer, *, source: Any = None, ends: bool = True
) -> None:
    """Refuse a model that comes with another tokenizer than `tokenizer`, or learnt with one.

    Args:
        name: of the model, for the message.
        own: its tokenizer; None where it has none.
        tokenizer: of the task.
        source: where the model was loaded from; a saved agent knows what it learnt with.
        ends: whether both must end texts with the same token, as must who writes them alone.

    Raises:
        ValueError: the tokenizers differ.
    """
    check_vocabulary(name, saved_vocabulary(source), tokenizer)
    if own is not None and not _same_tokens(own, tokenizer, ends):
        raise ValueError(
            f"{name} has the tokenizer {own!r}, the task {tokenizer!r}; "
            "make the environment with tokenizer= of the model, or take a model of its words "
            "('scratch' where one is to be trained)"
        )


def _same_tokens(one: Any, other: Any, ends: bool) -> bool:
    """Return whether ids mean the same; padding, which no model is fed, may differ."""
    if not (hasattr(one, "hf") and hasattr(other, "hf")):
        return bool(one == other)
    known = {i: word for word, i in one.hf.get_vocab().items() if i < other.num_actions}
    words = {i: word for word, i in other.hf.get_vocab().items() if i < other.num_actions}
    return known == words and (not ends or bool(one.eos_id == other.eos_id))


def action_lm(lm: Any, name: str, task: Task | Tokenizer) -> ActionLM:
    """Return a language model as a distribution over the actions of `task`.

    Raises:
        ValueError: it belongs to another vocabulary, or has too few positions.
    """
    from text_envs.lm import ActionLM
    from text_envs.lm.adapters import adopt_peft, is_peft

    lm = adopt_peft(lm) if is_peft(lm) else lm
    tokenizer = task.tokenizer if isinstance(task, Task) else task
    if isinstance(lm, ActionLM):
        check_actions(name, lm.num_actions, tokenizer)
        if lm.pad_id != tokenizer.pad_id:
            raise ValueError(
                f"policy {name} takes {lm.pad_id} for padding, the task {tokenizer.pad_id}: both "
                "need the same tokenizer"
            )
        actor = lm
    else:
        actor = ActionLM(
            lm,
            num_actions=tokenizer.num_actions,
            pad_id=tokenizer.pad_id,
            bos_id=tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id,
            prompt_length=task.prompt_length if isinstance(task, Task) else None,
            forbidden=np.flatnonzero(tokenizer.forbidden).tolist(),
        )
    if isinstance(task, Task):
        actor.check_length(task.prompt_length + task.max_tokens)
    return actor


def lm_scores(
    actor: ActionLM, tokens: NDArray[np.int64], rows: NDArray[np.int64] | None, chunk: int
) -> NDArray[np.float32]:
    """Return the scores of the next action: cached for named rows, else one pass over each row.

    Args:
        actor: the model.
        tokens: `(B, L)` observations.
        rows: `(B,)` names of the rows, or None.
        chunk: rows scored at a time.

    Returns:
        `(B, num_actions)`.
    """
    import torch

    from text_envs.lm.transfers import last_columns

    with torch.inference_mode():
        if rows is not None:
            hidden = actor.decode(tokens, np.asarray(rows))[0]
        else:
            hidden = actor.encode(*last_columns(actor, torch.from_numpy(tokens)))
        seen = actor.seen(tokens)
        parts = [
            actor.sampling_logits(part, None if seen is None else seen.part(at, at + chunk))
            .cpu()
            .numpy()
            for at, part in zip(range(0, len(hidden), chunk), hidden.split(chunk), strict=True)
        ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


# -- Stable-Baselines3 ---------------------------------------------------------------------------


def agent_scores(policy: Any, name: str, task: Task | Tokenizer) -> Scores:
    """Return the scores of a policy of Stable-Baselines3.

    Raises:
        ValueError: it has other spaces, or needs more than the observation.
    """
    tokenizer = task.tokenizer if isinstance(task, Task) else task
    check_vocabulary(f"policy {name}", vocabulary_of(policy), tokenizer)
    space, actions = (getattr(policy, f"{kind}_space", None) for kind in ("observation", "action"))
    if actions is not None:
        if not hasattr(actions, "n"):
            raise ValueError(f"policy {name} has the action space {actions}; accepted: Discrete")
        check_actions(name, int(actions.n), tokenizer)
    space = getattr(space, "spaces", {}).get("observation", space)  # of one that is told goals
    if space is not None and isinstance(task, Task):
        columns = (task.prompt_length + task.max_tokens,)
        if space.shape != columns:
            raise ValueError(
                f"policy {name} takes observations of shape {space.shape}, the task gives {columns}"
            )
    return _distribution_of(policy, name) or _choice_of(policy, tokenizer)


def _distribution_of(policy: Any, name: str) -> Scores | None:
    """Return the scores of a policy that has a distribution."""
    if not hasattr(policy, "get_distribution"):
        return None
    parameters = list(inspect.signature(policy.get_distribution).parameters.values())
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
    if len(needed) != 1:
        raise ValueError(
            f"policy {name} needs {needed} for its distribution; accepted: policies that look at "
            "the observation alone, which holds the whole text"
        )

    def raw(tokens: NDArray[np.int64], rows: NDArray[np.int64] | None) -> Any:
        import torch

        with torch.no_grad():
            distribution = policy.get_distribution(policy.obs_to_tensor(tokens)[0]).distribution
            return distribution.logits

    return raw


def _choice_of(policy: Any, tokenizer: Tokenizer) -> Scores:
    """Return scores that leave only what a policy without a distribution chooses."""

    def raw(tokens: NDArray[np.int64], rows: NDArray[np.int64] | None) -> Any:
        if hasattr(policy, "q_net"):
            import torch

            with torch.no_grad():
                values = policy.q_net(policy.obs_to_tensor(tokens)[0]).cpu().numpy()
            chosen = np.where(tokenizer.forbidden, -np.inf, values).argmax(axis=1)
        else:
            chosen = np.asarray(policy.predict(tokens, deterministic=True)[0])
        scores = np.full((len(tokens), tokenizer.num_actions), -np.inf)
        scores[np.arange(len(tokens)), chosen] = 0.0
        return scores

    return raw
