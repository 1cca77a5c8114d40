"""Hindsight on arrays and the losses: hand numbers, properties, messages."""

from __future__ import annotations

import doctest
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Echo
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.data import relabelling as hindsight
from agents.data.history import History
from agents.data.relabelling import (
    UNFINISHED,
    SuffixMatch,
    draw_parts,
    levels_of,
    reached,
    relabel,
)
from agents.losses.hindsight import (
    contrastive_loss,
    entropy_loss,
    mean_log_probs,
    supervised_loss,
)
from text_envs import EpisodeBatch, Example, Task
from text_envs.envs.goal import Goal, compute_reward
from text_envs.lm.likelihood import entropy
from text_envs.tasks.reasoning.sorting import WordSorting
from text_envs.tokenizers import WordTokenizer


def test_doctests() -> None:
    assert doctest.testmod(hindsight).failed == 0


# -- relabelling -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1))
def test_every_relabelled_sample_has_reward_1(pairs: list[tuple[int, int]]) -> None:
    achieved, desired = np.array(pairs).T
    goals = relabel(achieved, desired)
    assert compute_reward(achieved, goals).all()
    # p stays where R = 1, else it is the opposite.
    r = compute_reward(achieved, desired) == 1
    assert np.array_equal(goals, np.where(r, desired, 1 - desired))
    assert np.array_equal(reached(achieved, desired), r)
    assert np.array_equal(relabel(achieved, goals), goals)  # nothing is left to relabel


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.data())
def test_ranked_goals_generalise_the_two(count: int, data: Any) -> None:
    goals = st.lists(st.integers(0, count - 1), min_size=4, max_size=4)
    achieved, desired = np.array(data.draw(goals)), np.array(data.draw(goals))
    assert np.array_equal(relabel(achieved, desired, count), achieved)


def test_unfinished_texts_have_no_right_instruction() -> None:
    achieved = np.array([UNFINISHED, 1])
    assert relabel(achieved, np.array([1, 1])).tolist() == [UNFINISHED, 1]
    assert reached(achieved, np.array([UNFINISHED, 1])).tolist() == [False, True]


