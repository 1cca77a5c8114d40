r"""Return-conditioned cloning of recorded texts: a Decision Transformer (Chen et al., 2021).

**Idea.** Tell the model, in front of each text, which return that text went on to earn, and clone
it. Then ask for a high return: what the model writes is what texts of a high return look like.
No value is learnt; what stands in the data as a good whole is repeated, but the good halves of two
texts are not put together.

**Equations**

- levels $c_1 < \dots < c_K$ of the returns in the data: `return_conditioned.return_levels`;
  $c(R)$ is the one nearest to $R$: `ReturnConditionedPolicy.levels`
- $L = -\frac{1}{M} \sum_k \log \pi(u_k | c(R), s_k)$ with $R = \sum_k r_k$ of the text to which
  $u_k$ belongs: `ReturnConditionedPolicy.encode_given`, then as in `agents.bc`
- acting: $\pi(\cdot | c(R^*), s)$, with $R^*$ the wanted return

| symbol | argument | shape or range |
|---|---|---|
| $K$ | `levels` | at least 1 |
| $R^*$ | `target_return` | units of reward; None: the highest level |
| $\epsilon$ | `label_smoothing` | [0, 1) |
| | `weight_decay`, `held_out`, `batch_size` | as in `agents.bc` |
| $R$ | `OfflineBatch.returns` | (B,) |

**Pseudo-code**, as in `train_step`:

```
append K tokens to the vocabulary of the model
repeat, for each minibatch of episodes:
    log pi <- one forward pass a sequence, after a token for its level of return
    step on the mean of -log pi
```

**Deviations** from the paper: one token for the return of the whole episode, as in the baseline of
the ILQL paper, instead of the return still to come before each step; a level is a token, learnt,
instead of a projection of the number. There is no context window: a text fits into the model.

**Metrics**: `train/loss` (nats a token), `train/grad_norm`, `train/held_out_loss` (with
`held_out`), `train/learning_rate`, `train/n_updates`; `time/epochs`, `time/fps` (action tokens a
second), `time/time_elapsed`, `time/total_timesteps`.

**References**: Chen et al. 2021, arXiv 2106.01345; Snell et al. 2022 (as a baseline of ILQL),
2206.11871.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from stable_baselines3.common.policies import BasePolicy
from torch import Tensor
from typing_extensions import Unpack

from agents.bc import BC, CloningArguments
from agents.common.checks import require_whole
from agents.data.batches import OfflineBatch
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.return_conditioned import ReturnConditionedPolicy, return_levels
from text_envs import datasets

__all__ = ["DecisionTransformer"]


class DecisionTransformer(BC):
    """Return-conditioned behaviour cloning; see the module's card for equations and symbols.

    ```python
    data = text_envs.datasets.collect("text_envs/Maze-v0", "mixed", 1000)
    agent = DecisionTransformer("CausalLMPolicy", dataset=data, policy_kwargs={"model": "scratch"})
    agent.learn(n_epochs=5)
    agent.target_return = -10.0  # play for less than the best
    ```

    Args:
        policy: `"CausalLMPolicy"`, which is then a `ReturnConditionedPolicy`, or a subclass of it.
        dataset: an `EpisodeDataset`, or what `text_envs.datasets.load` reads; None only to predict,
            with the levels of return in `policy_kwargs["returns"]`.
        levels: levels of return that are told apart, at most.
        target_return: what `predict` plays for; the nearest level counts. None for the highest.
        **kwargs: arguments of `BC`, which here learns from all episodes.

    Raises:
        ValueError: an argument that cannot work, with what is accepted.
        DatasetError: the data are of another environment.
    """

    fixed = frozenset({"levels"})
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "CausalLMPolicy": ReturnConditionedPolicy,
        "ReturnConditionedPolicy": ReturnConditionedPolicy,
    }

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any = None,
        *,
        dataset: Any = None,
        levels: int = 16,
        target_return: float | None = None,
        **kwargs: Unpack[CloningArguments],
    ) -> None:
        require_whole("levels", levels)
        self.levels = levels
        dataset = None if dataset is None else datasets.load(dataset)
        policy_kwargs = dict(kwargs.get("policy_kwargs") or {})
        if "returns" not in policy_kwargs:
            if dataset is None:
                raise ValueError(
                    "DecisionTransformer needs dataset, which says which returns exist; accepted: "
                    "a dataset, or the returns themselves in policy_kwargs['returns']"
                )
            policy_kwargs["returns"] = return_levels(dataset.returns, levels).tolist()
        if target_return is not None:
            policy_kwargs["target_return"] = target_return
        kwargs["policy_kwargs"] = policy_kwargs
        super().__init__(policy, env, dataset=dataset, **kwargs)

    @property
    def target_return(self) -> float:
        """The return that `predict` plays for; may be set at any time."""
        return cast(ReturnConditionedPolicy, self.policy).target_return

    @target_return.setter
    def target_return(self, value: float) -> None:
        cast(ReturnConditionedPolicy, self.policy).target_return = value

    def hidden(self, batch: OfflineBatch) -> Tensor:
        """Return hidden states `(M, d)` of the states of texts that were told their returns."""
        policy = cast(ReturnConditionedPolicy, self.policy)
        return policy.encode_given(batch.tokens, batch.columns, batch.mask, batch.returns)
