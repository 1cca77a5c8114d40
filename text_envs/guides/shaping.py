"""KL control as a reward: every token pays what a reference policy thinks of it.

**Idea.** Maximising E[r] - beta KL(pi || pi0) keeps an agent near a reference pi0, and its optimum
is known: p*(x) = pi0(x) exp(r(x) / beta) / Z, the posterior of a Bayesian whose prior is pi0. The
KL of texts is a sum over tokens, so it can be part of the ENVIRONMENT's reward, and an agent that
knows nothing of references does KL control.

**Equations** (state s, token a; all in nats)

- without a policy, `ReferenceShaping.shape`: beta log pi0(a|s). With an entropy bonus
  beta H(pi) in the agent this is the objective above: -KL = E log pi0 + H.
- with a policy (`policy=`, `follow` or `supply`), `ReferenceShaping.shape`:
  -beta (log pi(a|s) - log pi0(a|s)), the estimator k1; its sum over a text has the mean
  -beta KL(pi || pi0). The agent needs no entropy bonus.

| symbol | argument | meaning |
|---|---|---|
| pi0 | `reference` | what `text_envs.policies.as_log_probs` takes; models are frozen copies |
| beta | `beta` | nats to rewards, above 0; the attribute may be changed at any time |
| pi | `policy`, `supplied` | the same, but following the agent; or its numbers, step by step |

**What to know.**

- The discount must be 1, and the end token counts: only then is the sum the KL of whole texts.
- Agents add entropy in two ways. A maximum-entropy agent (soft Q-learning, SAC) counts the entropy
  of later steps as a return: its optimum is p* exactly. The `ent_coef` of PPO and A2C adds each
  state's own entropy and nothing to the return, so later terms log pi0 look like plain costs. On
  Toy-v0 the policy at which it comes to rest has KL(pi || p*) = 0.0002 at beta = 0.1, but 0.405 at
  beta = 0.5, farther than pi0 itself (0.331). With `policy=` and `ent_coef=0` both reach p*.
- `ent_coef` and rewards have one unit only without normalised advantages:
  `PPO(..., normalize_advantage=False)`.
- pi must be the distribution that was sampled from. If a sampler restricts it (top-k, a minimum
  length), the sum is not the KL.
- Where pi0(a|s) = 0 the KL is infinite, which is an error here; mask such actions.

**Deviations.** The papers put the penalty into the learner; here it is in the ledger under
`shaping`, so that every return the environment reports holds it.

**References.** Korbak et al., "RL with KL penalties is better viewed as Bayesian inference", 2022,
arXiv 2205.11275; Jaques et al., "Sequence tutor", 2017, arXiv 1611.02796.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.policies.functions import PolicyFunction, as_log_probs
from text_envs.tokens.protocol import end_ids

__all__ = ["ReferenceShaping"]

Floats = NDArray[np.float64]


class ReferenceShaping:
    """Pays beta log pi0(a|s) for every token, or -beta (log pi - log pi0) if it knows the policy.

    All rows are scored in one call a step. A language model decodes with a cache, which finds out
    by itself which rows have started again.

    >>> import gymnasium as gym
    >>> def reference(tokens):
    ...     return np.log([[0.5, 0.3, 0.2]] * len(tokens))  # of a, b and the end, in every state
    >>> env = gym.make("text_envs/Toy-v0", shaping=ReferenceShaping(reference, beta=0.5))
    >>> observation, info = env.reset(seed=0)
    >>> for token in (0, 1, 2):  # "a b" and the end
    ...     observation, reward, terminated, truncated, info = env.step(token)
    ...     print({name: round(paid, 3) for name, paid in info["reward_terms"].items()})
    {'task': 0.0, 'shaping': -0.347}
    {'task': 0.0, 'shaping': -0.602}
    {'task': 1.5, 'shaping': -0.805}

    Attributes:
        beta: the weight of the KL.
    """

    def __init__(
        self,
        reference: Any,
        beta: float,
        *,
        policy: Any = None,
        supplied: bool = False,
        device: Any = "auto",
    ) -> None:
        """Set the reference.

        Args:
            reference: a function from observations to log-probabilities, a causal language model
                or its name ("reviews", a folder, a Hub name), or an agent of Stable-Baselines3;
                of a model that could still learn, a frozen copy is kept.
            beta: the weight of the KL, above 0.
            policy: the agent, or whatever `reference` may be; it is asked at every step as it is
                then. An agent that is built on the environment is given with `follow` afterwards.
            supplied: the policy's log-probabilities come through `supply` before every step.
            device: where models that are named are put, see `text_envs.policies.as_log_probs`.

        Raises:
            ValueError: beta is not above 0, or the policy is given in two ways.
        """
        if not (beta > 0 and np.isfinite(beta)):
            raise ValueError(f"beta must be above 0 and finite, got {beta!r}")
        if supplied and policy is not None:
            raise ValueError("the policy is given either as policy= or through supply(), not both")
        self.beta = float(beta)
        self.supplied = supplied
        self.device = device
        self._sources = {"reference": _frozen(reference)}
        if policy is not None:
            self._sources["policy"] = policy
        self._functions: dict[str, PolicyFunction] = {}
        self._task: Task | None = None
        self._next: Floats | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> ReferenceShaping:
        """Return self: `follow` and `supply` must reach the environment that was made with it."""
        return self

    def fork(self) -> ReferenceShaping:
        """Return one for a copied environment: same sources, but caches of its own."""
        other = copy.copy(self)
        other._sources = dict(self._sources)
        other._functions = {who: function.fork() for who, function in self._functions.items()}
        other._next = None if self._next is None else self._next.copy()
        return other

    def bind(self, task: Task) -> None:
        """Check that reference and policy fit the task, which an environment calls when built.

        Raises:
            ValueError: they belong to another vocabulary, or this object to another task.
        """
        if self._task is not None and _shape_of(self._task) != _shape_of(task):
            raise ValueError(
                "this ReferenceShaping serves a task with other columns or tokens already; make "
                "one for each task"
            )
        functions = {
            who: as_log_probs(source, task, self.device) for who, source in self._sources.items()
        }
        self._task, self._functions = task, functions

    def follow(self, policy: Any) -> None:
        """Pay the full estimator from now on, with the log-probabilities of this policy.

        Args:
            policy: as in the constructor; None to pay beta log pi0 alone.

        Raises:
            ValueError: the policy belongs to another vocabulary, or its numbers are supplied.
        """
        if self.supplied:
            raise ValueError("the policy's log-probabilities come through supply() already")
        function = None
        if policy is not None and self._task is not None:
            function = as_log_probs(policy, self._task, self.device)
        self._sources.pop("policy", None)
        self._functions.pop("policy", None)
        if policy is not None:
            self._sources["policy"] = policy
        if function is not None:
            self._functions["policy"] = function

    def supply(self, log_probs: Any) -> None:
        """Give the policy's log-probabilities of the actions of the next step.

        They serve one step; a step that failed and is repeated needs them again.

        Args:
            log_probs: `(N,)`, one for every row of the environment; a number for a single one.

        Raises:
            ValueError: not asked for in the constructor, or not numbers.
        """
        if not self.supplied:
            raise ValueError("supply() needs ReferenceShaping(..., supplied=True)")
        numbers = np.atleast_1d(np.asarray(log_probs, dtype=np.float64))
        if numbers.ndim != 1 or not np.isfinite(numbers).all():
            raise ValueError(
                f"log_probs must be finite, one a row, got shape {numbers.shape} with "
                f"{int((~np.isfinite(numbers)).sum())} that are not finite"
            )
        self._next = numbers

    def shape(
        self, tokens: NDArray[np.int64], actions: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Floats:
        """Return the rewards `(B,)` of writing `actions` `(B,)`, see the module's equations.

        Args:
            tokens: `(B, L)` the observations.
            actions: `(B,)` what is written.
            rows: `(B,)` names of the rows.

        Raises:
            ValueError: the reference or the policy gives an action probability 0, or nothing was
                supplied.
        """
        log_pi0 = self._log_probs("reference", tokens, actions, rows)
        if self.supplied:
            return -self.beta * (self._take(rows) - log_pi0)
        if "policy" in self._functions:
            return -self.beta * (self._log_probs("policy", tokens, actions, rows) - log_pi0)
        return self.beta * log_pi0

    def _take(self, rows: NDArray[np.int64]) -> Floats:
        numbers, self._next = self._next, None
        if numbers is None:
            raise ValueError("no log-probabilities for this step; call supply(log_probs) first")
        if rows.max(initial=-1) >= len(numbers):
            raise ValueError(
                f"{len(numbers)} log-probabilities were supplied, the environment has a row "
                f"{int(rows.max())}; supply one for every row, those that start again included"
            )
        return numbers[rows]

    def _log_probs(
        self,
        who: str,
        tokens: NDArray[np.int64],
        actions: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> Floats:
        """Return the log-probabilities `(B,)` that `who` gives to the actions."""
        if self._task is None:
            raise ValueError("this ReferenceShaping is in no environment; make(id, shaping=...)")
        function = self._functions[who]
        chosen = function(tokens, rows)[np.arange(len(tokens)), actions]  # (B,)
        impossible = np.isneginf(chosen)
        if impossible.any():
            at, tokenizer = int(impossible.argmax()), self._task.tokenizer
            action = int(actions[at])
            what = "the end token" if action in end_ids(tokenizer) else tokenizer.decode([action])
            prompt, written = np.split(tokens[at], [self._task.prompt_length])
            raise ValueError(
                f"the {who} {function.name} gives {what!r} (id {action}) probability 0 after the "
                f"prompt {tokenizer.decode(prompt.tolist())!r} and the text "
                f"{tokenizer.decode(written.tolist())!r} (row {int(rows[at])}), so the KL is "
                "infinite; the agent must not write what has no probability: mask such actions, "
                "or give every action some"
            )
        return chosen

    def __repr__(self) -> str:
        return f"ReferenceShaping({', '.join(self._sources)}, beta={self.beta:g})"


def _shape_of(task: Task) -> tuple[int, int, Any]:
    return task.prompt_length, task.max_tokens, task.tokenizer


def _frozen(source: Any) -> Any:
    """Return `source`, or a copy that no longer learns if it is a network that does."""
    if "torch" not in sys.modules:  # then it cannot be a network
        return source
    from torch import nn

    network = getattr(source, "policy", source)
    if isinstance(network, nn.Module) and any(p.requires_grad for p in network.parameters()):
        from text_envs.lm import freeze

        return freeze(network)
    return source
