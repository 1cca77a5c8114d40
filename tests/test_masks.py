"""Masks of actions: right, readable by others, nobody's to write in, cheap at 50,000 actions."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from text_envs import Example, Task, make_sb3
from text_envs.envs.goal import GoalTokenVectorEnv
from text_envs.envs.single import TokenEnv
from text_envs.envs.vector import TokenVectorEnv
from text_envs.tasks.toy import Toy
from text_envs.tokenizers import WordTokenizer


class Barred(Task):
    """Many words, of which number 2 may not be written."""

    reward = "length"

    def __init__(self, words: int = 8) -> None:
        tokenizer = WordTokenizer([f"w{i}" for i in range(words)])
        tokenizer.forbidden = np.arange(tokenizer.num_actions) == 2
        super().__init__([Example("w0")], tokenizer=tokenizer, prompt_length=2, max_tokens=4)


ALLOWED = [1, 1, 0, 1, 1, 1, 1, 1, 1]


def step(env: Any) -> Any:
    actions = 0 if isinstance(env, TokenEnv) else np.zeros(env.num_envs, dtype=np.int64)
    return env.step(actions)[-1]["action_mask"]


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_masks_of_rows_are_one_row_that_nobody_writes_in(mode: str) -> None:
    env = TokenVectorEnv(Barred(), num_envs=3, action_mask=True, autoreset_mode=mode)
    first = env.reset(seed=0)[1]["action_mask"]
    for mask in (first, *(step(env) for _ in range(6))):  # over the ends of the texts
        assert mask.tolist() == [ALLOWED] * 3 and mask.dtype == np.int8
        assert mask.strides[0] == 0
        with pytest.raises(ValueError, match="read-only"):
            mask[0, 1] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            mask.flags.writeable = True
        mine = mask.copy()
        mine[0] = 0
    assert first.tolist() == [ALLOWED] * 3


def test_masks_of_the_single_environment_belong_to_the_reader() -> None:
    """Gymnasium's checker refuses infos that share an array; agents write into theirs."""
    env = TokenEnv(Barred(), action_mask=True)
    first = env.reset(seed=0)[1]["action_mask"]
    second = step(env)
    assert not np.shares_memory(first, second)
    first[:] = 0
    env.action_masks()[:] = False
    assert second.tolist() == step(env).tolist() == ALLOWED
    assert env.action_masks().tolist() == [bool(a) for a in ALLOWED]


def test_others_read_masks() -> None:
    """Gymnasium's spaces draw with them, sb3-contrib stacks them, torch reads them."""
    import torch

    env = TokenVectorEnv(Barred(), num_envs=4, action_mask=True)
    mask = env.reset(seed=0)[1]["action_mask"]
    env.single_action_space.seed(0)
    drawn = [env.single_action_space.sample(mask=mask[i % 4]) for i in range(80)]
    assert set(drawn) == {0, 1, 3, 4, 5, 6, 7, 8}
    env.action_space.seed(0)
    assert 2 not in env.action_space.sample(mask=tuple(mask))
    venv = make_sb3("text_envs/Toy-v0", num_envs=3)
    stacked = np.stack(venv.env_method("action_masks"))  # what MaskablePPO asks a VecEnv for
    assert stacked.shape == (3, 3) and stacked.dtype == bool
    stacked[:] = False
    assert torch.as_tensor(np.stack(venv.env_method("action_masks")), dtype=torch.bool).all()
    masks = env.action_masks()
    assert masks.tolist() == [[bool(a) for a in ALLOWED]] * 4


def test_goal_environments_hand_the_same_masks_on() -> None:
    env = GoalTokenVectorEnv(Toy(), num_envs=2, action_mask=True)
    mask = env.reset(seed=0)[1]["action_mask"]
    assert mask.tolist() == [[1, 1, 1]] * 2 and mask.strides[0] == 0
    assert step(env).tolist() == env.action_masks().astype(int).tolist() == mask.tolist()


def test_a_step_makes_no_mask_a_row() -> None:
    env = TokenVectorEnv(Barred(20_000), num_envs=64, action_mask=True)
    env.reset(seed=0)
    step(env)
    tracemalloc.start()
    try:
        step(env)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000  # not even one row of it, let alone 64
