"""The contracts of a task and of a reward model as callable checks, for third parties too.

`text_envs.testing.envs.check_env_id` looks at a registered environment from outside; here a task is
looked at before it has an id, and a reward model before it has a task.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.datasets.demonstrations import demonstrate
from text_envs.envs.configure import build
from text_envs.envs.single import TokenEnv
from text_envs.envs.vector import TokenVectorEnv
from text_envs.episodes.errors import RewardModelError
from text_envs.episodes.types import EpisodeBatch, Replies, Role, Turns
from text_envs.rewards import RewardModel, resolve, score
from text_envs.tasks.shared.splits import SPLITS
from text_envs.tokens.protocol import Tokenizer

__all__ = ["HEADINGS", "check_reward_model", "check_task", "play_batch"]

HEADINGS = (
    "Description", "Action Space", "Observation Space", "Rewards", "Starting State",
    "Episode End", "Information", "Arguments", "Version History", "References",
)  # fmt: skip

_MOST_EXAMPLES = 2000  # of each split, when contexts are compared
_STEPS = 60
_CUT = 8  # texts that are ended early


def check_task(
    task: Any, *, card: bool = False, reward: Any = None, episodes: int = 32, **kwargs: Any
) -> None:
    """Run every check on a task.

    Args:
        task: a `Task`, a subclass or `"module:Class"`; of the latter two the splits are compared,
            where they take an argument `split`.
        card: also ask for the headings that the docstring of every environment of this suite has.
        reward: what to score with, where the task has no reward of its own.
        episodes: how many each quality plays.
        **kwargs: arguments of the task.

    Raises:
        AssertionError: a check failed; the message says which and how.
    """
    built, model = build(task, reward, None, kwargs)
    _check_limits(built)
    _check_prompts(built)
    if card:
        _check_card(built)
    _check_rows_are_independent(built, model)
    if built.multi_turn:
        _check_replies(built, model)
    _check_qualities(built, model, episodes)
    if isinstance(task, str) or inspect.isclass(task):
        _check_splits(type(built), kwargs)


def check_reward_model(
    reward: Any,
    *,
    task: Any = "text_envs.tasks.reviews:Reviews",
    episodes: int = 12,
    deterministic: bool = True,
) -> None:
    """Run every check on a reward model: finite, repeatable, blind to the rest of the batch.

    Args:
        reward: what `text_envs.rewards.resolve` accepts.
        task: whose episodes to score: random ones, scripted ones, and texts ended early.
        episodes: how many of each kind.
        deterministic: False for a model that draws random numbers; only shapes are checked then.

    Raises:
        AssertionError: a check failed; the message says which and how.
    """
    model = resolve(reward)
    built = build(task, "constant", None, {})[0]
    batch = play_batch(built, episodes)
    tokens, roles = batch.tokens.copy(), batch.roles.copy()
    whole = _score(model, batch)
    assert np.array_equal(tokens, batch.tokens) and np.array_equal(roles, batch.roles), (
        "the reward model changed the tokens or roles that it was given"
    )
    if not deterministic:
        return
    for name, again in _score(model, batch).items():
        assert np.array_equal(whole[name], again), f"{name!r}: a second call gave other rewards"
    order = np.random.default_rng(0).permutation(len(batch))
    for name, shuffled in _score(model, _take(batch, order)).items():
        assert np.allclose(whole[name][order], shuffled, rtol=1e-5, atol=1e-6), (
            f"{name!r}: the rewards depend on the order of the batch"
        )
    for row in range(0, len(batch), max(1, len(batch) // 8)):
        for name, alone in _score(model, _take(batch, np.array([row]))).items():
            assert np.allclose(whole[name][row], alone, rtol=1e-5, atol=1e-6), (
                f"{name!r}: {batch[row]!r} gets {alone[0]} alone and {whole[name][row]} in a batch"
            )
    for name, copied in _score(copy.deepcopy(model), batch).items():
        assert np.array_equal(whole[name], copied), f"{name!r}: a deep copy pays otherwise"


def play_batch(task: Task, episodes: int, seed: int = 0) -> EpisodeBatch:
    """Return `episodes` finished episodes of each quality that `task` can play.

    In a task without turns the first ones are cut, so that every length occurs, also none.
    """
    played = [
        demonstrate(task, episodes, quality=quality, seed=seed, reward="constant")
        for quality in task.qualities
    ]
    tokens = np.concatenate([one.tokens for one in played])
    roles = np.concatenate([one.roles for one in played])
    indices = np.concatenate([one.example_indices for one in played])
    reasons = [reason for one in played for reason in one.finish_reasons]
    if not task.multi_turn:
        pad, end = task.tokenizer.pad_id, task.tokenizer.eos_id
        cut = min(_CUT, len(tokens))
        for row in range(cut):
            stop = task.prompt_length + row * task.max_tokens // cut
            ended = int(np.count_nonzero(tokens[row, task.prompt_length : stop] == end)) > 0
            if not ended:
                tokens[row, stop:], roles[row, stop:] = pad, Role.PAD
                tokens[row, stop], roles[row, stop] = end, Role.ACTION
                reasons[row] = "stop"
    return EpisodeBatch(
        tokens,
        roles,
        prompt_length=task.prompt_length,
        tokenizer=task.tokenizer,
        example_indices=indices,
        finish_reasons=reasons,
        get_example=task.example,
    )


def _take(batch: EpisodeBatch, rows: NDArray[np.int64]) -> EpisodeBatch:
    numbers = batch.example_indices
    examples = {int(numbers[row]): batch.example(int(row)) for row in rows}
    return EpisodeBatch(
        batch.tokens[rows],
        batch.roles[rows],
        prompt_length=batch.prompt_length,
        tokenizer=batch.tokenizer,
        example_indices=numbers[rows],
        finish_reasons=[batch.finish_reasons[row] for row in rows.tolist()],
        get_example=examples.__getitem__,
    )


def _score(model: RewardModel, batch: EpisodeBatch) -> dict[str, NDArray[np.float64]]:
    try:
        return score(model, batch)
    except RewardModelError as error:
        raise AssertionError(str(error)) from error


def _check_limits(task: Task) -> None:
    for name in ("prompt_length", "max_tokens"):
        value = getattr(task, name, None)
        assert isinstance(value, int) and value >= 1, f"{name} is {value!r}, not an int >= 1"
    tokenizer = task.tokenizer
    assert isinstance(tokenizer, Tokenizer), f"tokenizer {tokenizer!r} lacks part of the protocol"
    assert tokenizer.pad_id != tokenizer.eos_id < tokenizer.num_actions <= tokenizer.vocab_size
    assert len(task) >= 1, "the task has no example"
    assert "random" in task.qualities, f"qualities {task.qualities} lack 'random'"


def _check_prompts(task: Task) -> None:
    indices = np.unique(np.linspace(0, len(task) - 1, 200).astype(np.int64))
    prompts = task.prompts(indices)
    assert prompts.shape == (len(indices), task.prompt_length), f"prompts: {prompts.shape}"
    assert prompts.dtype == np.int64, f"prompts are {prompts.dtype}, not int64"
    assert prompts.min() >= 0 and prompts.max() < task.tokenizer.vocab_size, (
        "prompt id out of range"
    )
    filled = prompts != task.tokenizer.pad_id
    assert filled[:, -1].all() and (np.diff(filled.astype(int), axis=1) >= 0).all(), (
        "prompts must be left-padded and not empty"
    )
    assert np.array_equal(prompts, task.prompts(indices)), "prompts change from call to call"
    for index in indices[:20].tolist():
        assert isinstance(task.example(index).prompt, str), f"example {index} has no prompt text"


def _check_card(task: Task) -> None:
    card = inspect.getdoc(type(task)) or ""
    found = tuple(line[3:].strip() for line in card.splitlines() if line.startswith("## "))
    assert found == HEADINGS, f"the card's headings are {found}, expected {HEADINGS}"


def _check_rows_are_independent(task: Task, model: RewardModel | None) -> None:
    """A row of a batch does what a single environment does, though all share one task object."""
    batch = TokenVectorEnv(task, num_envs=3, reward=model, autoreset_mode="SAME_STEP")
    singles = [TokenEnv(task, reward=model) for _ in range(3)]
    observations = batch.reset(seed=17)[0]
    for row, env in enumerate(singles):
        assert np.array_equal(observations[row], env.reset(seed=17 + row)[0])
    rng = np.random.default_rng(0)
    for _ in range(_STEPS):
        actions = _mostly_words(task, rng, 3)
        observations, rewards, ended, *_ = batch.step(actions)
        for row, env in enumerate(singles):
            observation, reward, over, *_ = env.step(actions[row])
            assert over == ended[row] and np.isclose(float(reward), rewards[row], atol=1e-6), (
                f"row {row} of a batch got {rewards[row]}, the same row alone {reward}; does the "
                "task keep state outside of memory?"
            )
            observation = env.reset()[0] if over else observation
            assert np.array_equal(observations[row], observation), f"row {row} went another way"


def _mostly_words(task: Task, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    words = rng.integers(task.tokenizer.num_actions, size=count)
    return np.where(rng.random(count) < 0.2, task.tokenizer.eos_id, words)


def _check_replies(task: Task, model: RewardModel | None) -> None:
    for name, array in task.memory(3).items():
        assert isinstance(array, np.ndarray) and len(array) == 3, (
            f"memory {name!r} must be an array whose first axis is the 3 rows asked for"
        )
    probe = copy.copy(task)

    def reply(turns: Turns) -> Replies:
        replies = task.reply(turns)
        rows = len(turns.rows)
        assert replies.tokens.ndim == 2 and len(replies.tokens) == rows, (
            f"reply tokens have shape {replies.tokens.shape} for {rows} rows"
        )
        assert np.asarray(replies.rewards).shape == np.asarray(replies.done).shape == (rows,)
        assert np.asarray(replies.done).dtype == bool and np.isfinite(replies.rewards).all()
        assert len(replies.finish_reasons) == rows, "one finish reason a row is needed"
        filled = replies.tokens != task.tokenizer.pad_id
        assert (np.diff(filled.astype(int), axis=1) <= 0).all(), "replies must be right-padded"
        assert ((replies.tokens >= 0) & (replies.tokens < task.tokenizer.vocab_size)).all()
        return replies

    setattr(probe, "reply", reply)  # noqa: B010 - an attribute of this object, not a method
    for quality in task.qualities:
        demonstrate(probe, 4, quality=quality, reward=model)


def _check_qualities(task: Task, model: RewardModel | None, episodes: int) -> None:
    means = {}
    for quality in task.qualities:
        played = demonstrate(task, episodes, quality=quality, seed=1, reward=model)
        again = demonstrate(task, episodes, quality=quality, seed=1, reward=model)
        assert np.array_equal(played.tokens, again.tokens), f"{quality!r}: a seed plays two games"
        assert np.isfinite(played.rewards).all() and all(played.finish_reasons)
        assert (played.roles[played.rewards != 0] == Role.ACTION).all()
        means[quality] = float(played.returns.mean())
    if "expert" in means:
        assert means["expert"] >= means["random"], f"the expert plays worse than chance: {means}"


def _check_splits(task: type[Task], kwargs: dict[str, Any]) -> None:
    """No context occurs in two splits.

    A context is `example.metadata["context"]` where the task names it, else the prompt.
    """
    parameters = inspect.signature(task).parameters
    if "split" not in parameters or kwargs.get("dataset") is not None:
        return
    seen: dict[str, str] = {}
    for split in SPLITS:
        for context in _contexts(task(**{**kwargs, "split": split})):
            former = seen.setdefault(context, split)
            assert former == split, f"context {context!r} is in {former!r} and in {split!r}"


def _contexts(task: Task) -> Sequence[str]:
    examples = (task.example(index) for index in range(min(len(task), _MOST_EXAMPLES)))
    return [str(example.metadata.get("context", example.prompt)) for example in examples]