@pytest.mark.parametrize(
    ("achieved", "desired", "message"),
    [
        ([0, 2], [1, 1], "achieved goal 2 of text 1 is none of the 2 goals; accepted: 0..1"),
        ([0, 1], [1, -1], "desired goal -1 of text 1"),
        ([0, 1], [[1], [1]], r"shape \(2,\) and desired goals of shape \(2, 1\)"),
    ],
)
def test_goals_outside_the_set(achieved: Any, desired: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        relabel(np.array(achieved), np.array(desired))
    assert int(Goal.UNFINISHED) == 2  # and so it is not accepted as a goal of two


@pytest.mark.parametrize("levels", [[], [0.5, 0.5], [1.0, 0.0], [np.nan], [[0.5]]])
def test_bad_levels(levels: Any) -> None:
    with pytest.raises(ValueError, match="ascending finite numbers"):
        levels_of(np.zeros(2), levels)


def test_a_reward_that_is_no_number_is_no_success() -> None:
    with pytest.raises(ValueError, match="reward 1 is nan, which reaches no goal"):
        levels_of(np.array([1.0, np.nan]), [0.5])
    assert levels_of(np.array([-np.inf, np.inf]), [0.5]).tolist() == [0, 1]


# -- parts -------------------------------------------------------------------------------------


def test_parts_begin_uniformly_behind_the_first_action() -> None:
    lengths = np.array([1, 4, 2, 0])
    rows, first = draw_parts(lengths, 3000, np.random.default_rng(0))
    assert np.unique(rows).tolist() == [1, 2]  # a text of one action has no part
    counts = np.bincount(first[rows == 1], minlength=5)
    assert counts[[0, 4]].sum() == 0 and (np.abs(counts[1:4] - 1000) < 120).all()
    assert (first[rows == 2] == 1).all()
    empty = draw_parts(np.array([1, 1]), 2, np.random)
    assert [len(x) for x in empty] == [0, 0]


class Lists(Task):
    """Answers of several words, one of them in two orders."""

    def __init__(self) -> None:
        super().__init__(
            [Example("q", ("a b c",)), Example("q", ("a", "c b"))],
            tokenizer=WordTokenizer(["a", "b", "c", "q"]), prompt_length=2, max_tokens=4,
        )  # fmt: skip


def episodes(task: Task, texts: list[list[int]], examples: list[int]) -> EpisodeBatch:
    pad, count = task.tokenizer.pad_id, len(texts)
    tokens = np.full((count, task.prompt_length + task.max_tokens), pad)
    roles = np.zeros(tokens.shape, dtype=np.int8)
    for row, ids in enumerate(texts):
        tokens[row, task.prompt_length : task.prompt_length + len(ids)] = ids
    return EpisodeBatch(
        tokens, roles, prompt_length=task.prompt_length, tokenizer=task.tokenizer,
        example_indices=np.array(examples), finish_reasons=["stop"] * count,
        get_example=task.example,
    )  # fmt: skip


def test_suffix_match() -> None:
    task, end = Lists(), 4
    texts = [[0, 1, 2, end], [1, 1, 2, end], [0, 1, 1, end], [2, 1, end], [0, end], [0, 1, end]]
    batch = episodes(task, texts, [0, 0, 0, 1, 1, 1])
    judge = SuffixMatch(task)
    assert judge(batch, np.zeros(6, int)).tolist() == [1, 0, 0, 1, 1, 0]  # exact match
    assert judge(batch, np.ones(6, int)).tolist() == [1, 1, 0, 1, 1, 1]
    assert judge(batch, np.full(6, 3)).tolist()[:3] == [1, 1, 1]  # all of them end there


def test_suffix_match_agrees_with_the_checker_on_whole_answers() -> None:
    task = WordSorting(max_words=4, vocabulary=8, num_examples=60)
    rng = np.random.default_rng(0)
    texts = []
    for index in range(60):
        ids = task.tokenizer.encode(task.example(index).references[0])
        texts.append(
            [*(ids if index % 2 else rng.permutation(ids).tolist()), task.tokenizer.eos_id]
        )
    batch = episodes(task, texts, list(range(60)))
    batch.roles[batch.tokens != task.tokenizer.pad_id] = 3
    found = SuffixMatch(task)(batch, np.zeros(60, int))
    assert np.array_equal(found, task.reward(batch)) and 0.5 < found.mean() < 1


def test_suffix_match_needs_references() -> None:
    task = Task([Example("a")], tokenizer=WordTokenizer(["a"]), prompt_length=2, max_tokens=1)
    with pytest.raises(ValueError, match="example 0 has no references"):
        SuffixMatch(task)
    with pytest.raises(ValueError, match="Echo has turns.*pass part_judge="):
        SuffixMatch(Echo())


def test_a_reference_that_does_not_fit_is_not_met_by_its_beginning() -> None:
    """Three columns: of four words the first three are no answer, three without an end are one."""
    task = Task(
        [Example("q", ("a b c d",)), Example("q", ("a b c",))],
        tokenizer=WordTokenizer(["a", "b", "c", "d", "q"]), prompt_length=2, max_tokens=3,
    )  # fmt: skip
    batch = episodes(task, [[0, 1, 2], [0, 1, 2]], [0, 1])
    for start in (0, 2):
        assert SuffixMatch(task)(batch, np.full(2, start)).tolist() == [0, 1]


# -- losses ------------------------------------------------------------------------------------


def test_two_way_contrast_by_hand() -> None:
    """p+ = 1/2, p- = 1/4: c = 2/3; with smoothing .2: -.8 log 2/3 - .2 log 1/3."""
    scores = torch.tensor([[0.5, 0.25]]).log()
    right = torch.tensor([0])
    assert contrastive_loss(scores, right).item() == pytest.approx(-math.log(2 / 3))
    smoothed = -0.8 * math.log(2 / 3) - 0.2 * math.log(1 / 3)
    assert contrastive_loss(scores, right, 0.2).item() == pytest.approx(smoothed)
    assert contrastive_loss(scores.flip(1), right + 1, 0.2).item() == pytest.approx(smoothed)


def test_smoothing_stops_pushing_at_a_margin() -> None:
    """With s = .2 the loss is least at p+ / p- = .8 / .2, so certainty has a price."""
    margin = torch.linspace(-2, 6, 801)
    losses = [
        contrastive_loss(torch.tensor([[float(m), 0.0]]), torch.tensor([0]), 0.2) for m in margin
    ]
    assert margin[int(torch.stack(losses).argmin())].item() == pytest.approx(math.log(4), abs=0.01)


def test_in_batch_contrast_by_hand() -> None:
    """-sum_i log exp P_ii / sum_k exp P_ik, averaged."""
    p = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, -0.1, -1.0], [-4.0, -1.0, -2.0]])
    wanted = -np.mean([math.log(math.exp(p[i, i]) / p[i].exp().sum()) for i in range(3)])
    assert contrastive_loss(p, torch.arange(3)).item() == pytest.approx(wanted)


def test_in_batch_contrast_counts_an_equal_answer_as_wrong() -> None:
    """Why the opposite instruction is the default: two questions with the same right answer."""
    scores = torch.tensor([[-0.1, -0.1], [-0.1, -0.1]], requires_grad=True)
    contrastive_loss(scores, torch.arange(2)).backward()
    assert (scores.grad[~torch.eye(2).bool()] > 0).all()  # type: ignore[index]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5), st.floats(0, 0.9))
