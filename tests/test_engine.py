"""The token-level MDP: ends, turns, prefixes, groups, states, autoreset modes, outer limits."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from helpers import Echo

from text_envs import Role, TokenEnv, TokenVectorEnv
from text_envs.tasks.toy import Toy

A, B, EOS, PAD, BOS = 0, 1, 2, 3, 4  # Toy's tokens
SAY, HELLO, BYE, YES, END = 0, 1, 2, 3, 4  # Echo's tokens


def test_the_length_limit_terminates_and_pays() -> None:
    env = TokenEnv(Toy())
    env.reset()
    env.step(A)
    env.step(B)
    observation, reward, terminated, truncated, info = env.step(A)
    assert observation.tolist() == [BOS, A, B, A]
    assert (reward, terminated, truncated, info["finish_reason"]) == (1.0, True, False, "length")


def test_an_end_token_in_the_last_column_is_a_stop() -> None:
    env = TokenEnv(Toy())
    env.reset()
    env.step(A)
    env.step(B)
    *_, info = env.step(EOS)
    assert info["finish_reason"] == "stop" and info["reward_terms"] == {"task": 1.5}


def test_a_turn_is_answered_and_paid_where_it_ends(echo: Echo) -> None:
    env = TokenEnv(echo)
    env.reset(seed=0, options={"index": 0})
    _, reward, *_, info = env.step(HELLO)
    assert reward == 0.0 and info["reward_terms"] == {"task": 0.0}
    observation, reward, terminated, _, info = env.step(END)
    assert (reward, terminated, info["reward_terms"]) == (-1.0, False, {"task": -1.0})
    generated = observation[4:]
    written = generated[generated != echo.tokenizer.pad_id].tolist()
    assert written in ([HELLO, END, YES], [HELLO, END, YES, HELLO])
    env.step(BYE)
    observation, reward, terminated, _, info = env.step(END)
    assert (reward, terminated, info["finish_reason"]) == (0.0, True, "bye")
    roles = info["roles"]
    assert observation[roles == Role.ACTION].tolist() == [HELLO, END, BYE, END]
    assert (roles[:4] == [Role.PAD, Role.PAD, Role.PROMPT, Role.PROMPT]).all()
    assert info["text"] == env.tokenizer.decode(observation[4:].tolist())


def test_a_turn_can_end_by_its_length() -> None:
    env = TokenEnv(Echo(max_turn_tokens=1))
    env.reset(seed=0)
    _, reward, terminated, _, _ = env.step(HELLO)
    assert reward == -1.0 and not terminated
    *_, info = env.step(BYE)
    assert info["finish_reason"] == "bye"


def test_a_reply_that_does_not_fit_ends_the_episode() -> None:
    env = TokenEnv(Echo(max_tokens=3))
    env.reset(seed=0)
    env.step(HELLO)
    observation, reward, terminated, _, info = env.step(END)
    assert observation[-1] == YES  # the first reply token fits, a second one is cut off
    assert terminated and reward == -1.0 and info["finish_reason"] == "length"


def test_reward_model_and_turn_rewards_share_the_ledger(echo: Echo) -> None:
    env = TokenEnv(echo, reward="length")
    env.reset(seed=0)
    env.step(BYE)
    _, reward, *_, info = env.step(END)
    assert info["reward_terms"] == {"task": 0.0, "reward_model": 1.0} and reward == 1.0


@pytest.mark.parametrize("prefix", [[A], np.array([A, PAD, PAD]), "a"])
def test_a_prefix_is_written_and_marked(prefix: object) -> None:
    env = TokenEnv(Toy())
    observation, _ = env.reset(options={"prefix": prefix})
    assert observation.tolist() == [BOS, A, PAD, PAD]
    env.step(B)
    *_, info = env.step(EOS)
    assert info["roles"].tolist() == [Role.PROMPT, Role.PREFIX, Role.ACTION, Role.ACTION]
    assert info["reward_terms"] == {"task": 1.5}  # the prefix counts as part of the text
    env.reset()
    *_, info = env.step(EOS)
    assert info["roles"].tolist() == [Role.PROMPT, Role.ACTION, Role.PAD, Role.PAD]


def test_prefixes_of_rows_may_differ() -> None:
    env = TokenVectorEnv(Toy(), num_envs=3)
    observations, _ = env.reset(options={"prefix": [[], [A], [A, B]]})
    assert observations[:, 1:].tolist() == [[PAD, PAD, PAD], [A, PAD, PAD], [A, B, PAD]]


def test_a_prefix_over_several_turns_gets_its_replies(echo: Echo) -> None:
    env = TokenEnv(echo)
    observation, _ = env.reset(seed=1, options={"prefix": [HELLO, END, SAY], "index": 1})
    assert observation[:7].tolist()[2:] == [SAY, BYE, HELLO, END, YES]
    assert SAY in observation[7:9].tolist() and env.engine.memory["turns"][0] == 1


def test_groups_share_one_start(echo: Echo) -> None:
    env = TokenVectorEnv(echo, num_envs=8)
    for seed in range(5):
        _, infos = env.reset(seed=seed, options={"group_size": 4})
        assert np.ptp(infos["example_index"].reshape(2, 4), axis=1).tolist() == [0, 0]


def test_one_saved_state_continues_in_every_row(echo: Echo) -> None:
    single = TokenEnv(echo)
    single.reset(seed=0)
    single.step(HELLO)
    observation = single.step(END)[0]
    many = TokenVectorEnv(echo, num_envs=6)
    observations, _ = many.reset(seed=9, options={"state": single.get_state()})
    assert (observations == observation).all() and (many.engine.memory["turns"] == 1).all()
    many.step(np.full(6, HELLO))
    rows = many.step(np.full(6, END))[0]
    assert len(np.unique(rows, axis=0)) == 2  # replies differ: the rows' generators are their own


def test_next_step_ignores_the_action_after_an_end() -> None:
    env = TokenVectorEnv(Toy(), num_envs=2)
    env.reset(seed=0)
    env.step(np.array([EOS, A]))
    observations, rewards, terminated, _, infos = env.step(np.array([B, EOS]))
    assert observations.tolist() == [[BOS, PAD, PAD, PAD], [BOS, A, EOS, PAD]]
    assert rewards.tolist() == [0.0, 0.5] and terminated.tolist() == [False, True]
    assert infos["_example_index"].tolist() == [True, True]


def test_same_step_keeps_the_last_observation_and_info() -> None:
    env = TokenVectorEnv(Toy(), num_envs=2, autoreset_mode="SAME_STEP")
    env.reset(seed=0)
    observations, rewards, terminated, _, infos = env.step(np.array([EOS, A]))
    assert observations.tolist() == [[BOS, PAD, PAD, PAD], [BOS, A, PAD, PAD]]
    assert infos["final_obs"][0].tolist() == [BOS, EOS, PAD, PAD] and infos["final_obs"][1] is None
    assert infos["_final_info"].tolist() == [True, False]
    assert infos["final_info"]["finish_reason"][0] == "stop"
    assert rewards.tolist() == [0.5, 0.0] and terminated.tolist() == [True, False]


def test_disabled_waits_for_a_reset_mask() -> None:
    env = TokenVectorEnv(Toy(), num_envs=2, autoreset_mode="DISABLED")
    env.reset(seed=0)
    env.step(np.array([EOS, A]))
    with pytest.raises(RuntimeError, match="row 0 has finished"):
        env.step(np.array([A, A]))
    mask = np.array([True, False])
    observations, infos = env.reset(options={"reset_mask": mask, "index": 0})
    assert observations.tolist() == [[BOS, PAD, PAD, PAD], [BOS, A, PAD, PAD]]
    assert infos["_example_index"].tolist() == [True, False]
    env.step(np.array([A, A]))


def test_sync_vector_env_and_native_batch_agree() -> None:
    native = gym.make_vec("text_envs/Toy-v0", num_envs=4)
    looped = gym.make_vec("text_envs/Toy-v0", num_envs=4, vectorization_mode="sync")
    assert np.array_equal(native.reset(seed=0)[0], looped.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.integers(3, size=4)
        one, other = native.step(actions), looped.step(actions)
        for a, b in zip(one[:4], other[:4], strict=True):
            assert np.array_equal(a, b)
        assert set(other[4]) <= set(one[4])


def test_an_outer_limit_truncates_unpaid() -> None:
    env = gym.make_vec("text_envs/Toy-v0", num_envs=2, max_episode_steps=2)
    env.reset(seed=0)
    env.step(np.array([A, A]))
    _, rewards, terminated, truncated, infos = env.step(np.array([B, EOS]))
    assert rewards.tolist() == [0.0, 0.5]
    # Row 1 ends with the step that reaches the limit: both, as Gymnasium's TimeLimit says.
    assert terminated.tolist() == [False, True] and truncated.tolist() == [True, True]
    assert infos["finish_reason"].tolist() == ["truncated", "stop"]
    single = gym.make("text_envs/Toy-v0", max_episode_steps=2)
    single.reset()
    single.step(A)
    assert single.step(B)[1:4] == (0.0, False, True)


def test_rendering() -> None:
    env = gym.make("text_envs/Toy-v0", render_mode="ansi")
    env.reset()
    env.step(A)
    assert "a" in env.render() and "<end>" not in env.render()
    vector = gym.make_vec("text_envs/Toy-v0", num_envs=2, render_mode="ansi")
    vector.reset()
    assert len(vector.render()) == 2


def test_images_for_videos() -> None:
    env = gym.make("text_envs/Toy-v0", render_mode="rgb_array")
    env.reset()
    blank = env.render()
    env.step(A)
    assert blank.shape == (360, 640, 3) and blank.dtype == np.uint8
    assert (env.render() != blank).any()


def test_human_rendering_prints(capsys: pytest.CaptureFixture[str]) -> None:
    env = gym.make("text_envs/Toy-v0", render_mode="human")
    env.reset()
    env.step(A)
    assert capsys.readouterr().out.count("\n") == 2
