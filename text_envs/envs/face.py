"""What the single and the vector environment show of the engine behind them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium as gym

from text_envs import render
from text_envs.core.engine import TokenEngine
from text_envs.core.record import REWARD, Record
from text_envs.core.reward import bind
from text_envs.core.task import Task
from text_envs.rewards import RewardModel, resolve
from text_envs.tokens.protocol import Tokenizer

__all__ = ["Face", "unchanged_if_refused"]


class Face:
    """Attributes that every environment of the suite has.

    Attributes:
        engine: the rows.
    """

    engine: TokenEngine
    render_mode: str | None

    @property
    def task(self) -> Task:
        """The task: data, replies, limits."""
        return self.engine.task

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns ids into text."""
        return self.engine.tokenizer

    @property
    def reward_model(self) -> RewardModel | None:
        """What scores finished episodes; assign another one, or its name, at any time."""
        return self.engine.reward_model

    @reward_model.setter
    def reward_model(self, spec: Any) -> None:
        model = resolve(spec)
        bind(model, self.task)
        self.engine.reward_model = model

    def annotate(self, name: str, values: Any) -> None:
        """Give tokens a score that pictures colour them by: value, KL, Q, a mask, ...

        Scores are kept by column until the row's next episode starts. Without a render mode
        nothing is drawn, and nothing is kept.

        Args:
            name: of the score; `render_score` chooses the one that images show, pages offer all.
            values: before a step, one number for the token that is written next, `(N,)` in a
                vector environment, whose finished rows are passed over; or one for every column,
                `(L,)` or `(N, L)`, NaN where there is none.

        Raises:
            ValueError: the name is "reward", or another shape.
        """
        engine = self.engine
        if engine.record is not None:
            engine.record.annotate(name, values, engine.position, engine.running)

    @property
    def render_score(self) -> str:
        """The score that `render_mode="rgb_array"` colours tokens by; "reward" at first."""
        return REWARD if self.engine.record is None else self.engine.record.shown

    @render_score.setter
    def render_score(self, name: str) -> None:
        if self.engine.record is None:
            raise ValueError(
                f"render_score {name!r} needs pictures; pass render_mode='rgb_array' to make()"
            )
        self.engine.record.shown = name

    def _pictures(self, maker: str) -> Any:
        """Return a picture of every row as a tuple, one page of all of them, or print them."""
        rows = range(self.engine.num_envs)
        if self.render_mode is None:
            gym.logger.warn(
                f"render() without a render_mode; pass one to {maker}(): {', '.join(render.MODES)}"
            )
            return None
        if self.render_mode == "html":
            return render.html(self.engine, rows)
        if self.render_mode == "rgb_array":
            return tuple(render.rgb_array(self.engine, row) for row in rows)
        pictures = tuple(render.ansi(self.engine, row) for row in rows)
        if self.render_mode == "ansi":
            return pictures
        render.show("\n".join(pictures))
        return None

    def _start_record(self) -> None:
        """Let the engine keep what pictures show; stepping is quicker without."""
        engine = self.engine
        engine.record = Record(engine.num_envs, engine.num_columns, engine.tokenizer)


@contextlib.contextmanager
def unchanged_if_refused(env: Any) -> Iterator[None]:
    """Let a reset that fails change neither the episode nor the generators nor the seed.

    Args:
        env: an environment of Gymnasium with an engine.
    """
    engine: TokenEngine = env.engine
    seeded = env._np_random, env._np_random_seed
    rngs, draws = list(engine.rngs), engine.draws.next.copy()
    try:
        yield
    except BaseException:
        env._np_random, env._np_random_seed = seeded
        engine.rngs[:] = rngs
        engine.draws.next[:] = draws
        raise
