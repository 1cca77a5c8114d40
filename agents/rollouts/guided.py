"""Roll-outs that agent and guide write together: one of them begins, the other one finishes.

All texts of a round go to the guide in one batch. Which tokens are whose comes from the roles that
the environment keeps, never from the ids of the tokens, and becomes the masks of the two losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from agents.policies.causal_lm import CausalLMPolicy
from agents.rollouts.episodes import Collected, collect_episodes
from agents.rollouts.rollout import Rollout
from text_envs.core.engine import TokenEngine
from text_envs.core.playing import Played, play_out
from text_envs.core.state import fork
from text_envs.episodes.types import Role
from text_envs.guides.roll_in import GuidedStarts

__all__ = ["guide_finishes", "guide_starts", "native_engine", "switch_points"]

OnStep = Callable[[dict[str, Any]], bool]
Facts = dict[str, float]

# Rows whose values are computed at once; a roll-out of long texts need not fit into memory twice.
_CHUNK = 64


def native_engine(env: VecEnv) -> TokenEngine:
    """Return the rows behind a vector environment.

    Raises:
        ValueError: they are not rows of one batch, or begin with tokens of another guide.
    """
    try:
        engine = env.get_attr("engine")[0]
    except AttributeError:
        engine = None
    if not isinstance(engine, TokenEngine) or engine.num_envs != env.num_envs:
        raise ValueError(
            f"a guide needs all rows in one batch, got {type(env).__name__}; accepted: an id, a "
            "TokenVectorEnv, or what text_envs.make_sb3 returns"
        )
    if engine.starts is not None:
        raise ValueError(
            "this environment has a guide of its own (starts=...); make it without, the algorithm "
            "decides which texts begin with the guide's tokens"
        )
    return engine


def switch_points(
    lengths: NDArray[np.int64],
    beta: float,
    rngs: Sequence[np.random.Generator],
    *,
    to_the_end: bool = False,
) -> NDArray[np.int64]:
    """Return h, `(B,)`: with probability beta uniform on 1..l-1 where l is at least 2, else 0.

    Args:
        lengths: `(B,)` tokens of the texts that were rolled in.
        beta: probability of a seam.
        rngs: one generator a text.
        to_the_end: uniform on 1..l instead, so that every token may be the last one before h.

    >>> switch_points(np.array([1, 2]), 1.0, [np.random.default_rng(0)] * 2)
    array([0, 1])
    """
    points = np.zeros(len(lengths), dtype=np.int64)
    for i, (length, rng) in enumerate(zip(lengths.tolist(), rngs, strict=True)):
        most = length if to_the_end else length - 1
        if rng.random() < beta and most >= 1:
            points[i] = rng.integers(1, most + 1)
    return points


def guide_starts(
    policy: CausalLMPolicy, env: VecEnv, starts: GuidedStarts, on_step: OnStep
) -> tuple[Collected, Facts]:
    """Play one text a row that the guide begins and the agent finishes.

    Returns:
        The roll-out, in which only the agent's tokens are steps (`infos` tell h as `seam`); and
        facts about the seams.
    """
    engine = native_engine(env)
    env.reset()
    prefixes = starts.prefixes(engine, engine.all_rows)
    engine.feed_prefix(engine.all_rows, prefixes)
    points = np.array([len(prefix) for prefix in prefixes], dtype=np.int64)
    collected = collect_episodes(policy, env, env.num_envs, engine.tokens.copy(), on_step)
    if collected.complete:
        for info, point in zip(collected.rollout.infos, points.tolist(), strict=True):
            info["seam"] = point
    return collected, _facts(points)


def guide_finishes(
    policy: CausalLMPolicy,
    env: VecEnv,
    starts: GuidedStarts,
    on_step: OnStep,
    *,
    to_the_end: bool = False,
) -> tuple[Collected, Facts]:
    """Play one text a row that the agent begins and the guide finishes.

    The agent writes whole texts first, in the environment; copies of the rows write their first h
    tokens again, with the same replies, and go over to the guide.

    Args:
        policy: the agent's.
        env: a vector of text environments.
        starts: whose guide and beta.
        on_step: see `collect_episodes`; the guide's tokens are no steps of the agent.
        to_the_end: see `switch_points`.

    Returns:
        The roll-out, in which the agent's and the guide's tokens are steps, with the masks of the
        two losses (`infos` tell h as `seam` and l as `roll_in_length`); and facts about the seams.

    Raises:
        ValueError: a wrapper changes rewards, or an outer limit cuts texts.
        Exception: whatever the guide, the environment or the policy raises; the agent's own texts
            are in the exception's attribute `partial_rollout`.
    """
    engine = native_engine(env)
    obs: Any = env.reset()
    seeds = engine.start_seeds(engine.all_rows)
    rngs = [np.random.default_rng([seed, 1]) for seed in seeds]
    scratch = _copies(engine, seeds)
    collected = collect_episodes(policy, env, env.num_envs, obs, on_step)
    own = collected.rollout
    if not collected.complete:
        return collected, _facts(np.zeros(0, dtype=np.int64))
    _refuse_changed(own)
    lengths = own.lengths.cpu().numpy()
    points = switch_points(lengths, starts.beta, rngs, to_the_end=to_the_end)
    try:
        before = _write_again(scratch, own.actions.cpu().numpy(), points)
        after = play_out(
            scratch, scratch.all_rows, starts.guide(engine.task), rngs, role=Role.PREFIX
        )
    except BaseException as error:
        error.partial_rollout = own  # type: ignore[attr-defined]
        if hasattr(error, "add_note"):
            error.add_note(
                "the texts that the agent had finished are in this exception's attribute "
                "partial_rollout"
            )
        raise
    rollout = _joined(scratch, own, points, before, after)
    rollout.values = _values(policy, own, rollout)
    for info, length in zip(rollout.infos, lengths.tolist(), strict=True):
        info["roll_in_length"] = length
    facts = _facts(points) | {"own_reward": float(own.episode_rewards.mean())}
    return collected._replace(rollout=rollout), facts


def _facts(points: NDArray[np.int64]) -> Facts:
    if not len(points):
        return {}
    return {"seams": float((points > 0).mean()), "prefix_length": float(points.mean())}


def _refuse_changed(own: Rollout) -> None:
    """Raise a ValueError if rewards or ends are a wrapper's, which copies of the rows lack."""
    cut = own.truncated.cpu().numpy()
    paid = own.episode_rewards.cpu().numpy()
    earned = sum((term.cpu().numpy() for term in own.reward_terms.values()), np.zeros(len(own)))
    changed = ~np.isclose(paid, earned, rtol=1e-3, atol=1e-4)
    error = None
    if cut.any():
        row = int(cut.argmax())
        error = ValueError(
            f"an outer limit cut text {row} after {int(own.lengths[row])} steps, and a guide that "
            "finishes texts knows of no such limit; accepted: max_tokens of the environment"
        )
    elif changed.any():
        row = int(changed.argmax())
        error = ValueError(
            f"a wrapper made {paid[row]:g} of the reward {earned[row]:g} of text {row}, and the "
            "texts that a guide finishes are paid without wrappers; accepted: reward= or shaping= "
            "of the environment"
        )
    if error is not None:
        error.partial_rollout = own  # type: ignore[attr-defined]
        raise error


