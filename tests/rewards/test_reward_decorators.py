"""Clip, scale, ledger and cache: numbers by hand, components, details, and nothing changed."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_batches import WORDS, batch

from text_envs import EpisodeBatch, RewardModelError
from text_envs.rewards import (
    Cache,
    Clip,
    Constant,
    Ledger,
    Scale,
    Scored,
    WeightedSum,
    resolve,
    score,
    score_with_details,
)
from text_envs.rewards.batches import select
from text_envs.testing.envs import check_reward_model
from text_envs.tokenizers import WordTokenizer

TEXTS = ["good film", "a dog runs in the park", ""]  # 2, 6 and 0 words


class Two:
    """Two components, and a detail."""

    name = "two"
    components = ("words", "shouts")

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def __call__(self, episodes: EpisodeBatch) -> Scored:
        self.seen.append(episodes.texts)
        words = episodes.lengths.astype(float)
        shouts = np.array([float(text.count("!")) for text in episodes.texts])
        return Scored(np.stack([words, shouts], axis=1), {"half": words / 2})


def lists(columns: Any) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in columns.items()}


def test_clip_and_scale_by_hand() -> None:
    episodes = batch(TEXTS)
    assert score(Clip("length", 1, 4), episodes)["task"].tolist() == [2, 4, 1]
    assert score(Clip("length", high=3), episodes)["task"].tolist() == [2, 3, 0]
    assert score(Clip("length", low=1), episodes)["task"].tolist() == [2, 6, 1]
    assert score(Scale("length", 0.5, -1), episodes)["task"].tolist() == [0, 2, -1]
    standard = Scale("length", mean=2.0, std=4.0, factor=2.0, shift=1.0)
    assert score(standard, episodes)["task"].tolist() == [1, 3, 0]


def test_a_scale_fitted_on_episodes_standardises_them() -> None:
    episodes = batch(TEXTS)
    scale = Scale.fitted("length", episodes)
    values = score(scale, episodes)["task"]
    assert values.mean() == pytest.approx(0) and values.std() == pytest.approx(1)
    assert scale.mean == pytest.approx(8 / 3) and scale.std == pytest.approx(np.std([2, 6, 0]))
    with pytest.raises(ValueError, match="all 3 rewards are 1.0"):
        Scale.fitted("constant", episodes)
    with pytest.raises(ValueError, match="one component, got words, shouts"):
        Scale.fitted(Two(), episodes)


def test_every_component_is_changed_and_named() -> None:
    ledger, details = score_with_details(Clip(Two(), high=1), batch(["good film !", "bad ! !"]))
    assert lists(ledger) == {"words": [1, 1], "shouts": [1, 1]}
    assert lists(details) == {
        "half": [1.5, 1.5], "two/words": [3, 3], "two/shouts": [1, 2],
    }  # fmt: skip


def test_the_details_show_the_whole_chain() -> None:
    chain = WeightedSum({"length": (2.0, Clip(Scale("length", 0.1), high=0.4))})
    ledger, details = score_with_details(chain, batch(TEXTS))
    assert lists(ledger) == {"length": [0.4, 0.8, 0]}
    assert lists(details) == {
        "length/length": [2, 6, 0],
        "length/scale(length)": pytest.approx([0.2, 0.6, 0]),
    }
    env = gym.make("text_envs/Toy-v0", reward=Clip(Scale("length", 10.0), high=15.0))
    env.reset(seed=0)
    env.step(0)
    env.step(0)
    _, reward, *_, info = env.step(2)
    assert reward == 15.0
    assert info["reward_details"] == {"length": 2.0, "scale(length)": 20.0}
    assert info["reward_terms"] == {"task": 15.0}


def test_components_inside_a_weighted_sum_are_told() -> None:
    both = WeightedSum({"both": (0.5, Two()), "one": (1.0, Constant(1.0))})
    ledger, details = score_with_details(both, batch(["good film !"]))
    assert lists(ledger) == {"both": [2.0], "one": [1.0]}
    assert lists(details) == {"both/half": [1.5], "both/words": [3], "both/shouts": [1]}
    clipped = Clip(WeightedSum({"total": (1.0, both)}), high=2.5)  # of the sum, not of the parts
    assert lists(score(clipped, batch(["good film !"]))) == {"total": [2.5]}


def test_unnamed_components_keep_their_numbers() -> None:
    model = Scale(lambda episodes: np.ones((len(episodes), 2)), 3.0)
    assert lists(score(model, batch(["good"]))) == {"component_0": [3.0], "component_1": [3.0]}


def test_decorators_as_plain_json() -> None:
    inner = {"reward": "length", "reward_kwargs": {"target": 2}}
    kwargs = {"model": {"reward": "scale", "reward_kwargs": {"model": inner, "factor": 3.0}},
              "low": -2.0}  # fmt: skip
    env = gym.make("text_envs/Toy-v0", reward="clip", reward_kwargs=kwargs)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    for one in (env, again):
        one.reset(seed=0)
        assert one.step(2)[1] == -2.0
        assert one.unwrapped.reward_model.name == "clip(scale(length))"
    assert json.loads(env.spec.to_json())["kwargs"]["reward_kwargs"] == kwargs
    sum_of_two = resolve({"length": 1.0, "near": [2.0, inner]})
    assert lists(score(sum_of_two, batch(["a film ."]))) == {"length": [3.0], "near": [-2.0]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clip("length"), "needs low, high, or both"),
        (lambda: Clip("length", 2, 1), "needs low <= high, got low=2 and high=1"),
        (lambda: Clip("length", float("nan")), "needs low <= high"),
        (lambda: Clip("lenght", 0), "Did you mean 'length'"),
        (lambda: Scale("length", std=0), "std of Scale must be positive and finite, got 0"),
        (lambda: Scale("length", float("inf")), "factor of Scale must be finite, got inf"),
        (lambda: Cache("length", 0), "maxsize must be an integer of at least 1, got 0"),
        (lambda: resolve({"reward": "length", "weight": 1}), r"got also \['weight'\]"),
        (lambda: resolve({"length": "1"}), "needs a weight or .weight, reward., got '1'"),
        (lambda: resolve({"length": True}), "needs a weight"),
        (lambda: resolve({"length": float("nan")}), "weight of reward 'length' must be finite"),
    ],
)
def test_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_goes_wrong_inside_is_told_once_with_all_episodes() -> None:
    def broken(episodes: EpisodeBatch) -> Any:
        return [np.nan] * len(episodes)

    episodes = batch(TEXTS + TEXTS)
    with pytest.raises(RewardModelError, match="^reward model 'broken' returned nan for") as told:
        score(Clip(Cache(Ledger(broken)), 0), episodes)
    assert told.value.episodes is episodes


# -- ledger ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["good", "bad", "film"]), max_size=6).map(" ".join),
        min_size=2,
        max_size=12,
    ),
    st.integers(1, 11),
)
def test_statistics_do_not_depend_on_how_the_episodes_arrive(texts: list[str], cut: int) -> None:
    ledger = Ledger(Two())
    for part in (texts[:cut], texts[cut:]):
        if part:
            _, details = score_with_details(ledger, batch(part))
    words = np.array([len(text.split()) for text in texts], dtype=float)
    told = ledger.statistics()["words"]
    assert told == {
        "count": len(texts), "mean": pytest.approx(words.mean()),
        "std": pytest.approx(words.std(), abs=1e-12), "min": words.min(), "max": words.max(),
    }  # fmt: skip
    assert (details["two/words/mean"] == told["mean"]).all()
    assert (details["two/words/std"] == told["std"]).all()


def test_a_ledger_pays_what_the_model_pays() -> None:
    episodes = batch(TEXTS)
    ledger = Ledger(Two())
    assert lists(score(ledger, episodes)) == lists(score(Two(), episodes))
    ledger.reset_statistics()
    assert ledger.statistics() == {}


# -- cache -------------------------------------------------------------------------------------


def test_equal_episodes_are_scored_once() -> None:
    model = Two()
    cache = Cache(model)
    texts = ["good", "bad film", "good"]
    indices = np.array([0, 1, 0])
    episodes = batch(texts)
    episodes.example_indices = indices
    first, told = score_with_details(cache, episodes)
    again, told_again = score_with_details(cache, episodes)
    assert lists(first) == lists(again) == {"words": [1, 2, 1], "shouts": [0, 0, 0]}
    assert lists(told) == lists(told_again)
    assert told["half"].tolist() == [0.5, 1, 0.5]
    assert model.seen == [["good", "bad film"]]
    assert (cache.misses, cache.hits, len(cache)) == (2, 4, 2)
    cache.clear()
    assert (cache.misses, cache.hits, len(cache)) == (0, 0, 0)


def one(text: str, **kwargs: Any) -> EpisodeBatch:
    listed = {name: value if name == "tokenizer" else [value] for name, value in kwargs.items()}
    return batch([text], **listed)


def reason(episodes: EpisodeBatch, finish: str) -> EpisodeBatch:
    episodes.finish_reasons = [finish]
    return episodes


def prefixed(episodes: EpisodeBatch) -> EpisodeBatch:
    roles = episodes.roles.copy()
    roles[0, episodes.prompt_length] = 2
    return EpisodeBatch(
        episodes.tokens, roles, prompt_length=episodes.prompt_length,
        tokenizer=episodes.tokenizer, example_indices=episodes.example_indices,
        finish_reasons=episodes.finish_reasons, get_example=episodes.get_example,
    )  # fmt: skip


def test_whatever_a_reward_may_depend_on_tells_episodes_apart() -> None:
    other_words = WordTokenizer([word[::-1] for word in WORDS.words])
    different = [
        lambda: one("good"),
        lambda: one("bad"),
        lambda: one("good", prompts="a dog"),
        lambda: one("good", references=("a film",)),
        lambda: one("good", metadata={"a": 1}),
        lambda: one("good", metadata={"a": np.arange(2000)}),
        lambda: one("good", metadata={"a": np.where(np.arange(2000) == 1000, -1, np.arange(2000))}),
        lambda: one("doog", tokenizer=other_words, prompts="a mlif"),
        lambda: reason(one("good"), "length"),
        lambda: prefixed(one("good")),
    ]
    model = Two()
    cache = Cache(model)
    for make in different:
        score(cache, make())
    assert len(model.seen) == len(different)
    for make in different:  # equal ones, though other objects
        score(cache, make())
    assert len(model.seen) == len(different) and cache.hits == len(different)


def test_examples_that_cannot_be_pickled_are_scored_every_time() -> None:
    model = Two()
    cache = Cache(model)
    episodes = batch(["good", "good"], metadata=[{"f": lambda: 1}, {"f": lambda: 2}])
    for _ in range(2):
        assert score(cache, episodes)["words"].tolist() == [1, 1]
    assert len(model.seen) == 2 and cache.hits == 0


def test_the_oldest_are_forgotten() -> None:
    model = Two()
    cache = Cache(model, maxsize=2)
    for text in ("good", "bad", "good", "film", "good", "bad"):
        score(cache, batch([text]))
    assert [texts[0] for texts in model.seen] == ["good", "bad", "film", "bad"]
    assert score(cache, batch(["a", "dog", "runs", "a dog"]))["words"].tolist() == [1, 1, 1, 2]
    assert len(cache) == 2


def test_a_copy_is_empty_and_a_pickle_is_not() -> None:
    cache = Cache("length")
    score(cache, batch(TEXTS))
    assert len(copy.deepcopy(cache)) == 0 and len(pickle.loads(pickle.dumps(cache))) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cache("sentiment"),
        lambda: Clip("sentiment", 0.2, 0.8),
        lambda: Scale("length", 0.1, mean=3.0, std=2.0),
        lambda: Ledger({"sentiment": 1.0, "length": -0.1}),
        lambda: Cache(Clip(Ledger(Scale({"sentiment": 1.0, "length": -0.1}, 2.0)), low=-3.0)),
    ],
)
def test_the_contract_of_reward_models(make: Any) -> None:
    check_reward_model(make())


def test_a_cache_changes_no_reward_of_an_environment() -> None:
    def rewards(model: Any) -> list[float]:
        envs = gym.make_vec("text_envs/Toy-v0", num_envs=8, reward=model)
        envs.reset(seed=0)
        rng = np.random.default_rng(0)
        return [r for _ in range(60) for r in envs.step(rng.integers(3, size=8))[1].tolist()]

    cache = Cache("text_envs.tasks.toy:ab_reward")
    assert rewards(cache) == rewards("text_envs.tasks.toy:ab_reward")
    assert cache.misses == len(cache) <= 15 and cache.hits > 100  # Toy has 15 texts


def test_selected_rows_are_those_rows() -> None:
    episodes = batch(TEXTS, [["a"], ["b"], ["c"]], prompts=["a dog", "a cat", "the dog"])
    chosen = select(episodes, [2, 0])
    assert chosen.texts == ["", "good film"] and chosen.prompts == ["the dog", "a dog"]
    assert [example.references for example in chosen.examples] == [("c",), ("a",)]
    assert chosen.example_indices.tolist() == [2, 0] and chosen.rngs is None
