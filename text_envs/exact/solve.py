"""Values: the optimum with and without a KL penalty, and those of a given policy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.exact.growing import MAX_NODES, enumerate_tree
from text_envs.exact.sequences import Sequences, list_sequences
from text_envs.exact.tree import Tree
from text_envs.policies.functions import PolicyFunction

__all__ = [
    "PolicyValues",
    "Solution",
    "Values",
    "q_of",
    "reference_on",
    "relative_entropy",
    "solve",
]

Floats = NDArray[np.float64]

# Actions whose values differ by less, relative to the value, share the greedy choice.
_TIE = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class Values:
    """Values at every node of a tree.

    Attributes:
        tree: the nodes, in whose order the arrays are.
        beta: coefficient of the KL penalty; 0 for none.
        gamma: discount.
        state_values: `(N,)` V.
        action_values: `(N, A)` Q, for the actions `tree.actions`.
        log_reference: `(N, A)` log pi0.
    """

    tree: Tree
    beta: float
    gamma: float
    state_values: Floats
    action_values: Floats
    log_reference: Floats

    @property
    def value(self) -> float:
        """V at the start, averaged over the examples."""
        roots = self.tree.levels[0]
        return float(self.tree.chances[roots] @ self.state_values[roots])

    def v(self, observations: Any) -> Any:
        """Return V of an observation `(L,)` as a float, or of several `(B, L)` as `(B,)`.

        Raises:
            ValueError: one of them is no state of the tree.
        """
        tokens = np.asarray(observations)
        found = self.state_values[self.tree.find(np.atleast_2d(tokens))]
        return found if tokens.ndim > 1 else float(found[0])

    def q(self, observations: Any) -> Floats:
        """Return Q of an observation `(L,)` as `(num_actions,)`, or of several as `(B, ...)`.

        Minus infinity stands at ids that may not be written.

        Raises:
            ValueError: one of them is no state of the tree.
        """
        tokens = np.asarray(observations)
        nodes = self.tree.find(np.atleast_2d(tokens))
        found = self.tree.expand(self.action_values[nodes])
        return found if tokens.ndim > 1 else found[0]

    def _best_response(self) -> Floats:
        """Return `(N, A)`: pi0 exp(Q / beta), normalised; without a penalty the best actions."""
        if self.beta > 0:
            scores = self.log_reference + self.action_values / self.beta
            return scores - _log_sum(scores)[:, None]
        top = self.action_values.max(axis=1, keepdims=True)
        best = self.action_values >= top - _TIE * np.maximum(1.0, np.abs(top))
        with np.errstate(divide="ignore"):
            log_policy: Floats = np.log(best / best.sum(axis=1, keepdims=True))
        return log_policy

    def __repr__(self) -> str:
        return f"{type(self).__name__}(value={self.value:.6g}, beta={self.beta:g}, {self.tree!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Solution(Values):
    """The optimum of an environment, see `solve`."""

    @cached_property
    def log_policy(self) -> Floats:
        """`(N, A)` log-probabilities of the optimal policy at every node."""
        return self._best_response()

    @cached_property
    def policy(self) -> PolicyFunction:
        """The optimal policy; where several actions are best, each gets the same share."""
        return self.tree.as_policy(self.log_policy, "optimum")

    @property
    def log_z(self) -> Floats:
        r"""$\log Z(c) = V(c) / \beta$ at the start of each example, `(E,)`.

        `value` is the mean of `beta * log_z`.

        Raises:
            ValueError: there is no KL penalty, so no posterior.
        """
        _need_posterior(self.beta)
        log_z: Floats = self.state_values[self.tree.starts] / self.beta
        return log_z

    def sequences(self) -> Sequences:
        """Return every finished text with its reward and its probabilities.

        Raises:
            ValueError: there is no KL penalty, so no posterior.
        """
        _need_posterior(self.beta)
        return list_sequences(self.tree, self.log_policy, self.log_reference)


@dataclass(frozen=True, eq=False, repr=False)
class PolicyValues(Values):
    """The values of a policy, see `q_of`."""

    @cached_property
    def improved(self) -> PolicyFunction:
        r"""The best policy if the given one takes over after one action.

        $\pi(a|s) \propto \pi_0(a|s) \exp(Q(s, a) / \beta)$; without a penalty the best actions.
        """
        return self.tree.as_policy(self._best_response(), "improved")


def _need_posterior(beta: float) -> None:
    if not beta > 0:
        raise ValueError(
            f"the posterior pi0 exp(r / beta) / Z needs beta above 0, got beta={beta:g}; "
            "call solve(env, reference, beta=...)"
        )


def solve(
    env: Any,
    reference: Any = None,
    beta: float = 0.0,
    *,
    gamma: float = 1.0,
    max_nodes: int = MAX_NODES,
) -> Solution:
    r"""Return the optimum of $E[\sum_t \gamma^t (r_t - \beta \log(\pi / \pi_0)(a_t|s_t))]$.

    Args:
        env: an id, an environment of text_envs (wrapped or as a `VecEnv`), a `Task`, or a `Tree`.
            Its reward model, its replies and its shaping plug-in count; start plug-ins and outer
            limits on steps do not, as they are no part of the task.
        reference: $\pi_0$, anything `text_envs.policies.as_log_probs` takes; None for uniform.
        beta: coefficient of the KL penalty; 0 for none, then `reference` has no influence.
        gamma: discount for each action.
        max_nodes: the largest tree to enumerate.

    Raises:
        ValueError: `beta` or `gamma` out of range; a tree that is too large; a task that draws
            random numbers within an episode.
        TypeError: `env` or `reference` is of another kind.
    """
    _check_coefficients(beta, gamma)
    tree = enumerate_tree(env, max_nodes=max_nodes)
    log_reference = reference_on(tree, reference)

    def value(q: Floats, level: slice) -> Floats:
        if beta > 0:
            return beta * _log_sum(log_reference[level] + q / beta)
        best: Floats = q.max(axis=1)
        return best

    v, q = tree.backward(value, gamma)
    return Solution(tree, float(beta), float(gamma), v, q, log_reference)


def q_of(
    env: Any,
    policy: Any,
    reference: Any = None,
    beta: float = 0.0,
    *,
    gamma: float = 1.0,
    max_nodes: int = MAX_NODES,
) -> PolicyValues:
    r"""Return the values of a policy, its KL penalty from the next action on included.

    $Q(s, a) = r(s, a) + \gamma E V(s')$ and
    $V(s) = \sum_a \pi(a|s) (Q(s, a) - \beta \log(\pi / \pi_0)(a|s))$.

    Args:
        env: see `solve`.
        policy: anything `text_envs.policies.as_log_probs` takes.
        reference: $\pi_0$; None for uniform.
        beta: coefficient of the KL penalty; 0 for plain values.
        gamma: discount for each action.
        max_nodes: the largest tree to enumerate.

    Raises:
        ValueError: see `solve`.
        TypeError: see `solve`.
    """
    _check_coefficients(beta, gamma)
    tree = enumerate_tree(env, max_nodes=max_nodes)
    log_policy = tree.log_probs(policy)
    log_reference = reference_on(tree, reference)
    p = np.exp(log_policy)

    def value(q: Floats, level: slice) -> Floats:
        v: Floats = (p[level] * np.where(p[level] > 0, q, 0.0)).sum(axis=1)
        if beta > 0:
            v = v - beta * relative_entropy(log_policy[level], log_reference[level])
        return v

    v, q = tree.backward(value, gamma)
    return PolicyValues(tree, float(beta), float(gamma), v, q, log_reference)


def _check_coefficients(beta: float, gamma: float) -> None:
    if not (np.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta must be 0 (no KL penalty) or a positive number, got {beta!r}")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be between 0 and 1, got {gamma!r}")


def reference_on(tree: Tree, reference: Any) -> Floats:
    """Return `(N, A)` log-probabilities of a reference, uniform if it is None."""
    return tree.log_uniform() if reference is None else tree.log_probs(reference)


def relative_entropy(log_p: Floats, log_q: Floats) -> Floats:
    r"""Return $KL(p || q) = \sum_a p_a \log(p_a / q_a)$ of each row, `(n,)`; may be infinite."""
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = p * (log_p - log_q)
    total: Floats = np.where(p > 0, terms, 0.0).sum(axis=1)
    return total


def _log_sum(scores: Floats) -> Floats:
    """Return the logarithm of the summed exponentials of each row, `(n,)`."""
    top = scores.max(axis=1)
    total: Floats = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
    return total
