r"""Monte-Carlo values that guide a language model: the baseline without temporal differences.

**Idea.** Regress Q and V on the return that followed in the data, and write with the language
model, its scores raised where a token did better than the state's average. This is one step of
improvement over the behaviour in the data; unlike ILQL it cannot put pieces of episodes together.

**Equations**, each with the function that computes it (`agents.losses.offline`):

- $G_k = r_k + \gamma G_{k+1}$; after the end of a terminated episode 0, of a cut one
  $V(s_{n+1})$: `returns_to_go`
- $L_Q = \sum_{i=1,2} \mathrm{mean}\,(Q_i(s_k, u_k) - G_k)^2$: `q_loss`
- $L_V = \frac{1}{2} \mathrm{mean}\,(G_k - V(s_k))^2$: `expectile_loss` with $\tau = 1/2$
- $L_{CQL}$ as in ILQL: `cql_loss`
- $L = L_Q + L_V + \alpha L_{CQL}$
- writing: `guided_logits`, as in ILQL

| symbol | argument | shape or range |
|---|---|---|
| $\gamma$ | `gamma` | [0, 1] |
| $\alpha$ | `cql_weight` | at least 0 |
| $\beta$ | `beta` | at least 0, when acting; may be set afterwards |
| $\rho$ | `polyak` | (0, 1]; 1: what is trained guides |
| $\pi_\beta$ | `policy_kwargs["model"]` | a model, best one trained by behaviour cloning |
| $r, G, V$ | | (B, T), with a mask |

**Pseudo-code**, as in `losses`:

```
V, Q_i(s, u) <- one pass of the trained trunk
G <- returns to go;  L_Q, L_V, L_CQL
```

**Deviations** from LMRL-Gym: cut episodes are continued by V instead of counted as over; the heads
start as constants at the mean return. No target is needed to learn; it only guides.

**Metrics**: `train/loss`, `train/q_loss`, `train/v_loss`, `train/cql_loss`, `train/q_mean`,
`train/v_mean`, `train/target_mean`, `train/td_error`, `train/grad_norm`,
`train/learning_rate`, `train/n_updates`; `time/epochs`, `time/fps`, `time/time_elapsed`,
`time/total_timesteps`.

**References**: Abdulhai et al. 2023 (LMRL-Gym), arXiv 2311.18232; Snell et al. 2022, 2206.11871.
"""

from __future__ import annotations

from typing import Any

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

__all__ = ["MCValues"]


class MCValues(ValueAlgorithm):
    """Monte-Carlo values that guide a language model; see the module's card.

    Args:
        cql_weight: weight of the conservative term.
        polyak: how far the guiding copy moves after each optimiser step.
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
        cql_weight: float = 0.01,
        polyak: float = 1.0,
        **kwargs: Unpack[ValueArguments],
    ) -> None:
        require_weight("cql_weight", cql_weight)
        self.cql_weight = cql_weight
        fixed: dict[str, Any] = {"variant": "token", "train_policy": False}
        super().__init__(policy, env, dataset, learning_rate, polyak=polyak, fixed=fixed, **kwargs)

    def losses(
        self, batch: OfflineBatch, whole: OfflineBatch | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a minibatch, and its parts; see `ValueAlgorithm.losses`."""
        mask, count = batch.mask, (whole or batch).mask.sum()
        values, acted = self.states_of(batch)
        flat, log_probs = self.policy.critic.q_with_log_probs(acted, taken(batch.actions, mask))
        q = pad(flat, mask)
        last = values.gather(1, batch.lengths[:, None]).squeeze(1)  # 0 where terminated
        returns = F.returns_to_go(batch.rewards, mask, self.gamma, last)
        q_loss = F.q_loss(q, returns, mask, count)
        v_loss = F.expectile_loss(values[:, :-1], returns, mask, 0.5, count)
        metrics = statistics(q, values[:, :-1], returns, mask, count)
        metrics |= {"q_loss": q_loss, "v_loss": v_loss, "cql_loss": F.cql_loss(log_probs, count)}
        return q_loss + v_loss + self.cql_weight * metrics["cql_loss"], metrics