def test_contrast_is_cross_entropy(seed: int, count: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(6, count, generator=generator, dtype=torch.double)
    right = torch.randint(count, (6,), generator=generator)
    target = torch.full((6, count), smoothing / (count - 1), dtype=torch.double)
    target[torch.arange(6), right] = 1 - smoothing
    wanted = torch.nn.functional.cross_entropy(scores, target)
    torch.testing.assert_close(contrastive_loss(scores, right, smoothing), wanted)


def test_entropy_loss_raises_the_entropy() -> None:
    """L_ent = sum P log P: the sign that lets diversity survive."""
    logits = torch.tensor([[[2.0, 0.0, -1.0], [9.0, 9.0, 9.0]]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    p = logits.detach()[0, 0].softmax(dim=0)
    loss = entropy_loss(entropy(logits), mask)
    assert loss.item() == pytest.approx(float((p * p.log()).sum()))
    loss.backward()
    with torch.no_grad():
        after = entropy(logits - 0.1 * logits.grad)  # type: ignore[operator]
    assert after[0, 0] > entropy(logits)[0, 0]
    assert not logits.grad[0, 1].any()  # type: ignore[index]


def test_mean_log_probs_and_masks() -> None:
    log_probs = torch.tensor([[-1.0, -3.0, -99.0], [-2.0, math.nan, -4.0]])
    mask = torch.tensor([[True, True, False], [False, False, True]])
    assert mean_log_probs(log_probs, mask).tolist() == [-2.0, -4.0]
    assert supervised_loss(torch.tensor([-2.0, -4.0])).item() == 3.0
    assert mean_log_probs(log_probs[:0], mask[:0]).shape == (0,)
    for wrong in (mask.float(), mask[:, :2]):
        with pytest.raises(ValueError, match="boolean mask of one shape"):
            mean_log_probs(log_probs, wrong)
    with pytest.raises(ValueError, match="K at least 2"):
        contrastive_loss(torch.zeros(3, 1), torch.zeros(3).long())


# -- history -----------------------------------------------------------------------------------


def test_history_grows_and_keeps_everything() -> None:
    rng = np.random.default_rng(0)
    history, kept = History(6, 4), []
    for count in (3, 0, 5, 1, 40):
        rows = [
            rng.integers(9, size=(count, 6)), rng.integers(1, 5, size=(count, 3)),
            np.zeros(count), rng.integers(1, 4, size=count), rng.integers(2, size=count),
            rng.integers(9, size=count),
        ]  # fmt: skip
        history.add(*rows)
        kept.append(rows)
    assert len(history) == 49 and repr(history.goals.dtype) == "dtype('int32')"
    for number, name in ((0, "tokens"), (3, "length"), (4, "goals"), (5, "examples")):
        whole = np.concatenate([rows[number] for rows in kept])
        assert np.array_equal(getattr(history, name), whole)
    other = History(6, 4)
    other.set_state(history.state())
    other.add(*kept[0])
    assert len(other) == 52 and np.array_equal(other.columns[:49], history.columns)
    with pytest.raises(AttributeError, match="no attribute 'rewards'"):
        history.rewards  # noqa: B018


def test_history_draws_uniformly_without_repetition() -> None:
    history = History(2, 1)
    count = np.zeros(20)
    history.add(count[:, None] + [1, 2], count[:, None], count, count + 1, count, np.arange(20))
    assert history.draw(20).tolist() == list(range(20)) == history.draw(99).tolist()
    np.random.seed(0)
    drawn = np.concatenate([history.draw(5) for _ in range(2000)])
    assert len(set(history.draw(5).tolist())) == 5
    assert np.abs(np.bincount(drawn, minlength=20) - 500).max() < 90


def test_history_batch_masks_what_comes_before_a_part() -> None:
    history = History(5, 3)
    history.add(
        np.array([[7, 1, 2, 3, 9], [7, 4, 5, 9, 9]]), np.array([[0, 1, 2], [0, 1, 0]]),
        np.array([1, 0]), np.array([3, 2]), np.array([0, 1]), np.array([0, 0]),
    )  # fmt: skip
    batch = history.batch(np.array([0, 1]))
    assert batch.mask.tolist() == [[False, True, True], [True, True, False]]
    assert batch.actions[0].tolist() == [1, 2, 3] and batch.actions[1, :2].tolist() == [4, 5]
    assert history.batch(np.array([1])).mask.tolist() == [[True, True]]
    assert len(history.batch(np.zeros(0, dtype=int))) == 0
