"""Copies, interrupts, resets and infos beyond what the contract asks of every id."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
from gymnasium.vector import AutoresetMode

import text_envs
from text_envs.guides.roll_in import GuidedStarts
from text_envs.guides.shaping import ReferenceShaping
from text_envs.testing.shared import same

TOY = "text_envs/Toy-v0"
A, B, EOS = 0, 1, 2
COPIERS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: pickle.loads(cloudpickle.dumps(env)),
}


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
def test_the_copy_of_a_text_is_paid_as_the_text(copier: Any) -> None:
    env = gym.make(TOY)
    env.reset(seed=0)
    env.step(A)
    other = copier(env)
    other.step(B)
    _, reward, terminated, _, info = other.step(EOS)
    assert (reward, terminated, info["text"]) == (1.5, True, "a b")
    env.step(A)
    assert env.step(EOS)[4]["text"] == "a a"


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
@pytest.mark.parametrize("env_id", [TOY, "text_envs/Wordle-v0", "text_envs/WordSortingGoal-v0"])
def test_copies_of_the_stable_baselines3_face(copier: Any, env_id: str) -> None:
    venv = text_envs.make_sb3(env_id, num_envs=4, seed=0)
    venv.reset()
    rng = np.random.default_rng(0)
    actions = rng.integers(venv.action_space.n, size=(40, 4))
    for action in actions[:5]:
        venv.step(action)
    other, astray = copier(venv), copier(venv)
    for action in actions[::-1]:
        astray.step(action)
    for action in actions[5:]:
        assert same(venv.step(action), other.step(action))
    assert same(venv.reset_infos, other.reset_infos)


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
@pytest.mark.parametrize("plugins", [
    {"shaping": lambda: ReferenceShaping("reviews", beta=0.1)},
    {"starts": lambda: GuidedStarts("script:expert", beta=0.5)},
    {"starts": lambda: GuidedStarts("reviews", beta=0.5)},
], ids=["shaping", "script", "model"])  # fmt: skip
def test_copies_with_plug_ins(copier: Any, plugins: dict[str, Any]) -> None:
    made = {name: make() for name, make in plugins.items()}
    env = gym.make_vec("text_envs/Reviews-v0", num_envs=3, max_tokens=6, **made).unwrapped
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(4001, size=(20, 3))
    for action in actions[:4]:
        env.step(action)
    other, astray = copier(env), copier(env)
    for action in actions[::-1]:
        astray.step(action)
    for action in actions[4:]:
        one, two = env.step(action), other.step(action)
        np.testing.assert_allclose(one[1], two[1], atol=1e-6)
        assert np.array_equal(one[0], two[0])
    for name in made:
        mine, theirs = getattr(env.engine, name), getattr(other.engine, name)
        assert mine is made[name] and theirs is not mine
        if name == "starts":
            assert mine.queries == theirs.queries and mine.queries is not theirs.queries


def test_copies_of_data_and_solutions() -> None:
    data = text_envs.datasets.collect(TOY, "mixed", 8, seed=0)
    for copier in COPIERS.values():
        again = copier(data)
        assert np.array_equal(again.tokens, data.tokens) and again.tokens is not data.tokens
        again.tokens[...] = 0
        assert data.tokens.any()


# -- broken off ----------------------------------------------------------------------------------


class Moody:
    """Pays the length; raises in the calls that it is told to."""

    def __init__(self, error: BaseException, calls: set[int]) -> None:
        self.error, self.calls, self.count = error, calls, 0

    def __call__(self, episodes: text_envs.EpisodeBatch) -> Any:
        self.count += 1
        if self.count in self.calls:
            raise self.error
        return episodes.lengths


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), RuntimeError("x")])
def test_stock_ppo_goes_on_after_a_reward_model_was_broken_off(error: BaseException) -> None:
    """Stable-Baselines3 does not know that a step was not taken; the environment does."""
    venv = text_envs.make_sb3(TOY, num_envs=4, seed=0, reward=Moody(error, {2, 3, 9}))
    agent = stable_baselines3.PPO("MlpPolicy", venv, n_steps=8, batch_size=8, seed=0)
    interrupted = 0
    while agent.num_timesteps < 300:
        try:
            agent.learn(100, reset_num_timesteps=False)
        except BaseException as raised:
            assert raised is error or raised.__cause__ is error
            interrupted += 1
    assert interrupted == 3


def test_a_start_plug_in_that_is_broken_off_loses_no_step() -> None:
    class Writer:
        def __init__(self) -> None:
            self.calls = 0

        def bind(self, task: Any) -> None:
            """Any task will do."""

        def prefixes(self, engine: Any, rows: Any) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return [[A]] * len(rows)

    env = gym.make_vec(TOY, num_envs=2, starts=Writer(), autoreset_mode="SAME_STEP").unwrapped
    env.reset(seed=0)
    _, rewards, terminated, _, _ = env.step(np.array([EOS, EOS]))
    assert terminated.all() and rewards.tolist() == [0.5, 0.5]
    with pytest.raises(KeyboardInterrupt):
        env.step(np.array([EOS, EOS]))
    assert env.step(np.array([B, B]))[0][:, 1].tolist() == [B, B]  # at their prompts, no prefix


# -- resets --------------------------------------------------------------------------------------


def test_seeds_of_rows_outside_the_mask_are_left_alone() -> None:
    mode = {"autoreset_mode": AutoresetMode.DISABLED}
    one, two = (gym.make_vec("text_envs/Reviews-v0", num_envs=3, **mode) for _ in range(2))
    for env in (one, two):
        env.reset(seed=0)
    mask = np.array([False, True, False])
    one.reset(seed=50, options={"reset_mask": mask})
    two.reset(seed=[None, 51, None], options={"reset_mask": mask})
    before = [rng.bit_generator.state for rng in two.unwrapped.engine.rngs]
    after = [rng.bit_generator.state for rng in one.unwrapped.engine.rngs]
    assert before == after


@pytest.mark.parametrize("seed", ["x", -1, [1, 2], [1, 2, "x"], [True, 1, 2], 1.5])
def test_wrong_seeds_change_nothing(seed: Any) -> None:
    env = gym.make_vec(TOY, num_envs=3).unwrapped
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="seed must be"):
        env.reset(seed=seed)
    assert same(env.get_state(), before)


# -- infos and flags -----------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [TOY, "text_envs/Wordle-v0", "text_envs/WordSortingGoal-v0"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_native_and_looped_batches_set_the_same_flags(env_id: str, limit: int, mode: str) -> None:
    kwargs: dict[str, Any] = {"num_envs": 3, "max_episode_steps": limit}
    native = gym.make_vec(env_id, autoreset_mode=mode, **kwargs)
    looped = gym.make_vec(
        env_id, vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode[mode]}, **kwargs,
    )  # fmt: skip
    native.reset(seed=0)
    looped.reset(seed=0)
    rng = np.random.default_rng(limit)
    size = native.single_action_space.n
    for _ in range(60):
        actions = rng.integers(size, size=3)
        actions[rng.random(3) < 0.2] = native.unwrapped.engine.tokenizer.eos_id
        one, two = native.step(actions), looped.step(actions)
        for a, b in zip(one[1:4], two[1:4], strict=True):
            assert np.array_equal(a, b)
        assert same(one[0], two[0])


def test_final_infos_carry_the_mask() -> None:
    env = gym.make_vec(TOY, num_envs=2, action_mask=True, autoreset_mode="SAME_STEP")
    env.reset(seed=0)
    *_, infos = env.step(np.array([EOS, A]))
    assert infos["final_info"]["action_mask"].shape == (2, 3)
    assert infos["final_info"]["text"].tolist() == ["", ""] and infos["_final_info"].tolist() == [
        True, False,
    ]  # fmt: skip
    assert infos["final_info"]["finish_reason"][0] == "stop"


@pytest.mark.parametrize(("name", "near"), [("Wordle-v0", "Wordle"), ("Reviws-v0", "Reviews")])
def test_ids_without_their_namespace_are_recognised(name: str, near: str) -> None:
    with pytest.raises(gym.error.NameNotFound, match=f"Did you mean `text_envs/{near}`"):
        gym.make(name)
    with pytest.raises(gym.error.NameNotFound, match="Did you mean: `CartPole`"):
        gym.make("CartPol-v1")


@pytest.mark.parametrize(
    "env_id", [TOY, "text_envs/WordSorting-v0", "text_envs/WordSortingGoal-v0"]
)
def test_unknown_arguments_are_said_in_pythons_words(env_id: str) -> None:
    """TorchRL and Gymnasium try arguments, and look for these words where they are not taken."""
    for make in (gym.make, gym.make_vec):
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'frameskip'"):
            make(env_id, frameskip=1)


@pytest.mark.parametrize("algorithm", ["PPO", "RLOO"])
def test_what_was_played_before_ctrl_c_is_not_lost(algorithm: str) -> None:
    import agents

    env = text_envs.make_sb3(TOY, num_envs=2, seed=0, reward=Moody(KeyboardInterrupt(), {4}))
    kwargs = {"group_size": 2} if algorithm == "RLOO" else {"batch_size": 2}
    agent = getattr(agents, algorithm)(
        "CausalLMPolicy", env, n_episodes=16, seed=0, policy_kwargs={"model": "scratch"}, **kwargs
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        agent.learn(100)
    assert len(caught.value.partial_rollout) >= 3
    agent.learn(30)  # and learning goes on
