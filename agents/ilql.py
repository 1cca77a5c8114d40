r"""Implicit language Q-learning (Snell et al., 2022): offline values that guide a language model.

**Idea.** From recorded episodes, learn how much return each next token is worth, by temporal
differences that never ask about a token the data do not hold: the value of a state is an upper
expectile of the values of the tokens seen there, which approaches their maximum. Then write with
the language model, its scores raised where a token is worth more than the state. Because values are
passed back from state to state, good pieces of bad episodes are put together (stitching), which no
imitation of whole episodes can do.

**Equations**, each with the function that computes it (`agents.losses.offline`). Means are over
the agent's tokens; $s_{k+1}$ is the state in which the agent next acts, across a reply of the
environment; $\hat Q_k = \min_i \bar Q_i(s_k, u_k)$:

- $y_k = r_k + \gamma\,(1 - d_{k+1})\,V(s_{k+1})$, a constant: `td_targets`
- $L_Q = \sum_{i=1,2} \mathrm{mean}\,(Q_i(s_k, u_k) - y_k)^2$: `q_loss`
- $L_V = \mathrm{mean}\,|\tau - 1[\hat Q_k < V(s_k)]|\,(\hat Q_k - V(s_k))^2$: `expectile_loss`
- $L_{CQL} = \sum_i \mathrm{mean}\,[\log \sum_a e^{Q_i(s_k, a)} - Q_i(s_k, u_k)]$: `cql_loss`
- $L_{AWAC} = -\mathrm{mean}\,\min(e^{\beta_{train} (\hat Q_k - V_k)}, w_{max})
  \log \pi_\beta(u_k|s_k)$: `awac_weights`, `awac_loss`
- $L = L_Q + L_V + \alpha L_{CQL} + w L_{AWAC}$
- after each optimiser step $\bar\theta \leftarrow \bar\theta + \rho\,(\theta - \bar\theta)$:
  `agents.policies.value_networks.polyak_update`
- writing: $\pi(a|s) \propto \tilde\pi_\beta(a|s)\, e^{\beta (\min_i \bar Q_i(s, a) - V(s))}$:
  `guided_logits`

With `target="mc"`, $\hat Q_k$ in $L_V$ is the return that followed, $G_k = r_k + \gamma G_{k+1}$
(`returns_to_go`; a cut episode's $G_{n+1}$ is $V(s_{n+1})$). With `variant="utterance"` an action
is a whole utterance: $V$ is read at its start, $Q_i$, a single number, at its last token, $r$ is
its sum of rewards, $\gamma$ counts utterances, and there is no $L_{CQL}$; writing takes the best of
`candidates` sampled utterances. $\tau = 1/2$ is the single-step baseline called SARSA.

| symbol | argument | shape or range |
|---|---|---|
| $\tau$ | `tau` | (0, 1); towards 1 for data with few good episodes |
| $\gamma$ | `gamma` | [0, 1] |
| $\alpha$ | `cql_weight` | at least 0 |
| $w$ | `awac_weight` | at least 0; 0 leaves $\pi_\beta$ as it is |
| $\beta_{train}$ | `beta_train` | at least 0; 0 is behaviour cloning |
| $w_{max}$ | `awac_max_weight` | above 0 |
| $\beta$ | `beta` | at least 0, when acting; may be set afterwards |
| $\rho$ | `polyak` | (0, 1] |
| | `batch_size` | episodes a minibatch |
| $\pi_\beta$ | `policy_kwargs["model"]` | a model, best one trained by behaviour cloning |
| $r, d, V, \hat Q, G$ | | (B, T), with a mask |
| $Q_i$ | | (2, B, T) of the tokens written |

**Pseudo-code**, as in `losses` and `train_step`:

```
V, h <- one pass of the trained trunk;  Q_i(s, u) <- heads on h
Q^ <- one pass of the target trunk
y <- r + gamma V of the next state;  L_Q, L_V, L_CQL
if w > 0: log pi <- one pass of the language model;  L_AWAC
step on L;  move the target
```

**Deviations** from the paper and its code: V and both Q heads start as constants at the mean
return; $L_{AWAC}$ is a mean over the agent's tokens only, and its weights are bounded; explicit
masks and separate flags for terminated and cut episodes (the original counts one action too many in
some cut rows); nothing is done to the rewards; $\pi_\beta$ and the value trunk are two models of
the same initial weights unless `policy_kwargs["value_model"]` names another.

**What it needs**: values pass from one episode to another only where the model sees that two texts
end in the same situation. Rotary positions (Llama) carry over to lengths that the data do not hold;
learned ones (GPT-2) do not, and short pieces are then not put together to long ways. `polyak` must
let a reward travel back within the training: a token is about $1 / \rho$ updates away. A large
`beta` seeks out over-estimated tokens that the data lack: raise `cql_weight`, or set `top_p`.

**Metrics**: `train/loss`, `train/q_loss`, `train/v_loss`, `train/cql_loss`, `train/awac_loss`,
`train/awac_weight`, `train/q_mean`, `train/v_mean`, `train/target_mean`, `train/td_error` (mean
$|Q - y|$), `train/advantage_mean` and `train/advantage_std` (of $\hat Q - V$, or $G - V$),
`train/grad_norm`, `train/learning_rate`, `train/n_updates`; `time/epochs`, `time/fps`,
`time/time_elapsed`, `time/total_timesteps`. `cql_loss` needs a `cql_weight` and the token variant,
the `awac` ones an `awac_weight`.

**Command**: `python examples/benchmark.py offline`

**References**: Snell et al. 2022, arXiv 2206.11871; Kostrikov et al. 2021 (implicit Q-learning),
2110.06169; Kumar et al. 2020 (conservative Q-learning), 2006.04779; Nair et al. 2020 (AWAC),
2006.09359; Abdulhai et al. 2023 (LMRL-Gym), 2311.18232.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from typing_extensions import Unpack

from agents.common.checks import require, require_weight
from agents.common.settings import Setting, weighing
from agents.data.batches import OfflineBatch
from agents.losses import offline as F
from agents.losses.on_policy import masked_mean
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.value_guided import VARIANTS
from agents.training.arguments import ValueArguments
from agents.training.values import ValueAlgorithm, pad, statistics
from text_envs.episodes.errors import suggest
from text_envs.lm.transfers import taken

__all__ = ["ILQL"]

TARGETS = ("bootstrap", "mc")


class ILQL(ValueAlgorithm):
    """Implicit language Q-learning; see the module's card for equations and symbols.

    ```python
    agent = ILQL("ValueGuidedPolicy", "text_envs/Wordle-v0", dataset="wordle.npz")
    agent.learn(n_epochs=5, progress_bar=True)
    agent.beta = 8.0
    ```

    Args:
        tau: the expectile; 0.5 for SARSA.
        cql_weight: weight of the conservative term.
        awac_weight: weight of the language model's own loss; 0 keeps the model as it is.
        beta_train: how much that loss prefers good tokens; 0 is behaviour cloning.
        awac_max_weight: its weights are cut off here.
        variant: "token" or "utterance".
        target: what V learns from: "bootstrap", the target's Q; "mc", the return that followed.
        polyak: how far the target moves after each optimiser step.
        **kwargs: see `agents.training.arguments.ValueArguments`.

    Raises:
        ValueError: an argument that cannot work, with what is accepted.
        DatasetError: the data are inconsistent or of another environment.
    """

    fixed = frozenset({"variant"})
    tau: Any = Setting(lambda x: 0 < x < 1, "in (0, 1)")
    cql_weight: Any = weighing()
    awac_weight: Any = weighing()
    beta_train: Any = weighing()
    awac_max_weight: Any = Setting(lambda x: x > 0, "above 0")
    target: Any = Setting(lambda x: x in TARGETS, f"one of {', '.join(TARGETS)}")

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        super().changed(name)
        trained = self.policy.arguments["train_policy"]
        accepted = "above 0" if trained else "0"
        why = f"{accepted}, as when ILQL was made: the optimiser holds what is trained"
        require("awac_weight", self.awac_weight, (self.awac_weight > 0) == trained, why)

    def __init__(
        self,
        policy: str | type[CausalLMPolicy] = "ValueGuidedPolicy",
        env: Any = None,
        dataset: Any = None,
        learning_rate: float | Schedule = 3e-4,
        *,
        tau: float = 0.7,
        cql_weight: float = 0.01,
        awac_weight: float = 0.0,
        beta_train: float = 0.0,
        awac_max_weight: float = 100.0,
        polyak: float = 0.005,
        variant: str = "token",
        target: str = "bootstrap",
        **kwargs: Unpack[ValueArguments],
    ) -> None:
        require("tau", tau, lambda x: 0 < x < 1, "in (0, 1)")
        for name, value in (
            ("cql_weight", cql_weight),
            ("awac_weight", awac_weight),
            ("beta_train", beta_train),
        ):
            require_weight(name, value)
        require("awac_max_weight", awac_max_weight, lambda x: x > 0, "above 0")
        for name, word, words in (("variant", variant, VARIANTS), ("target", target, TARGETS)):
            if word not in words:
                raise ValueError(f"unknown {name} {word!r}.{suggest(str(word), words)}")
        self.tau, self.cql_weight, self.awac_weight = tau, cql_weight, awac_weight
        self.beta_train, self.awac_max_weight = beta_train, awac_max_weight
        self.variant, self.target = variant, target
        fixed = {"variant": variant, "train_policy": awac_weight > 0}
        super().__init__(policy, env, dataset, learning_rate, polyak=polyak, fixed=fixed, **kwargs)

    def losses(
        self, batch: OfflineBatch, whole: OfflineBatch | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a minibatch, and its parts; see `ValueAlgorithm.losses`."""
        if self.variant == "utterance":
            return self._utterance_losses(batch, whole or batch)
        critic, mask, count = self.policy.critic, batch.mask, (whole or batch).mask.sum()
        actions = taken(batch.actions, mask)  # (M,)
        values, acted = self.states_of(batch)
        log_probs = None
        if self.cql_weight > 0:
            q, log_probs = critic.q_with_log_probs(acted, actions)
        else:
            q = critic.q_at(acted, actions)
        y = F.td_targets(batch.rewards, values[:, 1:], batch.next_terminal, mask, self.gamma)
        if self._needs_target:
            target = self.policy.target
            with torch.no_grad():
                hidden = target.encode(batch.tokens, batch.columns, mask)
                q_hat = pad(target.q_at(hidden, actions).amin(dim=0), mask)
        else:
            last = values.gather(1, batch.lengths[:, None]).squeeze(1)  # 0 where terminated
            q_hat = F.returns_to_go(batch.rewards, mask, self.gamma, last)
        loss, metrics, advantages = self._value_losses(
            pad(q, mask), values[:, :-1], y, q_hat, mask, count
        )
        if log_probs is not None:
            metrics["cql_loss"] = F.cql_loss(log_probs, count)
            loss = loss + self.cql_weight * metrics["cql_loss"]
        return self._with_awac(loss, metrics, batch, advantages, count)

    def _utterance_losses(
        self, batch: OfflineBatch, whole: OfflineBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the same where an action is a whole utterance; U of them in an episode."""
        critic, target = self.policy.critic, self.policy.target
        spoken = F.find_utterances(batch.turn_ends, batch.mask)
        mask, count = spoken.mask, spoken.mask.sum(dim=1, keepdim=True)  # (B, U), (B, 1)
        starts = batch.columns.gather(1, spoken.first)
        ends = batch.columns.gather(1, spoken.last) + 1
        columns = torch.cat([starts, ends, batch.last_column[:, None]], dim=1)  # (B, 2U + 1)
        needed = torch.cat([mask, mask, ~batch.terminated[:, None]], dim=1)
        hidden = critic.encode(batch.tokens, columns, needed)
        read, width = pad(critic.v(hidden), needed), mask.shape[1]
        values, last = read[:, :width], read[:, -1:]  # last is 0 where terminated
        q = pad(critic.q(hidden).squeeze(2), needed)[:, :, width:-1]  # (2, B, U)
        following = torch.cat([values, torch.zeros_like(last)], dim=1).scatter(1, count, last)
        numbers = torch.arange(width, device=mask.device)
        ended = (numbers == count - 1) & batch.terminated[:, None]
        rewards = F.sum_over_utterances(batch.rewards, batch.mask, spoken)
        y = F.td_targets(rewards, following[:, 1:], ended, mask, self.gamma)
        if self._needs_target:
            with torch.no_grad():
                at_ends = target.encode(batch.tokens, ends, mask)
                q_hat = pad(target.q_min(at_ends).squeeze(1), mask)
        else:
            q_hat = F.returns_to_go(rewards, mask, self.gamma, last.squeeze(1))
        utterances = F.find_utterances(whole.turn_ends, whole.mask).mask.sum()
        loss, metrics, advantages = self._value_losses(q, values, y, q_hat, mask, utterances)
        advantages = advantages.gather(1, spoken.number)
        return self._with_awac(loss, metrics, batch, advantages, whole.mask.sum())

    @property
    def _needs_target(self) -> bool:
        return bool(self.target == "bootstrap")

    def _value_losses(
        self, q: Tensor, values: Tensor, y: Tensor, q_hat: Tensor, mask: Tensor, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return L_Q + L_V, what to log, and the advantages `(B, T)`.

        Args:
            q: `(2, B, T)` of what was written.
            values: `(B, T)`.
            y: `(B, T)` what Q learns from.
            q_hat: `(B, T)` what V learns from.
            mask: bool `(B, T)`.
            count: see `masked_mean`.
        """
        q_loss = F.q_loss(q, y, mask, count)
        v_loss = F.expectile_loss(values, q_hat, mask, self.tau, count)
        advantages = (q_hat - values).detach()
        metrics = statistics(q, values, y, mask, count) | {
            "q_loss": q_loss,
            "v_loss": v_loss,
            "advantage_mean": masked_mean(advantages, mask, count),
            "advantage_square": masked_mean(advantages.double().square(), mask, count),
        }
        return q_loss + v_loss, metrics, advantages

    def _with_awac(
        self,
        loss: Tensor,
        metrics: dict[str, Tensor],
        batch: OfflineBatch,
        advantages: Tensor,
        count: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the language model's own loss, if it has a weight."""
        if self.awac_weight == 0:
            return loss, metrics
        actor, mask = self.policy.actor, batch.mask
        hidden = actor.encode(batch.tokens, batch.columns, mask)
        log_probs, _ = actor.log_probs(hidden, taken(batch.actions, mask))
        weights = F.awac_weights(advantages, mask, self.beta_train, self.awac_max_weight)
        metrics["awac_loss"] = F.awac_loss(pad(log_probs, mask), weights, mask, count)
        metrics["awac_weight"] = masked_mean(weights, mask, count)
        return loss + self.awac_weight * metrics["awac_loss"], metrics
