"""The data sets of the studies, built from a seed."""

from __future__ import annotations

import json
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest

from text_envs import Role, datasets
from text_envs.datasets import RECIPES, recipe

SIZES = {"reviews": 8, "wordle-adversarial": 22}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_is_sized_repeatable_and_fits_its_environment(name: str) -> None:
    n = SIZES.get(name, 20)
    data = recipe(name, n, seed=1)
    assert len(data) == n and data == recipe(name, n, seed=1)
    assert not np.array_equal(data.tokens, recipe(name, n, seed=2).tokens)
    env_id = data.metadata["env_id"]
    datasets.check_compatible(data, env_id)
    stored = json.dumps(data.metadata["env_spec"])
    datasets.check_compatible(data, gym.make(gym.envs.registration.EnvSpec.from_json(stored)))
    assert ("policy" in data.columns) == (name != "reviews")
    assert data.metadata["seed"] == 1


def test_walks_are_cut_after_eight_commands_with_what_was_seen_last() -> None:
    walks = recipe("maze-walks", 60)
    lengths = walks.action_mask.sum(axis=1)
    assert lengths.max() == 16 and (lengths[walks.truncated] == 16).all()
    assert walks.truncated.any() and walks.terminated.any()
    reached = np.array([reason == "goal" for reason in walks.finish_reasons])
    assert np.array_equal(reached, walks.terminated)
    written = walks.roles != Role.PAD
    last = walks.roles.shape[1] - 1 - written[:, ::-1].argmax(axis=1)
    last_role = walks.roles[np.arange(len(walks)), last]
    # The position to bootstrap from is that before the next command: the end of a description.
    assert (last_role[walks.truncated] == Role.REPLY).all()
    assert (last_role[walks.terminated] == Role.ACTION).all()
    assert walks.metadata["env_spec"]["max_episode_steps"] is None


def test_the_adversarial_set_has_its_shares_and_returns() -> None:
    data = recipe("wordle-adversarial", 110)
    kinds, games = data.columns["policy"], data.columns["game"]
    assert Counter(kinds.tolist()) == {"expert": 10, "adversarial": 50, "suboptimal": 50}
    assert (np.bincount(games) == 11).all()
    for game in range(10):  # one hidden word a game
        assert len(set(data.example_indices[games == game].tolist())) == 1
    returns = {k: data.filter(lambda d, k=k: d.columns["policy"] == k).returns for k in set(kinds)}
    assert (returns["adversarial"] == -6).all() and (returns["expert"] <= -2).all()
    assert returns["adversarial"].mean() < returns["suboptimal"].mean() < returns["expert"].mean()


def test_arguments_reach_the_environment() -> None:
    plain = recipe("visual-dialogue", 30, seed=4)
    polite = recipe("visual-dialogue", 30, seed=4, reward_kind="yes_no")
    assert np.array_equal(plain.tokens, polite.tokens)
    assert polite.returns.sum() < plain.returns.sum()
    noised = recipe("comments", 30, reward_kwargs={"noised": True})
    assert set(noised.returns.tolist()) <= {0.0, -10.0}
    small = recipe("maze-walks", 5, layout="u")
    assert small.metadata["env_spec"]["kwargs"]["layout"] == "u"


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="unknown recipe 'wordle'.*Did you mean 'wordle-mixed'"):
        recipe("wordle", 4)
    for n in (10, 0, 17):
        with pytest.raises(ValueError, match="positive multiple of 11.*nearest: (11|22)"):
            recipe("wordle-adversarial", n)
    with pytest.raises(ValueError, match="n_episodes must be"):
        recipe("maze", 0)
