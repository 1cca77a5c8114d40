"""What holds for any sequence of actions, resets and prefixes."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import Echo
from hypothesis import given, settings
from hypothesis import strategies as st

from text_envs import Role, TokenEnv, TokenVectorEnv
from text_envs.tasks.toy import Toy

TASKS = {"toy": Toy(max_tokens=5), "echo": Echo(max_tokens=9), "short": Echo(7, max_turn_tokens=2)}
actions = st.lists(st.integers(0, 4), min_size=1, max_size=60)
tasks = st.sampled_from(sorted(TASKS))


def rewarded(episodes: Any) -> Any:
    return episodes.lengths.astype(float)


@settings(max_examples=60, deadline=None)
@given(name=tasks, tokens=actions, seed=st.integers(0, 100))
def test_quick_and_general_step_agree(name: str, tokens: list[int], seed: int) -> None:
    """The single environment's short cut for plain tokens changes nothing but the time."""
    task = TASKS[name]
    quick, general = (TokenEnv(task, reward=rewarded) for _ in range(2))
    general.engine.write_one = lambda action: False  # type: ignore[method-assign]
    quick.reset(seed=seed)
    general.reset(seed=seed)
    for token in (t % task.tokenizer.num_actions for t in tokens):
        one, other = quick.step(token), general.step(token)
        assert np.array_equal(one[0], other[0]) and one[1:4] == other[1:4]
        assert one[4].keys() == other[4].keys()
        if one[2]:
            assert np.array_equal(quick.reset()[0], general.reset()[0])


@settings(max_examples=60, deadline=None)
@given(name=tasks, tokens=actions, seed=st.integers(0, 100))
def test_observations_only_grow_within_an_episode(name: str, tokens: list[int], seed: int) -> None:
    """Prompt left-padded, everything later appended without a gap, nothing rewritten."""
    task = TASKS[name]
    env = TokenEnv(task, reward=rewarded)
    pad, start = task.tokenizer.pad_id, task.prompt_length
    before, _ = env.reset(seed=seed)
    for token in (t % task.tokenizer.num_actions for t in tokens):
        observation, _, terminated, truncated, info = env.step(token)
        assert env.observation_space.contains(observation) and not truncated
        written = observation[start:] != pad
        assert not np.any(np.diff(written.astype(int)) > 0)
        old = before != pad
        assert np.array_equal(observation[old], before[old])
        before = observation
        if terminated:
            assert set(np.unique(info["roles"])) <= set(map(int, Role))
            assert np.array_equal(info["roles"] == Role.PAD, observation == pad)
            before, _ = env.reset()


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 1), max_size=4),
    rest=actions,
    seed=st.integers(0, 100),
)
def test_a_prefix_leads_where_the_same_actions_lead(
    tokens: list[int], rest: list[int], seed: int
) -> None:
    task = TASKS["toy"]
    one, other = TokenEnv(task), TokenEnv(task)
    one.reset(seed=seed)
    for token in tokens:
        one.step(token)
    other.reset(seed=seed, options={"prefix": tokens})
    for token in (t % 3 for t in rest):
        a, b = one.step(token), other.step(token)
        assert np.array_equal(a[0], b[0]) and a[1:4] == b[1:4]
        if a[2]:
            break


@settings(max_examples=30, deadline=None)
@given(
    name=tasks,
    rows=st.integers(1, 5),
    seed=st.integers(0, 100),
    mode=st.sampled_from(["NEXT_STEP", "SAME_STEP"]),
    data=st.data(),
)
def test_restored_states_repeat(name: str, rows: int, seed: int, mode: str, data: Any) -> None:
    task = TASKS[name]
    env = TokenVectorEnv(task, num_envs=rows, reward=rewarded, autoreset_mode=mode)
    env.reset(seed=seed)
    width = task.tokenizer.num_actions
    draw = np.random.default_rng(data.draw(st.integers(0, 1000)))
    steps = draw.integers(width, size=(20, rows))
    cut = data.draw(st.integers(0, 19))
    for step in steps[:cut]:
        env.step(step)
    state = env.get_state()
    first = [env.step(step)[:4] for step in steps[cut:]]
    env.set_state(state)
    for step, expected in zip(steps[cut:], first, strict=True):
        for a, b in zip(env.step(step)[:4], expected, strict=True):
            assert np.array_equal(a, b)
