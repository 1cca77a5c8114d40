"""Part `env`: token-steps a second of the environments, without a model.

Every contender writes the same random words into `Reviews-v0`, with the sentiment reward, episode
ends and restarts included; a step that only restarts a row writes no token and is not counted.
Compared are the Gymnasium and the Stable-Baselines3 face of the native batch with

- the bare loop: numpy statements for tokens, rewards, ends and restarts and nothing else, that is
  no interface, no checks, no infos, one generator for all rows (`BareLoop`);
- the bare loop with infos: the same, and for the rows that end what Gymnasium's infos say of them
  (text, roles, finish reason, example), as arrays over all rows, which makes it write all that
  the environment writes;
- `SyncVectorEnv`: Gymnasium's loop over single environments, all on one task object.

Two kinds of actions: "2% ends", words with an end of text at 2% of the steps, so that rows end at
different times; and "uniform", every action equally likely, so that nearly all rows end together
at the length limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import text_envs
from benchmarks.measure import Contender, Row, compare, interleave
from text_envs import Task
from text_envs.episodes.types import Role
from text_envs.rewards.sentiment import Sentiment
from text_envs.tasks.reviews import Reviews

__all__ = ["BareLoop", "measure", "random_actions"]

ENV_ID = "text_envs/Reviews-v0"
UNIT = "tokens/s"
FACES = {"gymnasium": "Gymnasium face", "sb3": "SB3 face"}
BARE = {"bare numpy loop": False, "bare loop with infos": True}


class BareLoop:
    """What any environment of this kind must do at the least, with nothing around it.

    Args:
        task: prompts and sizes.
        num_envs: rows.
        seed: of the prompts' order.
        with_infos: also describe the rows that end.
    """

    def __init__(self, task: Task, num_envs: int, seed: int, with_infos: bool = False) -> None:
        sentiment = Sentiment()
        assert sentiment.clip == 1, "score() counts a word once"
        self.weights, self.bias = sentiment.weights, sentiment.bias
        self.prompts = task.prompts(np.arange(len(task)))
        self.start, self.stop = task.prompt_length, task.prompt_length + task.max_tokens
        self.pad, self.eos = task.tokenizer.pad_id, task.tokenizer.eos_id
        self.decode = task.tokenizer.decode
        self.roles = np.full(self.stop, Role.ACTION, dtype=np.int8)
        self.roles[: self.start] = Role.PROMPT
        self.with_infos = with_infos
        self.rng = np.random.default_rng(seed)
        self.tokens = np.full((num_envs, self.stop), self.pad, dtype=np.int64)
        self.index = self.rng.integers(len(task), size=num_envs)
        self.tokens[:, : self.start] = self.prompts[self.index]
        self.flat, self.offset = self.tokens.reshape(-1), np.arange(num_envs) * self.stop
        self.position = np.full(num_envs, self.start)

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, NDArray[np.bool_], Any]:
        """Return observations `(N, L)`, rewards `(N,)`, ends `(N,)` and infos."""
        self.flat[self.offset + self.position] = actions
        self.position += 1
        done = (actions == self.eos) | (self.position == self.stop)
        rewards, infos = np.zeros(len(actions)), {}
        if done.any():
            ended = np.flatnonzero(done)
            rewards[ended] = self.score(self.tokens[ended, self.start :])
            if self.with_infos:
                infos = self.describe(ended, actions)
            self.index[ended] = index = self.rng.integers(len(self.prompts), size=len(ended))
            self.tokens[ended, : self.start] = self.prompts[index]
            self.tokens[ended, self.start :] = self.pad
            self.position[ended] = self.start
        return self.tokens.copy(), rewards, done, infos

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the bag-of-words reward `(B,)` of the words `(B, T)`."""
        ordered = np.sort(tokens, axis=1)
        weights = self.weights[ordered]
        weights[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = 0.0
        scores: NDArray[np.float64] = 1 / (1 + np.exp(-(weights.sum(axis=1) + self.bias)))
        return scores

    def describe(self, ended: NDArray[np.int64], actions: NDArray[np.int64]) -> dict[str, Any]:
        """Return what infos say of the rows `ended`, as arrays over all rows."""
        n, tokens = len(actions), self.tokens[ended]
        text, reason = np.empty(n, dtype=object), np.empty(n, dtype=object)
        text[ended] = [self.decode(row) for row in tokens[:, self.start :].tolist()]
        reason[ended] = ["stop" if a == self.eos else "length" for a in actions[ended].tolist()]
        roles, index = np.zeros((n, self.stop), dtype=np.int8), np.zeros(n, dtype=np.int64)
        roles[ended] = (tokens != self.pad) * self.roles
        index[ended] = self.index[ended]
        return {"text": text, "finish_reason": reason, "roles": roles, "example_index": index}


def random_actions(kind: str, steps: int, num_envs: int, seed: int) -> NDArray[np.int64]:
    """Return actions `(steps, N)` of a kind that the module describes."""
    rng = np.random.default_rng(seed)
    eos = Sentiment().tokenizer.eos_id
    if kind == "uniform":
        return rng.integers(eos + 1, size=(steps, num_envs))
    words = rng.integers(eos, size=(steps, num_envs))
    return np.where(rng.random(words.shape) < 0.02, eos, words)


class _Batch:
    """A stretch of steps of a batch; the next stretch goes on where it stopped."""

    def __init__(
        self, step: Callable[[Any], Any], actions: NDArray[np.int64], next_step: bool
    ) -> None:
        self.step, self.actions, self.next_step = step, list(actions), next_step
        self.restarting = 0

    def __call__(self) -> float:
        """Return tokens a second."""
        ends, step = [], self.step
        begin = time.perf_counter()
        for actions in self.actions:
            ends.append(step(actions)[2])
        seconds = time.perf_counter() - begin
        tokens = len(self.actions) * len(self.actions[0])
        if self.next_step:  # a row that has ended spends its next step on the restart
            counts = [self.restarting, *(int(np.count_nonzero(end)) for end in ends)]
            tokens -= sum(counts[:-1])
            self.restarting = counts[-1]
        return tokens / seconds


def _single(actions: list[int], seed: int) -> Contender:
    env = gym.make(ENV_ID)
    env.reset(seed=seed)

    def run() -> float:
        begin = time.perf_counter()
        for action in actions:
            if env.step(action)[2]:
                env.reset()
        return len(actions) / (time.perf_counter() - begin)

    return run


def _contenders(
    num_envs: int, actions: NDArray[np.int64], seed: int, with_sync: bool
) -> dict[str, Contender]:
    task = Reviews()
    native = gym.make_vec(ENV_ID, num_envs, "vector_entry_point", task=task)
    native.reset(seed=seed)
    sb3 = text_envs.make_sb3(ENV_ID, num_envs, seed=seed, task=task)
    sb3.reset()
    contenders: dict[str, Contender] = {
        FACES["gymnasium"]: _Batch(native.step, actions, next_step=True),
        FACES["sb3"]: _Batch(sb3.step, actions, next_step=False),
    }
    for name, with_infos in BARE.items():
        loop = BareLoop(task, num_envs, seed, with_infos)
        contenders[name] = _Batch(loop.step, actions, next_step=False)
    if num_envs == 1:
        contenders["gymnasium.make"] = _single(actions[:, 0].tolist(), seed)
    if with_sync:
        sync = gym.make_vec(ENV_ID, num_envs, "sync", task=task)
        sync.reset(seed=seed)
        contenders["SyncVectorEnv"] = _Batch(sync.step, actions, next_step=True)
    return contenders


def measure(quick: bool, seed: int) -> list[Row]:
    """Return the rows of this part."""
    rounds, tokens = (3, 64) if quick else (31, 16_384)
    rows = []
    for num_envs in (1, 16) if quick else (1, 16, 256, 4096):
        for kind in ("2% ends", "uniform"):
            # Long enough for several episodes in every row, short enough to take turns often.
            steps = min(max(tokens // num_envs, 48), 2048)
            actions = random_actions(kind, steps, num_envs, seed)
            contenders = _contenders(num_envs, actions, seed, with_sync=num_envs <= 256)
            speeds = interleave(contenders, rounds)
            for row in _rows(speeds, f"{num_envs} envs, {kind}", num_envs):
                print(row, flush=True)
                rows.append(row)
    return rows


def _rows(speeds: dict[str, list[float]], case: str, num_envs: int) -> list[Row]:
    wanted = {"bare loop with infos": 0.5, "SyncVectorEnv": 5.0} if num_envs == 256 else {}
    pairs = [
        (ours, against)
        for against in (*BARE, "SyncVectorEnv")
        for ours in (*FACES.values(), "gymnasium.make")
        if ours in speeds and against in speeds
    ]
    return [
        compare(speeds, a, b, part="env", case=case, unit=UNIT, target=wanted.get(b))
        for a, b in pairs
    ]
