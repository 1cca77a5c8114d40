r"""Acting by whole utterances: sample some from the language model, write the best.

Two ways of judging a candidate $x = u_1 \dots u_m$ that follows a state $s_1$:

- Q of utterances: $\min_i \bar Q_i$, read at the candidate's last token;
- Q of tokens: $\sum_k [\min_i \bar Q_i(s_k, u_k) - V(s_k)] + c \log \pi_\beta(x | s_1)$.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from agents.policies.value_networks import ValueTrunk
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.likelihood import sample
from text_envs.lm.sampling import Sampling
from text_envs.lm.transfers import download

__all__ = ["Plans", "Sampled", "judge", "sample_utterances"]


class Guided(Protocol):
    """A policy that can sample utterances and judge them, see `value_guided.ValueGuidedPolicy`."""

    actor: ActionLM
    critic: ValueTrunk
    target: ValueTrunk
    arguments: dict[str, Any]
    variant: str
    max_turn_tokens: int | None
    log_prob_weight: float

    @property
    def device(self) -> torch.device:
        """Where its models are."""
        ...


@dataclass(frozen=True)
class Sampled:
    """Utterances, each behind the text it continues.

    Attributes:
        tokens: `(n, L)` int64.
        first: `(n,)` int64, the column of an utterance's first token.
        last: `(n,)` int64, the column of its last token.
        log_probs: `(n,)` float32, of the whole utterance under the language model as sampled.
    """

    tokens: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    log_probs: NDArray[np.float32]


@torch.no_grad()
def sample_utterances(policy: Guided, tokens: NDArray[np.int64]) -> Sampled:
    """Continue each observation `(n, L)` to the end of the agent's turn, without guidance.

    A turn ends with the end token, after `policy.max_turn_tokens`, or where the columns end.

    Raises:
        ValueError: an observation has no column left to write to.
    """
    tokens = policy.actor.complete(tokens).copy()
    width = tokens.shape[1]
    last = width - 1 - (tokens != policy.actor.pad_id)[:, ::-1].argmax(axis=1)  # (n,)
    if (last == width - 1).any():
        raise ValueError(f"observation {int(last.argmax())} has no empty column to write to")
    first, log_probs = last + 1, np.zeros(len(tokens), dtype=np.float32)
    limit = width if policy.max_turn_tokens is None else policy.max_turn_tokens
    live = np.arange(len(tokens))
    while len(live):
        hidden, _ = policy.actor.decode(tokens[live], live)
        seen = policy.actor.seen(tokens[live])
        drawn, scores = sample(policy.actor.sampling_logits(hidden, seen))
        ids, scored = download(drawn, scores)
        last[live] += 1
        tokens[live, last[live]] = ids
        log_probs[live] += scored
        written = last[live] + 1 - first[live]
        going_on = ~np.isin(ids, policy.actor.eos_ids) & (last[live] < width - 1)
        live = live[going_on & (written < limit)]
    return Sampled(tokens, first, last, log_probs)


@torch.no_grad()
def judge(policy: Guided, sampled: Sampled) -> NDArray[np.float32]:
    """Return how good each utterance is, `(n,)`; see the module's equations."""
    device = policy.device
    tokens = torch.from_numpy(sampled.tokens).to(device)
    if policy.variant == "utterance":
        at = torch.from_numpy(sampled.last[:, None]).to(device)
        hidden = policy.target.encode(tokens, at, torch.ones_like(at, dtype=torch.bool))
        return policy.target.q_min(hidden).squeeze(1).cpu().numpy()
    lengths = sampled.last + 1 - sampled.first
    steps = np.arange(lengths.max())
    mask = torch.from_numpy(steps < lengths[:, None]).to(device)  # (n, m)
    columns = torch.from_numpy(sampled.first[:, None] - 1 + steps).to(device)
    columns = torch.where(mask, columns, 0)
    actions = tokens.gather(1, columns + 1)[mask]
    q = policy.target.q_at(policy.target.encode(tokens, columns, mask), actions).amin(dim=0)
    values = policy.critic.v(policy.critic.encode(tokens, columns, mask))
    advantages = torch.zeros(mask.shape, device=device).masked_scatter(mask, q - values)
    scores = advantages.sum(dim=1).cpu().numpy()
    return np.asarray(scores + policy.log_prob_weight * sampled.log_probs, dtype=np.float32)


@dataclass
class Plan:
    """An utterance being written: the row as it should look next, and what is left to write."""

    row: NDArray[np.int64]
    column: int
    left: list[int]
    score: float

    def pop(self) -> int:
        """Return the next token, and write it."""
        token = self.left.pop(0)
        self.row[self.column] = token
        self.column += 1
        return token


class Plans:
    """What texts are about to be continued with.

    A plan belongs to a text, not to a place in the batch: whichever row looks as a plan left it is
    continued by that plan, so that rows may come and go from call to call. A text that no plan left
    is new, or its turn is over: it gets a new plan. Plans of texts that are not shown are dropped:
    what is played must not depend on what was played before. Environments that take turns need a
    policy each, or every token is planned anew.

    Attributes:
        waiting: unfinished plans, by the bytes of the row they expect; equal rows have one each.

    Args:
        candidates: utterances to choose among.
    """

    def __init__(self, candidates: int) -> None:
        self.candidates = candidates
        self.waiting: dict[bytes, list[Plan]] = {}
        self.made_by: tuple[Sampling, int] | None = None

    def forget(self) -> None:
        """Drop all plans; they were made with other weights."""
        self.waiting.clear()

    @staticmethod
    def mark(policy: Guided) -> tuple[Sampling, int]:
        """Return what changes with the settings and with every in-place update of a weight."""
        return policy.actor.sampling, policy.actor.weights_mark()

    def next_tokens(
        self, policy: Guided, tokens: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the next token of each row and how good its utterance is, each `(n,)`.

        Args:
            policy: samples and judges.
            tokens: `(n, L)` observations.
        """
        made_by = self.mark(policy)
        if made_by != self.made_by:  # what was planned, nobody would plan now
            self.forget()
            self.made_by = made_by
        found = [self.waiting.get(row.tobytes(), []) for row in tokens]
        plans = [same.pop(0) if same else None for same in found]
        new = [i for i, plan in enumerate(plans) if plan is None]
        for i, plan in zip(new, self._plan(policy, tokens[new]) if new else [], strict=True):
            plans[i] = plan
        self.forget()
        chosen = cast("list[Plan]", plans)
        actions = np.array([plan.pop() for plan in chosen], dtype=np.int64)
        for plan in chosen:
            if plan.left:
                self.waiting.setdefault(plan.row.tobytes(), []).append(plan)
        return actions, np.array([plan.score for plan in chosen], dtype=np.float32)

    def _plan(self, policy: Guided, tokens: NDArray[np.int64]) -> list[Plan]:
        sampled = sample_utterances(policy, np.repeat(tokens, self.candidates, axis=0))
        scores = judge(policy, sampled).reshape(len(tokens), self.candidates)
        plans = []
        for i, best in enumerate(scores.argmax(axis=1).tolist()):
            j = i * self.candidates + best
            first, last = int(sampled.first[j]), int(sampled.last[j])
            left = sampled.tokens[j, first : last + 1].tolist()
            plans.append(Plan(tokens[i].copy(), first, left, float(scores[i, best])))
        return plans