def _copies(engine: TokenEngine, seeds: Sequence[int]) -> TokenEngine:
    """Return copies of all rows, which have just begun, with everything that pays."""
    scratch = fork(engine, engine.all_rows)
    scratch.reward_model, scratch.shaping = engine.reward_model, engine.shaping
    if not engine.task.multi_turn:  # no replies to repeat; rewards may draw
        scratch.rngs = [np.random.default_rng([seed, 2]) for seed in seeds]
    return scratch


def _write_again(
    scratch: TokenEngine, actions: NDArray[np.int64], points: NDArray[np.int64]
) -> Played:
    """Write the first `points` `(B,)` of `actions` `(B, T)`, and tell what they earned."""
    played = Played(np.zeros(scratch.tokens.shape), [""] * len(points))
    for t in range(int(points.max(initial=0))):
        rows = np.flatnonzero(points > t)
        columns = scratch.position[rows].copy()
        played.note(rows, rows, columns, scratch.advance(actions[rows, t], rows))
    return played


def _joined(
    scratch: TokenEngine,
    own: Rollout,
    points: NDArray[np.int64],
    before: Played,
    after: Played,
) -> Rollout:
    """Return the finished texts of `scratch` as a roll-out without values.

    Args:
        scratch: the rows.
        own: the agent's roll-in.
        points: `(B,)` h.
        before: what the tokens before h earned.
        after: what the guide's tokens earned.
    """
    roles = scratch.roles(scratch.all_rows)
    written = (roles == int(Role.ACTION)) | (roles == int(Role.PREFIX))  # (B, L)
    count = written.sum(axis=1)
    steps = int(count.max())
    mask = np.arange(steps) < count[:, None]  # (B, T)
    at = np.zeros(mask.shape, dtype=np.int64)
    at[mask] = np.nonzero(written)[1]
    line = np.arange(len(at))[:, None]
    by_agent = torch.from_numpy(mask & (np.arange(steps) < points[:, None]))
    log_probs = torch.zeros(mask.shape)
    width = min(steps, own.log_probs.shape[1])
    log_probs[:, :width] = own.log_probs[:, :width].cpu()
    rewards = before.rewards + after.rewards
    terms = {
        name: torch.from_numpy(sum(part.terms.get(name, 0.0) for part in (before, after))).float()
        for name in before.terms | after.terms
    }
    reasons = [a or b for a, b in zip(before.finish_reasons, after.finish_reasons, strict=True)]
    episodes = scratch.episodes(scratch.all_rows, reasons)
    return Rollout(
        tokens=torch.from_numpy(scratch.tokens.copy()),
        # Generated columns have no gaps: what was last is in the column before.
        columns=torch.from_numpy(np.where(mask, at - 1, 0)),
        actions=torch.from_numpy(np.where(mask, scratch.tokens[line, at], 0)),
        rewards=torch.from_numpy(np.where(mask, rewards[line, at], 0.0)).float(),
        mask=torch.from_numpy(mask),
        log_probs=log_probs.masked_fill(~by_agent, 0.0),
        values=torch.zeros(mask.shape),
        truncated=torch.zeros(len(mask), dtype=torch.bool),
        bootstrap=torch.zeros(len(mask)),
        infos=[
            {"finish_reason": a, "text": b, "roles": c, "example_index": d, "seam": e}
            for a, b, c, d, e in zip(
                reasons, episodes.transcripts, list(roles), scratch.example_index.tolist(),
                points.tolist(), strict=True,
            )
        ],
        reward_terms=terms,
        policy_mask=by_agent,
        critic_mask=torch.from_numpy(mask) & ~by_agent,
    )  # fmt: skip


@torch.no_grad()
def _values(policy: CausalLMPolicy, own: Rollout, rollout: Rollout) -> torch.Tensor:
    """Return the value of every state `(B, T)`; those in which the guide wrote are new."""
    device, judged = policy.device, rollout.critic_steps
    values = torch.zeros_like(rollout.values)
    width = min(values.shape[1], own.values.shape[1])
    values[:, :width] = own.values[:, :width].cpu()
    for index in torch.arange(len(rollout)).split(_CHUNK):
        if bool(judged[index].any()):
            tensors = (rollout.tokens, rollout.columns, rollout.actions, judged)
            _, found, _ = policy.evaluate_episodes(*(x[index].to(device) for x in tensors))
            values[index] = torch.where(judged[index], found.cpu(), values[index])
    return values.masked_fill(~rollout.mask, 0.0)
