r"""Token-level conservative Q-learning: the baseline that takes a maximum where ILQL does not.

**Idea.** Q-learning on recorded episodes with the maximum over all next tokens in the target, and a
term that lowers the value of tokens the data do not hold, without which that maximum would pick
whatever is over-estimated. There is no V to learn: $V(s) = \max_a \min_i \bar Q_i(s, a)$.

**Equations**, each with the function that computes it (`agents.losses.offline`):

- $y_k = r_k + \gamma\,(1 - d_{k+1}) \max_a \min_i \bar Q_i(s_{k+1}, a)$: `td_targets`; tokens that
  are never written are left out of the maximum
- $L_Q = \sum_{i=1,2} \mathrm{mean}\,(Q_i(s_k, u_k) - y_k)^2$: `q_loss`
- $L_{CQL} = \sum_i \mathrm{mean}\,[\log \sum_a e^{Q_i(s_k, a)} - Q_i(s_k, u_k)]$: `cql_loss`
- $L = L_Q + \alpha L_{CQL}$; the target moves by $\rho$ after each optimiser step
- writing: $\pi(a|s) \propto \tilde\pi_\beta(a|s)\, e^{\beta \min_i \bar Q_i(s, a)}$:
  `guided_logits`

| symbol | argument | shape or range |
|---|---|---|
| $\gamma$ | `gamma` | [0, 1] |
| $\alpha$ | `cql_weight` | at least 0 |
| $\beta$ | `beta` | at least 0, when acting; may be set afterwards |
| $\rho$ | `polyak` | (0, 1] |
| $\pi_\beta$ | `policy_kwargs["model"]` | a model, best one trained by behaviour cloning |
| $r, d, y$ | | (B, T), with a mask |

**Pseudo-code**, as in `losses`:

```
Q_i(s, u) <- one pass of the trained trunk
Q_i(s', .) <- one pass of the target trunk at the next states
y <- r + gamma max_a min_i Q_i(s', a);  L_Q, L_CQL
```

**Deviations**: Kumar et al. add the term to actor-critic methods of continuous actions; for tokens
it is the cross-entropy of the scores Q, as in the baselines of Snell et al. The heads start as
constants at the mean return.

**Metrics**: `train/loss`, `train/q_loss`, `train/cql_loss`, `train/q_mean`, `train/v_mean`,
`train/target_mean`, `train/td_error`, `train/grad_norm`, `train/learning_rate`,
`train/n_updates`; `time/epochs`, `time/fps`, `time/time_elapsed`, `time/total_timesteps`. `v_mean`
is of the states that follow an action, 0 for the end of an episode.

**References**: Kumar et al. 2020, arXiv 2006.04779; Snell et al. 2022, 2206.11871.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from typing_extensions import Unpack

from agents.common.checks import require_weight
from agents.common.settings import weighing
from agents.data.batches import OfflineBatch
from agents.losses import offline as F
from agents.policies.causal_lm import CausalLMPolicy
from agents.training.arguments import ValueArguments
from agents.training.values import ValueAlgorithm, pad, statistics
from text_envs.lm.transfers import taken

__all__ = ["CQL"]


class CQL(ValueAlgorithm):
    """Token-level conservative Q-learning; see the module's card.

    Args:
        cql_weight: weight of the conservative term.
        **kwargs: see `agents.training.arguments.ValueArguments`.

    Raises:
        ValueError: an argument that cannot work, with what is accepted.
        DatasetError: the data are inconsistent or of another environment.
    """

    cql_weight: Any = weighing()

    def __init__(
        self,
        policy: str | type[CausalLMPolicy] = "ValueGuidedPolicy",
        env: Any = None,
        dataset: Any = None,
        learning_rate: float | Schedule = 3e-4,
        *,
        cql_weight: float = 0.1,
        polyak: float = 0.005,
        **kwargs: Unpack[ValueArguments],
    ) -> None:
        require_weight("cql_weight", cql_weight)
        self.cql_weight = cql_weight
        fixed: dict[str, Any] = {"variant": "token", "train_policy": False, "v_head": False}
        super().__init__(policy, env, dataset, learning_rate, polyak=polyak, fixed=fixed, **kwargs)

    def losses(
        self, batch: OfflineBatch, whole: OfflineBatch | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a minibatch, and its parts; see `ValueAlgorithm.losses`."""
        policy, mask, count = self.policy, batch.mask, (whole or batch).mask.sum()
        hidden = policy.critic.encode(batch.tokens, batch.columns, mask)
        flat, log_probs = policy.critic.q_with_log_probs(hidden, taken(batch.actions, mask))
        q = pad(flat, mask)
        following = mask & ~batch.next_terminal
        with torch.no_grad():
            hidden = policy.target.encode(batch.tokens, batch.state_columns[:, 1:], following)
            values = pad(policy.target.best_q(hidden, policy.allowed), following)
        y = F.td_targets(batch.rewards, values, batch.next_terminal, mask, self.gamma)
        q_loss, cql_loss = F.q_loss(q, y, mask, count), F.cql_loss(log_probs, count)
        metrics = statistics(q, values, y, mask, count) | {"q_loss": q_loss, "cql_loss": cql_loss}
        return q_loss + self.cql_weight * cql_loss, metrics
