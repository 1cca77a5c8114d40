"""Recorded episodes with other rewards: what is replaced, what is refused, what is kept."""

from __future__ import annotations

import doctest
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import Echo

from text_envs import EpisodeBatch, RewardModelError, Role, TokenVectorEnv
from text_envs.datasets import EpisodeDataset, collect, load, rescore, rescoring, save
from text_envs.envs.sb3 import make_sb3
from text_envs.episodes.errors import DatasetError
from text_envs.guides.shaping import ReferenceShaping
from text_envs.rewards import Calibrated, Length, WeightedSum
from text_envs.tasks.toy import Toy

TOY = "text_envs/Toy-v0"


@pytest.fixture
def played() -> EpisodeDataset:
    return collect(TOY, "random", 40, seed=0)


def test_the_card_runs() -> None:
    assert doctest.testmod(rescoring).failed == 0


@pytest.mark.parametrize("env", [
    TOY, Toy(), gym.make(TOY), TokenVectorEnv(Toy(), num_envs=2), make_sb3(Toy(), num_envs=2),
], ids=lambda env: type(env).__name__)  # fmt: skip
def test_it_equals_playing_with_the_new_reward(played: EpisodeDataset, env: Any) -> None:
    """The same seed plays the same texts, so collecting with the reward must give the same."""
    as_played = collect(TOY, "random", 40, seed=0, reward="length")
    again = rescore(played, "length", env)
    assert np.array_equal(again.tokens, as_played.tokens)
    assert np.array_equal(again.rewards, as_played.rewards)
    assert played.returns.max() == 1.5  # the data given are left as they were
    assert again.metadata["rescored"] == [{"reward": "length", "mode": None}]
    assert np.array_equal(rescore(again, Toy.reward, env).rewards, played.rewards)


def test_chunks_make_no_difference(played: EpisodeDataset) -> None:
    sizes: list[int] = []

    def model(batch: EpisodeBatch) -> Any:
        sizes.append(len(batch))
        return [rng.random() for rng in batch.rngs]

    whole = rescore(played, model, Toy(), seed=1)
    assert np.array_equal(
        rescore(played, model, Toy(), seed=1, batch_size=15).rewards, whole.rewards
    )
    assert sizes == [40, 15, 15, 10] and len(set(whole.returns)) == 40
    assert not np.array_equal(rescore(played, model, Toy(), seed=2).rewards, whole.rewards)


def test_components_and_details_become_columns(played: EpisodeDataset, tmp_path: Any) -> None:
    reward = Calibrated(["length", Toy.reward], {0: "a b"})
    again = rescore(played, reward, TOY)
    terms = [again.columns[f"reward_terms/{name}"] for name in ("length", "ab_reward")]
    assert np.allclose(terms[0] + terms[1], again.returns)
    raw = again.columns["reward_details/raw/ab_reward"]
    assert np.array_equal(raw, played.returns)
    assert np.array_equal(terms[1], -((raw - 1.5) ** 2))
    assert load(save(again, tmp_path / "again.npz")) == again
    plain = rescore(again, "constant", TOY, reward_kwargs={"value": 2.0})
    assert set(plain.columns) == set(played.columns) and (plain.returns == 2.0).all()
    weighed = WeightedSum({"long": (2.0, Length())})
    assert set(rescore(plain, weighed, TOY).columns) >= {"reward_terms/long"}


def test_recorded_rewards_can_be_kept(played: EpisodeDataset) -> None:
    both = rescore(played, "length", TOY, mode="add")
    assert np.array_equal(both.returns, played.returns + rescore(played, "length", TOY).returns)


def test_turns_and_shaping_need_a_decision() -> None:
    dialogues = Echo().demonstrations(12, quality="random", seed=0)
    with pytest.raises(ValueError, match="replies of Echo pay for turns; mode='replace'.*'add'"):
        rescore(dialogues, "length", Echo())
    words = rescore(dialogues, "length", Echo(), mode="replace").returns
    added = rescore(dialogues, "length", Echo(), mode="add")
    assert (words > 0).any() and np.array_equal(added.returns, dialogues.returns + words)
    ends = [int(np.flatnonzero(row)[-1]) for row in added.action_mask]
    assert all(
        added.rewards[i, end] == dialogues.rewards[i, end] + words[i] for i, end in enumerate(ends)
    )

    thirds = ReferenceShaping(lambda tokens: np.full((len(tokens), 3), -np.log(3)), 1.0)
    shaped = collect(TOY, "random", 20, seed=0, shaping=thirds)
    with pytest.raises(ValueError, match=r"was paid -1.09861 in column 1, before its end"):
        rescore(shaped, "length", TOY)
    kept = rescore(shaped, "length", TOY, mode="add").returns
    assert np.allclose(
        kept - shaped.returns, rescore(shaped, "length", TOY, mode="replace").returns
    )


def test_truncated_episodes_are_paid_nothing() -> None:
    cut = collect(
        TokenVectorEnv(Toy(), num_envs=4, max_episode_steps=2), lambda tokens: tokens[:, 1] * 0, 4
    )
    assert cut.truncated.all()
    again = rescore(cut, Calibrated("length", {0: "a"}), TOY)
    assert (again.rewards == 0).all() and not again.columns
    mixed = collect(TokenVectorEnv(Toy(), num_envs=8, max_episode_steps=2), "random", 24, seed=0)
    assert 0 < mixed.truncated.sum() < 24
    demo = rescore(mixed, Calibrated("length", {0: "a"}), TOY).columns["reward_details/demo"]
    assert np.array_equal(np.isnan(demo), mixed.truncated)


def test_the_end_may_be_another_s() -> None:
    """A text that a guide has finished is paid on the guide's last token."""
    roles = np.array([[1, 3, 2, 2]], dtype=np.int8)
    assert roles[0, -1] == Role.PREFIX
    data = EpisodeDataset(
        tokens=np.array([[4, 0, 1, 2]]),
        roles=roles,
        rewards=np.array([[0.0, 0.0, 0.0, 1.5]]),
        example_indices=np.array([0]),
        finish_reasons=("stop",),
    )
    assert rescore(data, "length", TOY).rewards.tolist() == [[0.0, 0.0, 0.0, 2.0]]


def test_errors(played: EpisodeDataset) -> None:
    with pytest.raises(ValueError, match="unknown mode 'replce'. Did you mean 'replace'"):
        rescore(played, "length", TOY, mode="replce")
    with pytest.raises(ValueError, match="batch_size"):
        rescore(played, "length", TOY, batch_size=0)
    with pytest.raises(DatasetError, match="tokenizer"):
        rescore(played, "length", Echo())
    with pytest.raises(DatasetError, match="max_tokens=3"):
        rescore(played, "length", Toy(max_tokens=5))
    with pytest.raises(TypeError, match="no text environment"):
        rescore(played, "length", gym.make("CartPole-v1"))
    with pytest.raises(RewardModelError, match="returned nan"):
        rescore(played, lambda batch: np.full(len(batch), np.nan), TOY)
    elsewhere = EpisodeDataset(
        **{
            name: getattr(played, name)
            for name in ("tokens", "roles", "rewards", "finish_reasons", "metadata")
        },
        example_indices=np.full(40, 7),
    )
    with pytest.raises(DatasetError, match=r"about example 7, the task has 0\.\.0"):
        rescore(elsewhere, "length", TOY)


def test_episodes_of_another_task_are_refused() -> None:
    played = collect("text_envs/Reviews-v0", "expert", 2)
    with pytest.raises(DatasetError, match=r"of the task .*Reviews, not of .*Continuation"):
        rescore(played, "length", "text_envs/LikelihoodContinuation-v0")
