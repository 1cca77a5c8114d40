r"""Behaviour cloning over recorded texts, of all episodes or of the best ones (%BC).

**Idea.** Make the agent's tokens in the data likely, each given everything before it. The tokens of
the environment (prompts, replies) are read but not learnt. What comes out is a language model that
plays as the data do; trained on the best share of the episodes only, it plays as those. It is also
the start that every other agent wants: a model that already writes what the task understands.

**Equations**

- $L = -\frac{1}{M} \sum_{k} \log \pi(u_k | s_k)$ over the $M$ actions $u_k$ of a minibatch, so
  that tokens count alike and not texts: `CausalLMPolicy.actor.log_probs`
- with label smoothing, $\log \pi(u_k|s_k)$ becomes
  $(1 - \epsilon) \log \pi(u_k|s_k) + \epsilon\,\mathrm{mean}_v \log \pi(v|s_k)$:
  `linear_smoothed_log_probs`, chunk by chunk
- %BC keeps the $\lceil p\,n \rceil$ of $n$ episodes with the highest return, and before that those
  with a return of at least `min_return`: `EpisodeDataset.filter`

The minimum of $L$ without smoothing is the share of each action among those that follow a state in
the data; a test compares the two.

| symbol | argument | shape or range |
|---|---|---|
| | `batch_size` | episodes a minibatch, on average |
| $p$ | `top` | (0, 1]; 1 keeps all |
| | `min_return` | None, or units of reward |
| $\epsilon$ | `label_smoothing` | [0, 1) |
| | `weight_decay` | at least 0, AdamW's |
| | `held_out` | [0, 1), share of the episodes to measure the loss on |
| $s_k$ | `OfflineBatch.columns` | (B, T), with a mask |
| $u_k$ | `OfflineBatch.actions` | (B, T) |

**Pseudo-code**, as in `train_step`:

```
keep the best episodes; set some aside
repeat, for each minibatch of episodes:
    log pi <- one forward pass a sequence, read before each action
    step on L
```

**Deviations.** Minibatches hold nearly the same number of actions, not of episodes, so that every
action of the data weighs the same although each minibatch is averaged. Dropout is off, as
everywhere here: one policy is trained, sampled and scored.

**Metrics**: `train/loss` (nats a token), `train/grad_norm`, `train/held_out_loss` (with
`held_out`), `train/learning_rate`, `train/n_updates`; `time/epochs`, `time/fps` (action tokens a
second), `time/time_elapsed`, `time/total_timesteps`.

**Warm start**: `PPO("CausalLMPolicy", env, policy_kwargs={"model": bc.policy.actor.lm})` goes on
with the same weights, in place; after `bc.save("bc")`, `{"model": "bc"}` starts from a copy.

**References**: Pomerleau 1991 (behaviour cloning); Chen et al. 2021 (%BC), arXiv 2106.01345; Snell
et al. 2022 (both as baselines of ILQL), 2206.11871.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from typing_extensions import Unpack

from agents.common.checks import require, require_weight
from agents.common.settings import Setting, weighing
from agents.data.batches import OfflineBatch
from agents.losses.cloning import actor_smoothed_log_probs
from agents.policies.causal_lm import CausalLMPolicy
from agents.training.arguments import RecordedArguments, set_weight_decay, with_weight_decay
from agents.training.micro_batches import Part
from agents.training.offline import OfflineAlgorithm
from text_envs.datasets import EpisodeDataset
from text_envs.lm.transfers import taken

__all__ = ["BC", "CloningArguments"]


class CloningArguments(RecordedArguments, total=False):
    """What an algorithm takes that clones in a way of its own; documented by `BC`."""

    learning_rate: float | Schedule
    batch_size: int
    label_smoothing: float
    weight_decay: float
    held_out: float


class BC(OfflineAlgorithm):
    """Behaviour cloning; see the module's card for equations and symbols.

    ```python
    data = text_envs.datasets.collect("text_envs/Maze-v0", "expert", 1000)
    agent = BC("CausalLMPolicy", dataset=data, policy_kwargs={"model": "scratch"})
    agent.learn(n_epochs=5, progress_bar=True)
    ```

    Args:
        learning_rate: a number, or a function of the remaining progress. The default suits small
            models; a pretrained GPT-2 wants about a tenth of it.
        top: share of the episodes to keep, by return.
        min_return: lowest return to keep; None for any.
        label_smoothing: weight of the uniform distribution in the targets.
        weight_decay: of AdamW.
        held_out: share of the episodes to set aside and measure the loss on, at each record.
        **kwargs: see `agents.training.arguments.RecordedArguments`.

    Raises:
        ValueError: an argument that cannot work, with what is accepted.
        DatasetError: no episode is left, or the data are of another environment.
    """

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any = None,
        *,
        dataset: Any = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 64,
        top: float = 1.0,
        min_return: float | None = None,
        label_smoothing: float = 0.0,
        weight_decay: float = 0.01,
        held_out: float = 0.0,
        **kwargs: Unpack[RecordedArguments],
    ) -> None:
        require("top", top, lambda x: 0 < x <= 1, "above 0 and at most 1")
        require("label_smoothing", label_smoothing, lambda x: 0 <= x < 1, "in [0, 1)")
        require_weight("weight_decay", weight_decay)
        require("held_out", held_out, lambda x: 0 <= x < 1, "in [0, 1)")
        self.top, self.min_return = top, min_return
        self.label_smoothing, self.weight_decay = label_smoothing, weight_decay
        self.held_out, self.held_out_data = held_out, None
        kwargs["policy_kwargs"] = with_weight_decay(kwargs.get("policy_kwargs"), weight_decay)
        super().__init__(
            policy,
            env,
            dataset=dataset,
            learning_rate=learning_rate,
            batch_size=batch_size,
            **kwargs,
        )

    held_out_data: OfflineBatch | None
    fixed = frozenset({"held_out", "min_return", "top"})
    label_smoothing: Any = Setting(lambda x: 0 <= x < 1, "in [0, 1)")
    weight_decay: Any = weighing()

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        super().changed(name)
        if name == "weight_decay":
            set_weight_decay(self.policy, self.weight_decay)

    def prepare(self, dataset: EpisodeDataset) -> EpisodeDataset:
        """Return the best episodes but those set aside, which go to `held_out_data`."""
        kept = dataset.filter(min_return=self.min_return, top=self.top)
        count = round(self.held_out * len(kept))
        if not self.held_out:
            return kept
        if not 0 < count < len(kept):
            raise ValueError(
                f"held_out={self.held_out} of {len(kept)} episodes sets {count} aside and leaves "
                f"{len(kept) - count} to learn from; both must be at least 1"
            )
        # From a fixed seed: a resumed run must set the same episodes aside.
        order = np.random.default_rng(0).permutation(len(kept))
        self.held_out_data = self.as_batch(kept.select(np.sort(order[:count])))
        return kept.select(np.sort(order[count:]))

    def train_step(self, batch: OfflineBatch) -> dict[str, Tensor]:
        """Take one step of the optimiser on the cross-entropy of a minibatch."""
        return self.descend(batch, self._loss)

    def _loss(self, part: Part[OfflineBatch]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a part's share of the mean over all actions of the minibatch."""
        return -self.log_probs(part.batch).sum() / part.whole.num_steps, {}

    def log_probs(self, batch: OfflineBatch) -> Tensor:
        """Return log-probabilities `(M,)` of the actions, smoothed if so asked for."""
        actor, actions = self.policy.actor, taken(batch.actions, batch.mask)
        hidden = self.hidden(batch)
        if self.label_smoothing > 0:
            return actor_smoothed_log_probs(actor, hidden, actions, self.label_smoothing)
        return actor.log_probs(hidden, actions)[0]

    def hidden(self, batch: OfflineBatch) -> Tensor:
        """Return hidden states `(M, d)` of the states in which the agent acted."""
        return self.policy.actor.encode(batch.tokens, batch.columns, batch.mask)

    @torch.no_grad()
    def loss_on(self, data: OfflineBatch) -> float:
        """Return the mean cross-entropy over all actions of `data`, nats a token."""
        total = 0.0
        for index in data.lengths.argsort().split(self.batch_size):
            batch = data.select(index).to(self.device)
            total -= self.log_probs(batch).double().sum().item()
        return total / data.num_steps

    def _record(self, means: dict[str, float]) -> None:
        if self.held_out_data is not None:
            means = means | {"held_out_loss": self.loss_on(self.held_out_data)}
        super()._record(means)
