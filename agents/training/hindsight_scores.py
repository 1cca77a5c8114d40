"""How probable a text is after each instruction, or each question: one sequence a pair.

Where a contrast couples more sequences than a pass may hold, each piece of them is computed without
keeping its states, and again in the backward pass: the gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agents.data.history import Relabelled
from agents.losses.hindsight import mean_log_probs
from agents.policies.instructed import Instructed
from text_envs.lm.transfers import places_of, spread, taken

__all__ = ["scores_by_goal", "scores_in_batch"]


def scores_by_goal(
    actor: Instructed,
    batch: Relabelled,
    num_goals: int,
    *,
    opposite: bool = True,
    with_entropy: bool = False,
    size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the mean log-probability of each text under the instructions.

    Args:
        actor: the language model.
        batch: b texts.
        num_goals: K.
        opposite: score under all instructions; False for the right one alone.
        with_entropy: also return the entropies under the right instruction.
        size: most sequences of a pass; None for any number.

    Returns:
        `(b, K)` or `(b, 1)`, column k under the goal `(right + k) % K`, so that the right one is
        the first; and entropies `(b, T)`, 0 outside of the mask, or None.
    """
    times, device = num_goals if opposite else 1, batch.goals.device
    goals = (batch.goals + torch.arange(times, device=device)[:, None]) % num_goals  # (times, b)
    if size is not None and times * len(batch) > size:
        own, entropy = scores_by_goal(actor, batch, 1, opposite=False, with_entropy=with_entropy)
        others = _in_pieces(
            lambda *texts: _mean_log_probs(actor, *texts),
            [x.repeat(times - 1, *[1] * (x.ndim - 1)) for x in _texts(batch)]
            + [goals[1:].flatten()],
            size,
        )
        return torch.cat([own, others.reshape(times - 1, -1).T], dim=1), entropy
    mask = batch.mask.repeat(times, 1)
    hidden = actor.encode(
        batch.tokens.repeat(times, 1), batch.columns.repeat(times, 1), mask, goals.flatten()
    )
    actions = taken(batch.actions, batch.mask)  # (M,)
    own, others = hidden[: len(actions)], hidden[len(actions) :]
    log_probs, entropy = actor.log_probs(own, actions, with_entropy=with_entropy)
    if opposite:
        rest, _ = actor.log_probs(others, actions.repeat(times - 1))
        log_probs = torch.cat([log_probs, rest])
    scores = mean_log_probs(_padded(log_probs, mask), mask).reshape(times, -1).T
    return scores, None if entropy is None else _padded(entropy, batch.mask)


def scores_in_batch(
    actor: Instructed,
    batch: Relabelled,
    prompt_length: int,
    questions: Relabelled | None = None,
    size: int | None = None,
) -> Tensor:
    """Return the mean log-probability of text i after question and instruction k, `(b, B)`.

    Args:
        actor: the language model.
        batch: b texts, of one turn each.
        prompt_length: the first generated column.
        questions: B texts, whose questions and instructions are meant; None for the same.
        size: most sequences of a pass; None for any number.
    """
    asked = batch if questions is None else questions
    device = batch.goals.device
    text = torch.arange(len(batch), device=device).repeat_interleave(len(asked))
    question = torch.arange(len(asked), device=device).repeat(len(batch))
    prompts, texts = asked.tokens[question, :prompt_length], batch.tokens[text, prompt_length:]
    _, columns, actions, mask = _texts(batch)
    pairs = [
        torch.cat([prompts, texts], dim=1), columns[text], actions[text], mask[text],
        asked.goals[question],
    ]  # fmt: skip
    scores = _in_pieces(lambda *texts: _mean_log_probs(actor, *texts), pairs, size)
    return scores.reshape(len(batch), len(asked))


def _texts(batch: Relabelled) -> list[Tensor]:
    return [batch.tokens, batch.columns, batch.actions, batch.mask]


def _mean_log_probs(
    actor: Instructed,
    tokens: Tensor,
    columns: Tensor,
    actions: Tensor,
    mask: Tensor,
    goals: Tensor,
) -> Tensor:
    """Return the mean log-probabilities `(n,)` of n texts under their goals."""
    hidden = actor.encode(tokens, columns, mask, goals)
    log_probs, _ = actor.log_probs(hidden, taken(actions, mask))
    return mean_log_probs(_padded(log_probs, mask), mask)


def _in_pieces(score: Callable[..., Tensor], rows: list[Tensor], size: int | None) -> Tensor:
    """Return the scores of rows, `size` at a time."""
    if size is None or len(rows[0]) <= size:
        return score(*rows)
    pieces = zip(*(x.split(size) for x in rows), strict=True)
    # Nothing is random: the model is in evaluation mode.
    again: Any = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(score, *piece, **again) for piece in pieces])


def _padded(values: Tensor, mask: Tensor) -> Tensor:
    return spread(values, places_of(mask), mask.shape)
