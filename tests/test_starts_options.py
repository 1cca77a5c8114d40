"""Options of `reset` through every face: groups that stay groups, states, examples, prefixes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Echo

import text_envs
from text_envs import Example, Task, TokenEnv, TokenVectorEnv
from text_envs.tokenizers import WordTokenizer

WORDS = [f"w{i}" for i in range(40)]
END = 40


class Many(Task):
    """Forty examples, up to four tokens, nothing to win."""

    reward = "constant"

    def __init__(self) -> None:
        super().__init__(
            [Example(word) for word in WORDS],
            tokenizer=WordTokenizer(WORDS),
            prompt_length=2,
            max_tokens=4,
        )


class ByExample:
    """A start plug-in that writes the word of the example after a drawn one."""

    def bind(self, task: Any) -> None: ...

    def prefixes(self, engine: Any, rows: Any) -> list[list[int]]:
        drawn = [seed % 40 for seed in engine.start_seeds(rows)]
        words = engine.example_index[rows].tolist()
        return [[a, b] for a, b in zip(drawn, words, strict=True)]


def play(env: Any, steps: int, seed: int) -> list[list[tuple[int, ...]]]:
    """Step with random ends; return the start observations of each row, in order."""
    rng = np.random.default_rng(seed)
    native = getattr(env, "env", env)
    starts: list[list[tuple[int, ...]]] = [[tuple(row)] for row in native.engine.tokens.tolist()]
    for _ in range(steps):
        before = native.engine.running.copy()
        actions = rng.choice([1, 2, END], size=native.num_envs)
        observations, _, ended = env.step(actions)[:3]
        begun = np.asarray(ended) if native.autoreset_mode.name == "SAME_STEP" else ~before
        for row in np.flatnonzero(begun).tolist():
            starts[row].append(tuple(observations[row].tolist()))
    return starts


@pytest.mark.parametrize("face", ["NEXT_STEP", "SAME_STEP", "sb3"])
@pytest.mark.parametrize("starts", [None, ByExample()])
def test_groups_share_every_start(face: str, starts: Any) -> None:
    """The k-th episodes of a group start alike, however long the others were."""
    options = {"group_size": 3}
    if face == "sb3":
        env: Any = text_envs.make_sb3(Many(), num_envs=6, seed=0, starts=starts)
        env.set_options(options)
        env.reset()
    else:
        env = TokenVectorEnv(Many(), num_envs=6, autoreset_mode=face, starts=starts)
        env.reset(seed=0, options=options)
    played = play(env, 260, seed=1)
    assert len({len(row) for row in played}) > 1  # the rows have got apart
    fewest = min(map(len, played))
    assert fewest > 70  # further than one block of draws ahead
    for group in (played[:3], played[3:]):
        for row in group:
            assert row[:fewest] == group[0][:fewest]
    assert played[0][:fewest] != played[3][:fewest]
    assert len(set(played[0])) > 30  # all examples come up


def test_the_next_reset_ends_groups_and_leaves_other_rows_alone() -> None:
    env = TokenVectorEnv(Many(), num_envs=4, autoreset_mode="SAME_STEP")
    env.reset(seed=0, options={"group_size": 2})
    env.reset(options={"reset_mask": np.array([False, False, True, True])})
    played = play(env, 60, seed=0)
    assert played[0][:9] == played[1][:9] and played[2][:9] != played[3][:9]
    env.reset(seed=0)
    plain = TokenVectorEnv(Many(), num_envs=4, autoreset_mode="SAME_STEP")
    plain.reset(seed=0)
    assert play(env, 40, seed=2) == play(plain, 40, seed=2)  # as if there had been none


def test_masked_rows_form_groups_among_themselves() -> None:
    env = TokenVectorEnv(Many(), num_envs=5, autoreset_mode="DISABLED")
    env.reset(seed=0)
    before = env.engine.example_index.copy()
    mask = np.array([True, False, True, True, True])
    _, infos = env.reset(options={"reset_mask": mask, "group_size": 2})
    index = infos["example_index"]
    assert index[0] == index[2] and index[3] == index[4] and index[1] == before[1]
    with pytest.raises(ValueError, match="divides the 4 rows being reset, got 3"):
        env.reset(options={"reset_mask": mask, "group_size": 3})


def test_groups_are_part_of_a_state() -> None:
    env = TokenVectorEnv(Many(), num_envs=4, autoreset_mode="SAME_STEP")
    env.reset(seed=7, options={"group_size": 4})
    play(env, 50, seed=0)
    state = env.get_state()
    first = play(env, 90, seed=3)
    other = TokenVectorEnv(Many(), num_envs=4, autoreset_mode="SAME_STEP")
    other.reset(seed=1)
    other.set_state(state)
    assert play(other, 90, seed=3) == first


def test_seeds_decide_about_groups() -> None:
    env = TokenVectorEnv(Many(), num_envs=8)
    draws = [
        env.reset(seed=seed, options={"group_size": 4})[1]["example_index"].tolist()
        for seed in (0, 0, 1, 2)
    ]
    assert draws[0] == draws[1] and len({tuple(draw) for draw in draws}) == 3


def test_a_group_of_one_is_no_group() -> None:
    one, other = TokenEnv(Many()), TokenEnv(Many())
    for seed in (0, None, None):
        first = one.reset(seed=seed, options={"group_size": 1})[0]
        assert np.array_equal(first, other.reset(seed=seed)[0])
    with pytest.raises(ValueError, match="divides the 1 rows being reset, got 2"):
        one.reset(options={"group_size": 2})


# -- Stable-Baselines3 ---------------------------------------------------------------------------


def test_one_mapping_speaks_of_all_rows() -> None:
    venv = text_envs.make_sb3(Many(), num_envs=4, seed=0)
    venv.set_options({"index": [3, 1, 4, 1], "prefix": [[], [5], [9, 2], [6]]})
    assert venv.reset()[:, 1:].tolist() == [
        [3, 41, 41, 41, 41],
        [1, 5, 41, 41, 41],
        [4, 9, 2, 41, 41],
        [1, 6, 41, 41, 41],
    ]
    state = venv.env.get_state()
    venv.step(np.array([7, 7, 7, END]))
    venv.set_options({"state": state})
    assert np.array_equal(venv.reset(), state["episode"]["tokens"])
    venv.set_options({"group_size": 3})
    with pytest.raises(ValueError, match="divides the 4 rows"):
        venv.reset()


def test_a_mapping_a_row_speaks_of_that_row() -> None:
    single = TokenEnv(Many())
    single.reset(seed=5, options={"index": 8})
    single.step(2)
    venv = text_envs.make_sb3(Many(), num_envs=5, seed=0)
    venv.set_options(
        [
            {"index": 7},
            {"prefix": [1, 2], "index": 0},
            {"state": single.get_state()},
            {"index": 9},
            {"prefix": "w3", "index": 1},
        ]
    )
    observations = venv.reset()
    assert observations[:, 1:4].tolist() == [
        [7, 41, 41],
        [0, 1, 2],
        [8, 2, 41],
        [9, 41, 41],
        [1, 3, 41],
    ]
    assert [info["example_index"] for info in venv.reset_infos] == [7, 0, 8, 9, 1]
    observations = venv.reset()  # options are for one reset
    assert (observations[:, 2:] == 41).all()


def test_rows_with_options_of_their_own_ask_a_start_plug_in_once() -> None:
    class Counting(ByExample):
        calls = 0

        def prefixes(self, engine: Any, rows: Any) -> list[list[int]]:
            self.calls += 1
            return super().prefixes(engine, rows)

    starts = Counting()
    venv = text_envs.make_sb3(Many(), num_envs=4, seed=0, starts=starts)
    venv.set_options([{"index": i} for i in (4, 3, 2, 1)])
    observations = venv.reset()
    assert starts.calls == 1 and observations[:, 1].tolist() == [4, 3, 2, 1]


def test_reset_infos_follow_automatic_resets() -> None:
    venv = text_envs.make_sb3(Many(), num_envs=3, seed=0)
    venv.reset()
    for _ in range(10):
        venv.step(np.array([END, 1, END]))
        now = [info["example_index"] for info in venv.reset_infos]
        assert now == venv.env.engine.example_index.tolist()


def test_goals_and_groups_go_together() -> None:
    venv = text_envs.make_sb3("text_envs/WordSortingGoal-v0", num_envs=4, seed=0)
    venv.set_options({"group_size": 2, "goal": "correct"})
    observations: Any = venv.reset()
    assert observations["desired_goal"].tolist() == [1, 1, 1, 1]
    index = [info["example_index"] for info in venv.reset_infos]
    assert index[0] == index[1] and index[2] == index[3]


# -- states --------------------------------------------------------------------------------------


def test_states_go_from_one_face_to_another() -> None:
    task = Echo()
    venv = text_envs.make_sb3(task, num_envs=3, seed=0)
    venv.reset()
    for token in (1, 4, 0):
        venv.step(np.full(3, token))
    state = venv.env.get_state()
    native = TokenVectorEnv(task, num_envs=3)
    observations, _ = native.reset(seed=4, options={"state": state})
    assert np.array_equal(observations, venv.env.engine.tokens)
    assert native.engine.memory["turns"].tolist() == [1, 1, 1]
    wide = TokenVectorEnv(task, num_envs=5)
    wide.reset(seed=0)
    mask = np.array([True, False, True, False, True])
    observations, _ = wide.reset(options={"state": state, "reset_mask": mask})
    assert np.array_equal(observations[mask], native.engine.tokens)
    with pytest.raises(ValueError, match="state has 3 rows; accepted: one for all, or 5"):
        wide.reset(options={"state": state})
