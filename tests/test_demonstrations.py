"""Scripted players, played through the environment's own steps."""

from __future__ import annotations

import numpy as np
import pytest

from text_envs import Role
from text_envs.tasks.toy import Toy


def test_the_expert_of_toy_is_perfect_and_random_is_what_enumeration_says() -> None:
    task = Toy()
    expert = task.demonstrations(5)
    assert expert.returns.tolist() == [1.5] * 5 and set(expert.finish_reasons) == {"stop"}
    assert expert.tokens.tolist() == [[4, 0, 1, 2]] * 5
    random = task.demonstrations(4000, quality="random", seed=1)
    # "a b" at once (1/9) or after one other word (2/27); the end at the 1st, 2nd or 3rd token.
    exact = 1 / 9 + 2 / 27 + 0.5 * (1 / 3 + 2 / 9 + 4 / 27)
    standard_error = random.returns.std() / np.sqrt(len(random))
    assert abs(random.returns.mean() - exact) < 4 * standard_error


def test_mixed_lies_between_and_seeds_repeat() -> None:
    task = Toy()
    mixed = task.demonstrations(400, quality="mixed", seed=3)
    assert 0.6 < mixed.returns.mean() < 1.4
    again = task.demonstrations(400, quality="mixed", seed=3)
    assert np.array_equal(mixed.tokens, again.tokens)
    assert not np.array_equal(mixed.tokens, task.demonstrations(400, quality="mixed").tokens)


def test_rewards_sit_on_actions() -> None:
    episodes = Toy().demonstrations(50, quality="random")
    assert (episodes.roles[episodes.rewards != 0] == Role.ACTION).all()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="unknown quality 'experts'.*Did you mean 'expert'"):
        Toy().demonstrations(1, quality="experts")
    with pytest.raises(ValueError, match="n must be at least 1"):
        Toy().demonstrations(0)
