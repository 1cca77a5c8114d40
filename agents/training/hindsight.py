"""Sampling under the best goal, judging, relabelling and remembering; what is then learnt is open.

`HindsightAlgorithm` fills a history whose every text stands under a goal that it reached. A
subclass writes `train`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from agents.common.envs import say_untrained
from agents.data.history import History
from agents.data.parts import judge_parts, resolve_part_judge
from agents.data.relabelling import (
    UNFINISHED,
    PartJudge,
    SuffixMatch,
    draw_parts,
    levels_of,
    reached,
    relabel,
)
from agents.policies.instructed import InstructedPolicy, encode_instructions
from agents.rollouts.episodes import Collected
from agents.rollouts.goals import GoalsAside, Questions, inner, single_space
from agents.rollouts.groups import collect_groups
from agents.rollouts.rollout import Rollout
from agents.training.on_policy import EpisodicAlgorithm
from text_envs.lm.scratch import make_lm

__all__ = ["HindsightAlgorithm", "whole_round"]

_LEVELS = (0.5,)


class HindsightAlgorithm(EpisodicAlgorithm):
    """An `EpisodicAlgorithm` over an `InstructedPolicy` that remembers all texts, relabelled.

    A subclass sets `parts`, `part_judge`, `instructions` and `levels` before it calls `prepare` and
    then `__init__`; see `agents.hir.HIR` for what they mean.

    Attributes:
        history: the texts of all iterations.
    """

    takes_goals = True
    policy: InstructedPolicy
    history: History
    parts: int
    part_judge: PartJudge | str | None
    instructions: str | Sequence[str]
    levels: Sequence[float] | None

    def prepare(self, env: Any, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Look at the environment; return the policy's arguments with instructions and model."""
        task, space = inner(env, "task"), single_space(env)
        with_goals = isinstance(space, spaces.Dict)
        if with_goals and self.levels is not None:
            raise ValueError(
                f"levels={self.levels!r} grade a reward, but this environment knows the goals "
                "wrong and correct; use the id without Goal"
            )
        thresholds = _LEVELS if self.levels is None else self.levels
        levels_of(np.zeros(1), thresholds)  # refused here rather than after a roll-out
        self._judge = resolve_part_judge(self.part_judge, task, inner(env, "reward_model"))
        if self.parts and self._judge is None:
            raise ValueError(
                f"parts={self.parts} need a checker that can judge a part of an answer; accepted: "
                "part_judge='suffix', a function of (episodes, starts), or a reward model with a "
                "method judge_parts"
            )
        kwargs = dict(policy_kwargs)
        if "instructions" not in kwargs:
            kwargs["instructions"] = encode_instructions(
                self.instructions, task.tokenizer, len(thresholds) + 1
            )
        chosen = kwargs["instructions"]
        front = 1 if isinstance(chosen, int) else max(map(len, chosen))
        model = kwargs.get("model", "scratch")
        if isinstance(model, dict) or model == "scratch":
            columns = task.prompt_length + task.max_tokens + front
            kwargs["model"] = {"columns": columns, **(model if isinstance(model, dict) else {})}
            if "model" not in policy_kwargs:
                kwargs["model"] = make_lm(task, columns)
                say_untrained(kwargs["model"])
        return kwargs

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.env is not None:
            self._task = task = self.env.get_attr("task")[0]
            self._questions = Questions(len(task))
            self.history = History(task.prompt_length + task.max_tokens, task.max_tokens)
            if self.policy.num_goals != len(self.levels or _LEVELS) + 1:
                raise ValueError(
                    f"the policy has {self.policy.num_goals} instructions, and there are "
                    f"{len(self.levels or _LEVELS) + 1} goals"
                )

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Take another environment, whose questions are asked from now on; the history stays.

        Raises:
            ValueError: it has other tokens or columns, so that the history does not fit.
        """
        task = inner(env, "task")
        if hasattr(self, "_task"):
            names = ("tokenizer", "prompt_length", "max_tokens")
            before, now = ([getattr(t, name) for name in names] for t in (self._task, task))
            if before != now:
                raise ValueError(
                    f"the history holds texts with {dict(zip(names, before, strict=True))}, this "
                    f"environment has {dict(zip(names, now, strict=True))}"
                )
        judge = resolve_part_judge(self.part_judge, task, inner(env, "reward_model"))
        super().set_env(env, force_reset)
        self._task, self._judge = task, judge
        self._questions.count = len(task)
        self._questions.waiting = self._questions.waiting[self._questions.waiting < len(task)]

    # -- experience ----------------------------------------------------------------------------

    def _play(
        self, env: VecEnv, obs: NDArray[np.int64], on_step: Callable[[dict[str, Any]], bool]
    ) -> Collected:
        """Ask for the best goal; if something fails, what was finished is remembered."""
        asked_by_user, self.policy.goal = self.policy.goal, self.policy.num_goals - 1
        with_goals = isinstance(env.observation_space, spaces.Dict)
        shown = GoalsAside(env, self.policy.goal) if with_goals else env
        draw = self._questions.next
        try:
            collected = collect_groups(
                self.policy, shown, self.n_episodes, self.group_size, on_step, draw
            )
        except BaseException as error:
            if (partial := getattr(error, "partial_rollout", None)) is not None:
                self.remember(partial)
            raise
        finally:
            self.policy.goal = asked_by_user
        if not collected.complete:  # a callback stopped it; nothing will train on it now
            self.remember(collected.rollout)
        return collected

    def achieved(self, rollout: Rollout) -> NDArray[np.int64]:
        """Return what each text of a roll-out is, `(B,)`."""
        if isinstance(self.observation_space, spaces.Dict):
            goals = np.array([info["achieved_goal"] for info in rollout.infos], dtype=np.int64)
        else:
            rewards = rollout.episode_rewards.cpu().numpy()
            goals = levels_of(rewards, self.levels or _LEVELS)
        return np.where(rollout.truncated.cpu().numpy(), UNFINISHED, goals)

    def _goals_of_parts(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return what each part `(P,)` is, from its score."""
        if isinstance(self._judge, SuffixMatch):  # right or wrong, whatever whole texts are paid
            return np.where(scores == 1, self.policy.num_goals - 1, 0).astype(np.int64)
        if isinstance(self.observation_space, spaces.Dict):
            return levels_of(scores, (inner(self.env, "engine").threshold,))
        return levels_of(scores, self.levels or _LEVELS)

    def remember(self, rollout: Rollout) -> None:
        """Relabel the texts of a roll-out and append them to the history.

        Records the metrics `hindsight/success`, `relabelled`, `unfinished` and `history`.
        """
        if not len(rollout):
            return
        achieved = self.achieved(rollout)
        desired = np.full(len(achieved), self.policy.num_goals - 1)
        goals = relabel(achieved, desired, self.policy.num_goals)
        finished = np.flatnonzero(goals != UNFINISHED)
        # A wrapper that cuts texts tells nothing about them; those are not kept.
        examples = np.array([info.get("example_index", -1) for info in rollout.infos], np.int64)
        length = rollout.lengths.cpu().numpy()
        tokens, columns = rollout.tokens.cpu().numpy(), rollout.columns.cpu().numpy()

        def append(rows: NDArray[np.int64], first: Any, reached_goals: Any) -> None:
            self.history.add(
                tokens[rows], columns[rows], first, length[rows], reached_goals, examples[rows]
            )

        append(finished, np.zeros(len(finished)), goals[finished])
        if self.parts:
            at, first = draw_parts(length[finished], self.parts, np.random)
            rows = finished[at]
            scores = judge_parts(self._judge, self._task, rollout, rows, first)
            append(rows, first, self._goals_of_parts(scores))
        self.logger.record("hindsight/success", reached(achieved, desired).mean())
        self.logger.record("hindsight/relabelled", (goals != desired)[finished].sum() / len(goals))
        self.logger.record("hindsight/unfinished", 1 - len(finished) / len(goals))
        self.logger.record("hindsight/history", len(self.history))

    def useful(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows of the history to learn from; a subclass may leave some out."""
        return np.ones(len(rows), dtype=bool)

    # -- saving --------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """Return what is saved beside weights and arguments: the history, the questions to come."""
        return {
            "history": self.history.state(),
            "questions": self._questions.waiting,
            "warned": self._warned,
        }

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Take over what `own_state` returned; without an environment only to hand it on."""
        tokens, columns = state["history"]["tokens"], state["history"]["columns"]
        if self.env is None:
            self.history, self._questions = History(tokens.shape[1], columns.shape[1]), Questions(0)
        self.history.set_state(state["history"])
        self._questions.waiting = state["questions"]
        self._warned = state["warned"]


def whole_round(env: Any, group_size: int) -> int:
    """Return how many episodes give every question `group_size` answers, in whole batches."""
    count = getattr(env, "num_envs", 1)
    return -(-group_size * len(inner(env, "task")) // count) * count
