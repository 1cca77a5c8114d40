"""Goal-conditioned environments: the contract, hindsight, and Stable-Baselines3's replay buffer."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers import Echo
from stable_baselines3 import DQN, HerReplayBuffer
from stable_baselines3.common.env_checker import check_env

import text_envs
from text_envs import RewardModelError
from text_envs.envs.goal import Goal, GoalTokenEnv, GoalTokenVectorEnv, compute_reward
from text_envs.envs.goal_sb3 import GoalTokenVecEnv
from text_envs.tasks.toy import Toy
from text_envs.testing.goals import GOAL_CHECKS, check_goal_env_id

GOAL_IDS = [env_id for env_id in text_envs.list_ids() if env_id.endswith("Goal-v0")]
THREE = "text_envs/LogicalDeductionThreeGoal-v0"
A, B, END = 0, 1, 2  # the tokens of Toy, for whose goal env "a b" is correct

pytestmark = [pytest.mark.filterwarnings("ignore:.*Box observation space.*")]


def test_every_reasoning_id_has_a_goal_id() -> None:
    assert len(GOAL_IDS) == 12
    for env_id in GOAL_IDS:
        flat, goal = gym.spec(env_id.replace("Goal", "")), gym.spec(env_id)
        assert flat.kwargs == goal.kwargs


@pytest.mark.parametrize("env_id", GOAL_IDS)
@pytest.mark.parametrize("check", GOAL_CHECKS, ids=lambda check: check.__name__)
def test_contract(env_id: str, check: Any) -> None:
    check(env_id)


def test_all_checks_at_once_and_those_of_stable_baselines3() -> None:
    check_goal_env_id(THREE, max_tokens=4, style="compact")
    check_env(gym.make(THREE).unwrapped)


@pytest.mark.parametrize(("goal", "text", "reward"), [
    ("correct", [A, B, END], 1.0), ("correct", [B, END], 0.0), ("wrong", [B, END], 1.0),
    ("wrong", [A, B, END], 0.0), (Goal.WRONG, [A, A, A], 1.0),
])  # fmt: skip
def test_what_is_paid(goal: Any, text: list[int], reward: float) -> None:
    env = GoalTokenEnv(Toy(), threshold=1.0)
    observation, info = env.reset(seed=0, options={"goal": goal})
    assert observation["achieved_goal"] == Goal.UNFINISHED and info["example_index"] == 0
    for token in text:
        assert observation["desired_goal"] == Goal["WRONG" if goal in ("wrong", 0) else "CORRECT"]
        observation, paid, terminated, truncated, info = env.step(token)
    assert terminated and not truncated and paid == reward and type(paid) is float
    assert observation["achieved_goal"] == (Goal.CORRECT if B in text[1:] else Goal.WRONG)
    assert info["reward_terms"] == {"task": reward} and info["text"] == env.tokenizer.decode(text)


def test_compute_reward() -> None:
    table = [[compute_reward(a, d, {}) for d in Goal] for a in Goal]
    assert table == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert compute_reward(np.zeros((0, 1)), np.zeros((0, 1)), []).shape == (0,)
    assert compute_reward(np.array([[1]]), np.array([[1]]), [{}]).shape == (1,)
    with pytest.raises(ValueError, match=r"shape \(2,\) and desired goals of shape \(2, 1\)"):
        compute_reward(np.zeros(2), np.zeros((2, 1)), [{}, {}])


def test_goals_are_drawn_evenly_and_do_not_change_the_questions() -> None:
    venv = gym.make_vec(THREE, num_envs=64, vectorization_mode="vector_entry_point")
    drawn, questions = [], []
    for goal in (None, "wrong"):
        for seed in range(20):
            options = {} if goal is None else {"goal": goal}
            observation, infos = venv.reset(seed=seed * 1000, options=options)
            questions.append(infos["example_index"])
            drawn.append(observation["desired_goal"])
    assert 0.42 < np.mean(drawn[:20]) < 0.58 and not np.any(drawn[20:])
    assert np.array_equal(questions[:20], questions[20:])


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
def test_vector_modes(mode: str) -> None:
    venv = GoalTokenVectorEnv(Toy(), num_envs=2, threshold=1.0, autoreset_mode=mode)
    assert venv.metadata["autoreset_mode"] is AutoresetMode[mode]
    observation, _ = venv.reset(seed=0, options={"goal": ["correct", 0]})
    assert observation["desired_goal"].tolist() == [1, 0]
    observation, rewards, terminated, _, infos = venv.step(np.array([END, A]))
    assert rewards.tolist() == [0, 0] and terminated.tolist() == [True, False]
    if mode == "SAME_STEP":
        assert observation["achieved_goal"].tolist() == [2, 2]
        final = infos["final_obs"][0]
        assert (final["achieved_goal"], final["desired_goal"]) == (0, 1)
        assert final["observation"].tolist() == [4, END, 3, 3] and infos["final_obs"][1] is None
        return
    assert observation["achieved_goal"].tolist() == [0, 2]
    if mode == "DISABLED":
        mask = np.array([True, False])
        observation, _ = venv.reset(options={"reset_mask": mask, "goal": "wrong"})
        assert observation["desired_goal"].tolist() == [0, 0]
        assert observation["observation"][1].tolist() == [4, A, 3, 3]
    else:
        observation, rewards, *_ = venv.step(np.array([A, B]))
        assert observation["achieved_goal"].tolist() == [2, 2] and rewards.tolist() == [0, 0]


def test_an_outer_limit_leaves_the_text_unfinished() -> None:
    venv = GoalTokenVectorEnv(Toy(), num_envs=2, max_episode_steps=1)
    venv.reset(seed=0)
    observation, rewards, terminated, truncated, _ = venv.step(np.array([A, END]))
    assert truncated.tolist() == [True, True] and terminated.tolist() == [False, True]
    assert observation["achieved_goal"].tolist() == [2, 1] and rewards[0] == 0


def test_a_failed_judge_leaves_the_step_undone() -> None:
    env = GoalTokenEnv(Toy(), reward=lambda episodes: [np.nan] * len(episodes))
    env.reset(seed=0, options={"goal": "wrong"})
    with pytest.raises(RewardModelError, match="finite"):
        env.step(END)
    env.reward_model = {"constant": 0.25}
    observation, reward, terminated, *_ = env.step(END)
    assert (reward, terminated, observation["achieved_goal"]) == (1.0, True, Goal.WRONG)


def test_state_masks_and_render() -> None:
    env = GoalTokenEnv(Toy(), action_mask=True, render_mode="ansi", goal="correct")
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1, 1, 1] and env.action_masks().all()
    env.step(A)
    state = env.get_state()
    assert "a" in env.render()
    other = GoalTokenEnv(Toy())
    other.set_state(state)
    observation, reward, *_ = other.step(END)
    assert observation["desired_goal"] == Goal.CORRECT and reward == 1.0  # 0.5 for the end
    started, _ = other.reset(options={"state": state, "goal": "wrong"})
    assert started["observation"].tolist() == [4, A, 3, 3] and started["desired_goal"] == 0
    assert other.np_random is other.engine.rngs[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GoalTokenEnv(Toy(), goal="right"), ValueError, "unknown goal 'right'.*'correct'"),
        (lambda: GoalTokenEnv(Toy(), goal=2), ValueError, "unknown goal 2"),
        (lambda: GoalTokenEnv(Toy()).reset(options={"goal": "unfinished"}), ValueError, "unknown"),
        (lambda: GoalTokenEnv(Echo()), ValueError, "Echo has turns"),
        (lambda: GoalTokenVectorEnv(Toy(), num_envs=0), ValueError, "num_envs"),
        (
            lambda: GoalTokenVectorEnv(Toy(), num_envs=2).reset(options={"goal": [1, 0, 1]}),
            ValueError,
            "has 3 goals; accepted: one, or 2",
        ),
        (lambda: GoalTokenEnv(Toy()).reset(options={"gaol": 1}), ValueError, "option 'gaol'"),
        (lambda: gym.make(THREE, object=3), TypeError, "no argument 'object'"),
    ],
)
def test_bad_input(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


# -- Stable-Baselines3 -----------------------------------------------------------------------------

NUMBERS = pytest.mark.filterwarnings("ignore::text_envs.envs.spaces.TokenIdsWarning")

ONE_QUESTION = {"objects": 2, "pool": 2, "themes": ["race"], "style": "compact",
                "num_examples": 1, "max_tokens": 1}  # fmt: skip


def her(env: Any, **kwargs: Any) -> DQN:
    return DQN(
        "MultiInputPolicy", env,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "final"},
        gamma=1.0, learning_rate=3e-3, buffer_size=2000, learning_starts=50, batch_size=32,
        target_update_interval=50, exploration_fraction=0.5,
        policy_kwargs={"net_arch": [32]}, seed=0, **kwargs,
    )  # fmt: skip


@NUMBERS
def test_hindsight_replay_learns_to_follow_both_goals() -> None:
    env = gym.make(THREE, **ONE_QUESTION)
    model = her(env, train_freq=4)
    model.learn(800)
    batch = model.replay_buffer.sample(500)  # four in five are relabelled, and then succeed
    assert batch.rewards.mean() > 0.8
    equal = batch.next_observations["achieved_goal"] == batch.next_observations["desired_goal"]
    assert (equal.float() == batch.rewards).all()
    for goal in ("correct", "wrong"):
        observation, _ = env.reset(options={"goal": goal})
        action, _ = model.predict(observation, deterministic=True)
        *_, reward, terminated, _, _ = env.step(action)
        assert terminated and reward == 1.0


@NUMBERS
def test_the_native_batch_behind_stable_baselines3() -> None:
    native = GoalTokenVecEnv(GoalTokenVectorEnv(Toy(), num_envs=4, threshold=1.0))
    native.seed(0)
    native.set_options({"goal": "correct"})
    observation = native.reset()
    assert observation["observation"].shape == (4, 4) and (observation["desired_goal"] == 1).all()
    native.step(np.array([A, A, A, END]))
    native.step(np.array([B, END, A, A]))
    _, rewards, dones, infos = native.step(np.array([END, A, B, A]))
    final = infos[0]["terminal_observation"]
    assert rewards[[0, 2]].tolist() == [1, 1] and dones[[0, 2]].all()
    assert (final["achieved_goal"], final["desired_goal"]) == (1, 1)
    assert final["observation"].tolist() == [4, A, B, END]
    # A batch of the buffer that happens to be as long as the rows is no value of the rows.
    goals = np.array([[0], [1], [2], [1]])
    (batch,) = native.env_method("compute_reward", goals, goals, [{}] * 4, indices=[0])
    assert batch.tolist() == [1.0, 1.0, 0.0, 1.0]
    model = her(native, train_freq=2)
    model.learn(400)
    batch = model.replay_buffer.sample(200)
    achieved = batch.next_observations["achieved_goal"]
    paid = (achieved == batch.next_observations["desired_goal"]) & (achieved != Goal.UNFINISHED)
    assert (paid.float() == batch.rewards).all() and batch.rewards.any()


def test_goals_that_are_none_are_refused() -> None:
    for achieved, desired in ((7, 7), ([1, -1], [1, 1]), ([[0]], [[3]])):
        with pytest.raises(ValueError, match=r"goals are .*; accepted: 0 \(wrong\), 1 \(correct\)"):
            compute_reward(achieved, desired)
    for goal in (1.0, None.__class__, 2):
        with pytest.raises(ValueError, match="unknown goal"):
            gym.make(THREE).reset(options={"goal": goal})
