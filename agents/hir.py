r"""Hindsight instruction relabelling (Zhang et al., 2023): learn from wrong answers what they are.

**Idea.** Tell the model in front of each question whether to answer it right or wrong. Sample
answers to "right", let a checker judge them, and put in front of each answer what it turned out to
be. Now every answer does what it was told, and supervised learning applies to all of them; what the
model learns about answering wrong it must not do when asked to answer right.

**Equations**, each with the function that computes it (`agents.data.relabelling`,
`agents.losses.hindsight`):

- $R(o, p, q) = 1$ if the text o is what the instruction p asks for, else 0: `reached`
- $p^* = p$ if $R = 1$, else the opposite instruction: `relabel`; of K levels of a graded reward,
  the one that was reached: `levels_of`
- $s(o, q, p) = \frac1T \sum_t \log P(o_t | p, q, o_{<t})$: `mean_log_probs`
- $L_{sup} = -\frac1b \sum_i s(o_i, q_i, p^*_i)$: `supervised_loss`
- $L_{con} = -\frac1b \sum_i (1 - s) \log \frac{p^+}{p^+ + p^-} + s \log \frac{p^-}{p^+ + p^-}$,
  $p^\pm = e^{s(o_i, q_i, \cdot)}$ under the right and the opposite instruction; with
  `negatives="batch"`, of all $(q_k, p^*_k)$ of the minibatch: `contrastive_loss`
- $L_{ent} = \sum_v P_v \log P_v$: `entropy_loss`
- $L = L_{sup} + \alpha L_{con} + \beta L_{ent}$
- with `parts`: the same of $o_i .. o_L$ given $o_{<i}$, for the $p^*$ of that part: `draw_parts`

| symbol | argument | shape or range |
|---|---|---|
| $T$ | `group_size` | answers to each question, a divisor of the number of environments |
| | `n_episodes` | answers an iteration; None: to every question |
| $\alpha$ | `contrastive_coef` | at least 0 |
| $\beta$ | `ent_coef` | at least 0 |
| $s$ | `label_smoothing` | [0, 1) |
| | `negatives` | "opposite" or "batch" |
| | `parts`, `part_judge` | parts of each answer; "suffix", a function, or None |
| | `buffer_limit` | answers to train on an iteration; None: 4 a question |
| $b$ | `batch_size` | answers a minibatch |
| | `n_epochs` | passes an iteration |
| | `instructions` | "auto", "learnt", or a text for each goal |
| | `levels` | thresholds of the reward between K goals |
| $p, p^*$ | `Relabelled.goals` | (B,) in 0..K-1 |

**Pseudo-code**, as in `train`:

```
sample T answers to each question under p_correct, at temperature 1; the environment judges
relabel; append to the history
take at most buffer_limit answers of the whole history, uniformly
repeat n_epochs times, for each minibatch:
    log P <- one forward pass an answer and instruction;  step on L
```

**Environments.** A goal-conditioned id (`text_envs/WordSortingGoal-v0`) says itself what was
reached. Any other id is judged by its reward: `levels` (0.5) or more is a better goal; tasks with
turns by that of the whole dialogue, with the "opposite" contrast only. To evaluate,
ask for a goal: `evaluate_policy(agent, text_envs.make_sb3("...Goal-v0", goal="correct"))`.

The history is kept from one `learn` to the next, by `set_env` as well, and saved with the agent, so
that a loaded one goes on exactly.

**Baselines** on the same code: `FARL`, fine-tuning on the correct answers only; `PPO`, paid for the
final answer, on the id without Goal; SFT, `BC` on `text_envs.datasets.collect(id, "expert", n)`.
The last two take `InstructedPolicy` if they are to read the same prompts.

**Deviations** from the paper: an unfinished text (cut by an outer limit) has no right instruction
and is left out; $L_{sup}$ averages within an answer first, so that long answers do not weigh more,
and a minibatch's sums are divided by `batch_size`, so that no answer weighs more for being in the
last, smaller one. The two-way contrast is the default: short answers repeat across questions, and
in a batch of them the answer of one question would count as wrong for another.

**Metrics**: `hindsight/success` (share with R = 1 as asked), `hindsight/relabelled` (share with
another instruction), `hindsight/unfinished`, `hindsight/history` (answers so far),
`hindsight/used` (to train on); `train/supervised_loss` (nats a token), `train/contrastive_loss`,
`train/contrast_accuracy` (share of answers most probable under their own instruction),
`train/entropy_loss`, `train/loss`, `train/grad_norm`, `train/learning_rate`, `train/n_updates`;
`rollout/ep_rew_mean`, `rollout/ep_len_mean`, `rollout/entropy`, `rollout/reward_<term>`;
`time/iterations`, `time/fps`, `time/time_elapsed`, `time/total_timesteps`. The contrast needs a
`contrastive_coef`, `entropy_loss` an `ent_coef`.

**Commands**: `python examples/study_hir.py`, `python examples/benchmark.py hindsight`

**References**: Zhang et al. 2023, arXiv 2302.05206; Andrychowicz et al. 2017 (hindsight experience
replay), 1707.01495.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from typing_extensions import Unpack

from agents.common.checks import require, require_weight, require_whole
from agents.common.envs import as_vec_env
from agents.common.settings import Setting, counting, weighing
from agents.data.history import Relabelled
from agents.data.relabelling import PartJudge, levels_of
from agents.losses.hindsight import contrastive_loss, entropy_loss, supervised_loss
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.instructed import (
    Instructed,
    InstructedPolicy,
    InstructedSeq2SeqPolicy,
)
from agents.rollouts.goals import inner
from agents.training.arguments import RunArguments, set_weight_decay, with_weight_decay
from agents.training.hindsight import HindsightAlgorithm, whole_round
from agents.training.hindsight_scores import scores_by_goal, scores_in_batch
from agents.training.micro_batches import Part, most_sequences

__all__ = ["HIR"]

logger = logging.getLogger(__name__)

NEGATIVES = ("opposite", "batch")
_ENVS = 64


class HIR(HindsightAlgorithm):
    """Hindsight instruction relabelling; see the module's card for equations and symbols.

    ```python
    agent = HIR("CausalLMPolicy", "text_envs/LogicalDeductionThreeGoal-v0", n_episodes=256)
    agent.learn(100_000, progress_bar=True)
    ```

    Args:
        policy: `"CausalLMPolicy"`, which is then an `InstructedPolicy`; `"Seq2SeqPolicy"`, then an
            `InstructedSeq2SeqPolicy`; or a subclass of these.
        env: an environment id, a Gymnasium environment, a native vector or a `VecEnv`, with goals
            or without.
        n_episodes: answers an iteration, a multiple of the number of environments; None for
            `group_size` answers to every question.
        group_size: answers to each question.
        batch_size: answers a minibatch.
        n_epochs: passes over what is trained on in an iteration.
        contrastive_coef: weight of the contrastive loss; None for what the algorithm is known by.
        negatives: what the contrast is with: the "opposite" instructions, or the other questions
            and instructions of the "batch".
        label_smoothing: of the contrast.
        ent_coef: weight of the entropy loss; None for what the algorithm is known by.
        parts: parts of each answer that are judged and learnt beside the whole.
        part_judge: scores them: "suffix" compares with the task's references, so that a part is
            at the best goal or at the worst; a function gets `(episodes, starts)` and returns
            scores on the scale of the reward, which the same thresholds cut as whole texts'; None
            for the reward model's method `judge_parts`, likewise.
        buffer_limit: most answers to train on in an iteration; None for 4 times the questions.
        instructions: "learnt" tokens, a text for each goal from the worst to the best, or "auto",
            text if the tokenizer is one of transformers.
        levels: ascending thresholds of the reward between K goals; for ids without goals, None
            for 0.5.
        weight_decay: of AdamW.
        policy_kwargs: arguments of the policy; `{"model": "scratch"}` by default, a small untrained
            model of the environment's words.
        **kwargs: see `agents.training.arguments.RunArguments`.

    Raises:
        ValueError: an argument that cannot work, with what is accepted.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "CausalLMPolicy": InstructedPolicy,
        "InstructedPolicy": InstructedPolicy,
        "Seq2SeqPolicy": InstructedSeq2SeqPolicy,
        "InstructedSeq2SeqPolicy": InstructedSeq2SeqPolicy,
    }
    fixed = frozenset({"instructions", "levels", "part_judge", "parts"})
    batch_size: Any = counting()
    negatives: Any = Setting(lambda x: x in NEGATIVES, f"one of {', '.join(NEGATIVES)}")
    n_epochs: Any = counting()
    contrastive_coef: Any = weighing()
    label_smoothing: Any = Setting(lambda x: 0 <= x < 1, "in [0, 1)")
    buffer_limit: Any = counting(none=True)
    weight_decay: Any = weighing()
    default_contrastive_coef: ClassVar[float] = 1.0
    default_ent_coef: ClassVar[float] = 0.001

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Any,
        learning_rate: float | Schedule = 5e-4,
        n_episodes: int | None = None,
        group_size: int = 4,
        batch_size: int = 64,
        n_epochs: int = 10,
        contrastive_coef: float | None = None,
        negatives: str = "opposite",
        label_smoothing: float = 0.2,
        ent_coef: float | None = None,
        parts: int = 0,
        part_judge: PartJudge | str | None = None,
        buffer_limit: int | None = None,
        instructions: str | Sequence[str] = "auto",
        levels: Sequence[float] | None = None,
        weight_decay: float = 0.01,
        **kwargs: Unpack[RunArguments],
    ) -> None:
        contrastive_coef = (
            self.default_contrastive_coef if contrastive_coef is None else contrastive_coef
        )
        ent_coef = self.default_ent_coef if ent_coef is None else ent_coef
        for name, weight in (("contrastive_coef", contrastive_coef), ("ent_coef", ent_coef)):
            require_weight(name, weight)
        require("label_smoothing", label_smoothing, lambda x: 0 <= x < 1, "in [0, 1)")
        require("negatives", negatives, negatives in NEGATIVES, f"one of {', '.join(NEGATIVES)}")
        for name, count, least in (
            ("batch_size", batch_size, 1),
            ("n_epochs", n_epochs, 1),
            ("n_episodes", 1 if n_episodes is None else n_episodes, 1),
            ("group_size", group_size, 1),
            ("parts", parts, 0),
        ):
            require_whole(name, count, least)
        require_whole("buffer_limit", buffer_limit, none=True)
        require_weight("weight_decay", weight_decay)
        if levels is not None:
            levels_of(np.zeros(1), levels)
            levels = [float(level) for level in levels]  # an array has no truth value
        self.batch_size, self.n_epochs, self.negatives = batch_size, n_epochs, negatives
        self.contrastive_coef, self.label_smoothing = contrastive_coef, label_smoothing
        self.parts, self.part_judge, self.buffer_limit = parts, part_judge, buffer_limit
        self.instructions, self.levels, self.weight_decay = instructions, levels, weight_decay
        self._warned = False
        policy_kwargs = with_weight_decay(kwargs.get("policy_kwargs"), weight_decay)
        if env is not None:
            env = as_vec_env(env, kwargs.get("num_envs"), n_episodes or _ENVS, group_size)
            _check_negatives(negatives, env)
            policy_kwargs = self.prepare(env, policy_kwargs)
        kwargs["policy_kwargs"] = policy_kwargs
        if n_episodes is None:
            n_episodes = 1 if env is None else whole_round(env, group_size)
        super().__init__(
            policy,
            env,
            learning_rate,
            n_episodes,
            group_size=group_size,
            ent_coef=ent_coef,
            **kwargs,
        )

    def changed(self, name: str) -> None:
        """Bring a changed setting to what depends on it; an error puts the old value back."""
        super().changed(name)
        if name == "negatives" and self.env is not None:
            _check_negatives(self.negatives, self.env)
        if name == "weight_decay":
            set_weight_decay(self.policy, self.weight_decay)

    # -- training ------------------------------------------------------------------------------

    def train(self) -> None:
        """Append `self.rollout` to the history and update the policy from the history."""
        assert self.rollout is not None
        self.remember(self.rollout)
        limit = 4 * len(self._task) if self.buffer_limit is None else self.buffer_limit
        chosen = self.history.draw(limit)
        used = int(self.useful(chosen).sum())
        self.logger.record("hindsight/used", used)
        if not used:
            self._warn_of_nothing(len(chosen))
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        stats: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(self.n_epochs):
            order = chosen[np.random.permutation(len(chosen))]
            order = order[self.useful(order)]
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                self._step(self.history.batch(rows, self.device), stats)
            self._n_updates += 1
        for name, values in stats.items():
            self.logger.record(f"train/{name}", torch.stack(values).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _step(self, batch: Relabelled, stats: dict[str, list[Tensor]]) -> None:
        def scaled(part: Part[Relabelled]) -> tuple[Tensor, dict[str, Tensor]]:
            # A short last minibatch counts for less.
            loss, metrics = self.loss(part)
            return loss * len(batch) / self.batch_size, metrics

        for name, value in self.descend(batch, scaled, self._passes(batch)).items():
            stats[name].append(value * self.batch_size / len(batch) if name == "loss" else value)

    def _passes(self, batch: Relabelled) -> int:
        """Return in how many sequences a text of a minibatch is scored."""
        if self.contrastive_coef == 0:
            return 1
        return len(batch) if self.negatives == "batch" else self.policy.num_goals

    def loss(self, part: Part[Relabelled]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L of a part of a minibatch and what to log, as shares of the answers' means."""
        batch, whole = part.batch, part.whole
        opposite = self.contrastive_coef > 0 and self.negatives == "opposite"
        actor, goals = cast(Instructed, self.policy.actor), self.policy.num_goals
        count, size = len(whole), most_sequences(whole, self.policy, self.micro_batch_size)
        scores, entropies = scores_by_goal(
            actor, batch, goals, opposite=opposite, with_entropy=self.ent_coef > 0, size=size
        )
        metrics = {"supervised_loss": supervised_loss(scores[:, 0], count)}
        loss = metrics["supervised_loss"]
        if self.contrastive_coef > 0:
            right = torch.zeros_like(batch.goals)
            if not opposite:
                scores = scores_in_batch(actor, batch, self._task.prompt_length, whole, size)
                right = part.index
            if scores.shape[1] > 1:  # else it is a batch of one, alone with itself
                right = right.to(scores.device)
                contrastive = contrastive_loss(scores, right, self.label_smoothing, count)
                loss = loss + self.contrastive_coef * contrastive
                found = (scores.argmax(dim=1) == right).float().sum() / count
                metrics |= {"contrastive_loss": contrastive, "contrast_accuracy": found}
        if entropies is not None:
            entropy = entropy_loss(entropies, batch.mask, whole.mask.sum())
            loss = loss + self.ent_coef * entropy
            metrics["entropy_loss"] = entropy
        return loss, metrics

    def _warn_of_nothing(self, count: int) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s has nothing to learn from: of %d texts drawn from the history none is usable%s",
                type(self).__name__,
                count,
                self.nothing_hint,
            )

    nothing_hint: ClassVar[str] = "; all were cut off before their end"


def _check_negatives(negatives: str, env: Any) -> None:
    if negatives == "batch" and inner(env, "task").multi_turn:
        raise ValueError(
            "negatives='batch' puts the text of one question behind another one, and here "
            "texts hold the replies of their own turns; accepted: 'opposite'"
        )
