"""How probable a text is after each instruction, or each question: one forward pass a pair."""

from __future__ import annotations

import torch
from torch import Tensor

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
) -> tuple[Tensor, Tensor | None]:
    """Return the mean log-probability of each text under the instructions.

    Args:
        actor: the language model.
        batch: b texts.
        num_goals: K.
        opposite: score under all instructions; False for the right one alone.
        with_entropy: also return the entropies under the right instruction.

    Returns:
        `(b, K)` or `(b, 1)`, column k under the goal `(right + k) % K`, so that the right one is
        the first; and entropies `(b, T)`, 0 outside of the mask, or None.
    """
    times, device = num_goals if opposite else 1, batch.goals.device
    goals = (batch.goals + torch.arange(times, device=device)[:, None]) % num_goals  # (times, b)
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


def scores_in_batch(actor: Instructed, batch: Relabelled, prompt_length: int) -> Tensor:
    """Return the mean log-probability of text i after question and instruction k, `(b, b)`.

    Args:
        actor: the language model.
        batch: b texts, of one turn each.
        prompt_length: the first generated column.
    """
    b = len(batch)
    each = torch.arange(b, device=batch.goals.device)
    text, question = each.repeat_interleave(b), each.repeat(b)
    prompts, texts = batch.tokens[question, :prompt_length], batch.tokens[text, prompt_length:]
    mask = batch.mask[text]
    hidden = actor.encode(
        torch.cat([prompts, texts], dim=1), batch.columns[text], mask, batch.goals[question]
    )
    log_probs, _ = actor.log_probs(hidden, batch.actions[text][mask])
    return mean_log_probs(_padded(log_probs, mask), mask).reshape(b, b)


def _padded(values: Tensor, mask: Tensor) -> Tensor:
    return spread(values, places_of(mask), mask.shape)
