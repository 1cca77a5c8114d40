"""What algorithms with a guide share: who the guide is, what it was asked, rounds of roll-outs.

A subclass says in each iteration who begins the texts, and brings the update.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from agents.common.checks import require
from agents.common.settings import Setting
from agents.rollouts.episodes import Collected
from agents.rollouts.guided import guide_finishes, guide_starts, native_engine
from agents.rollouts.rollout import Rollout
from agents.training.on_policy import EpisodicAlgorithm
from text_envs.guides import Queries
from text_envs.guides.roll_in import GuidedStarts

__all__ = ["GuidedAlgorithm"]


class GuidedAlgorithm(EpisodicAlgorithm):
    """Roll-outs whose texts are written by agent and guide together; see the card of `agents.rlgf`.

    A subclass says who begins (`guide_rolls_in`), and stands before the algorithm whose `train` it
    uses: `class Mine(GuidedAlgorithm, PPO)`.

    Args:
        policy: `"CausalLMPolicy"` or a subclass of it.
        env: an environment id, a `TokenVectorEnv` or what `text_envs.make_sb3` returns.
        guide: anything `text_envs.guides.as_guide` takes; a model is copied and frozen now. Only a
            name is saved: to go on training with another kind, pass it to `load` again.
        beta: the probability that a text has a seam.
        guide_kwargs: arguments of `as_guide`, such as `temperature`.
        to_the_end: where the guide rolls out, let the agent's roll-in reach its last token, so that
            it learns when to end; False for the paper's form.
        **kwargs: arguments of the algorithm that follows.

    Raises:
        ValueError: an argument that cannot work; during `learn`, where the guide finishes texts: a
            wrapper changes rewards, or an outer limit cut a text.
        GuideError: the guide belongs to other tokens or observations; during `learn`: it raised,
            or wrote what cannot be used. Texts that were finished before are in the exception's
            attribute `partial_rollout`, what the guide returned in `received`.
    """

    fixed = frozenset({"guide", "guide_kwargs"})
    beta: Any = Setting(lambda x: 0 <= x <= 1, "a probability, 0 to 1")
    to_the_end: Any = Setting(lambda x: isinstance(x, bool), "True or False")

    def __init__(
        self,
        policy: Any,
        env: Any,
        guide: Any = None,
        beta: float = 0.8,
        guide_kwargs: dict[str, Any] | None = None,
        to_the_end: bool = True,
        **kwargs: Any,
    ) -> None:
        require("beta", beta, lambda x: 0 <= x <= 1, "a probability, 0 to 1")
        self.beta, self.guide_kwargs, self.to_the_end = beta, guide_kwargs, to_the_end
        self._guide = guide
        self.iterations = 0
        self._starts: GuidedStarts | None = None
        self._asked = Queries()
        if isinstance(env, str) and kwargs.get("num_envs") is None and "n_episodes" in kwargs:
            kwargs["num_envs"] = kwargs["n_episodes"]  # so that the guide is asked once
        super().__init__(policy, env, **kwargs)

    def guide_rolls_in(self) -> bool:
        """Return whether this iteration is one of PPO++; else the guide rolls out."""
        raise NotImplementedError

    # -- the guide -----------------------------------------------------------------------------

    @property
    def guide(self) -> str | None:
        """The guide if it is a name, else None; what is saved of it."""
        return os.fspath(self._guide) if isinstance(self._guide, str | os.PathLike) else None

    @property
    def queries(self) -> Queries:
        """What the guide has been asked so far by this algorithm."""
        return replace(self._asked)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.env is not None and self._guide is not None:
            self._bind_guide(self.env)

    def _bind_guide(self, env: VecEnv) -> GuidedStarts:
        engine = native_engine(env)
        if self._starts is None:
            if self._guide is None:
                raise ValueError("guide must be given to learn: a model, a function, 'script:...'")
            self._starts = GuidedStarts(
                self._guide, self.beta, guide_kwargs=self.guide_kwargs, device=self.device
            )
        self._starts.bind(engine.task)
        self._starts.beta = self.beta
        return self._starts

    def own_state(self) -> dict[str, Any]:
        """Return what is saved beside weights and arguments."""
        return {"iterations": self.iterations, "queries": vars(self.queries).copy()}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Take over what `own_state` returned."""
        self.iterations = int(state["iterations"])
        self._asked = Queries(**state["queries"])

    # -- roll-outs -----------------------------------------------------------------------------

    def _play(
        self, env: VecEnv, obs: NDArray[np.int64], on_step: Callable[[dict[str, Any]], bool]
    ) -> Collected:
        starts = self._bind_guide(env)
        rolls_in = self.guide_rolls_in()
        parts: list[Rollout] = []
        seams: list[dict[str, float]] = []
        complete = True
        while complete and len(parts) * env.num_envs < self.n_episodes:
            before = replace(starts.queries)  # others may ask the same guide between two rounds
            try:
                if rolls_in:
                    collected, facts = guide_starts(self.policy, env, starts, on_step)
                else:
                    collected, facts = guide_finishes(
                        self.policy, env, starts, on_step, to_the_end=self.to_the_end
                    )
            except BaseException as error:
                parts += filter(None, [getattr(error, "partial_rollout", None)])
                if parts:
                    error.partial_rollout = Rollout.cat(parts)  # type: ignore[attr-defined]
                raise
            finally:
                self._count(before, starts.queries)
            complete = collected.complete
            parts.append(collected.rollout)
            seams.append(facts)
        self._record_guide(rolls_in, [facts for facts in seams if facts])
        self.iterations += 1
        # Every round begins with a reset of its own, so there is nothing to reset before the next.
        starting = np.ones(env.num_envs, dtype=bool)
        return Collected(Rollout.cat(parts), collected.obs, starting, complete)

    def _count(self, before: Queries, after: Queries) -> None:
        for name, count in vars(after).items():
            setattr(self._asked, name, getattr(self._asked, name) + count - getattr(before, name))

    def _record_guide(self, rolls_in: bool, seams: list[dict[str, float]]) -> None:
        for name in seams[0] if seams else ():
            self.logger.record(f"guide/{name}", float(np.mean([facts[name] for facts in seams])))
        for name, count in vars(self.queries).items():
            self.logger.record(f"guide/{name}", count)
        self.logger.record("guide/rolls_in", float(rolls_in))
