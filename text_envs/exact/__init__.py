r"""Exact answers for small environments, by dynamic programming over the tree of texts.

Imports `envs`, `policies` and what stands below them.

Writing a text of at most T tokens over A actions is a tree. If it is small, everything an agent
tries to learn can be computed: the best policy with and without a KL penalty, the posterior that
the penalty makes of the reference, and, for any policy, its return, entropy and divergences. An
agent is right if it comes close to these numbers.

**Values.** `solve` computes, from the last action backwards (`Tree.backward`),
$Q(s, a) = r(s, a) + \gamma \sum_{s'} P(s'|s, a) V(s')$ and
$V(s) = \beta \log \sum_a \pi_0(a|s) e^{Q(s, a) / \beta}$, or $\max_a Q(s, a)$ where
$\beta = 0$; the optimum is $\pi^*(a|s) = \pi_0(a|s) e^{(Q(s, a) - V(s)) / \beta}$
(`Solution.policy`). `q_of` does the same for a given policy:
$V^\pi(s) = \sum_a \pi(a|s) (Q^\pi(s, a) - \beta \log \frac{\pi}{\pi_0}(a|s))$; its one-step
improvement $\pi_0 e^{Q^\pi / \beta}$, normalised, is `PolicyValues.improved`.

**Posterior.** With $\gamma = 1$, the product of the conditionals $\pi^*$ is
$p^*(x) = \pi_0(x) e^{r(x) / \beta} / Z$ (`Solution.sequences`), and $V(start) = \beta \log Z$
(`Solution.log_z`).

**Policies.** `evaluate` sums over the tree from the first action on (`Tree.log_reach`):
$J(\pi) = E_\pi[r] - \beta KL(\pi || \pi_0) = \beta \log Z - \beta KL(\pi || p^*)$, where the KL
of whole texts is the expected sum of the KLs of their tokens.

**What the agent does not see.** A node of the tree is what has been seen and written, no more.
Where several examples look the same (a hidden word), rewards and replies are averages over those
that agree with everything seen so far, so the optimum is that of an agent that knows no more than
its observations. Its trajectories then depend on chance as well: $p^*$ means the distribution of
the optimal policy, of which $J(\pi) = V(start) - \beta KL(\pi || p^*)$ still holds.

| symbol | name | shape | |
|---|---|---|---|
| $s$ | `tree.observations` | `(N, L)` | what the agent sees when it acts |
| $a$ | `tree.actions` | `(A,)` | ids that may be written |
| $r(s, a)$ | `tree.rewards` | `(N, A)` | the environment's expected reward, shaping included |
| $P(s' \mid s, a)$ | `tree.chances` | `(N,)` | at the node s' |
| $\pi_0$ | `reference` | | a policy; None for uniform |
| $\beta$ | `beta` | | coefficient of the KL penalty |
| $\gamma$ | `gamma` | | discount for each action |
| $V, Q$ | `v(obs)`, `q(obs)` | | or by node: `state_values` `(N,)`, `action_values` `(N, A)` |

A policy is anything `text_envs.policies.as_log_probs` takes. An environment is an id, an
environment, a `VecEnv`, a `Task` or a tree from `enumerate_tree`. Its reward model, shaping
plug-in, turns and limits count; start plug-ins and outer limits on steps do not. A task that draws
random numbers within an episode is refused, and so is a tree of more than `max_nodes` nodes. On
one core 1.6 million nodes take about a second:

```
python -m timeit -n 1 -r 1 -s "from text_envs import exact; from text_envs.tasks.toy import Toy" \
    "print(exact.solve(Toy(max_tokens=19), beta=0.5))"
```

>>> import numpy as np
>>> from text_envs import exact
>>> reference = lambda tokens: np.log([[0.5, 0.3, 0.2]] * len(tokens))  # a, b, end
>>> optimum = exact.solve("text_envs/Toy-v0", reference, beta=0.5)
>>> optimum
Solution(value=0.679579, beta=0.5, Tree(Toy, 7 states, 15 texts))
>>> exact.solve("text_envs/Toy-v0").value  # without a penalty: "a b" and the end
1.5
>>> found = exact.evaluate(optimum.tree, reference, reference=reference, beta=0.5)
>>> round(found.mean_return, 6), round(optimum.value - 0.5 * found.reverse_kl, 6)
(0.514, 0.514)
>>> texts = optimum.sequences()
>>> best = texts.rewards.argmax()
>>> texts.texts[best], np.exp(texts.log_posterior[best]).round(6).item()
('a b', 0.154785)

References: Korbak et al., "RL with KL penalties is better viewed as Bayesian inference", 2022,
arXiv 2205.11275, for the posterior; Levine, "Reinforcement learning and control as probabilistic
inference", 2018, arXiv 1805.00909, for the soft recursion.
"""

from __future__ import annotations

from text_envs.exact.evaluate import Evaluation, evaluate
from text_envs.exact.growing import MAX_NODES, enumerate_tree
from text_envs.exact.sequences import Sequences
from text_envs.exact.solve import PolicyValues, Solution, Values, q_of, solve
from text_envs.exact.tree import Tree

__all__ = [
    "MAX_NODES",
    "Evaluation",
    "PolicyValues",
    "Sequences",
    "Solution",
    "Tree",
    "Values",
    "enumerate_tree",
    "evaluate",
    "q_of",
    "solve",
]
