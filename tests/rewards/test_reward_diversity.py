"""Distinct n-grams within texts (rewards) and over texts (metrics), by hand and by brute force."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_batches import batch

from text_envs.rewards import resolve
from text_envs.rewards.diversity import Distinct, Repetition, distinct_shares
from text_envs.rewards.metrics import distinct_n, self_bleu
from text_envs.testing.envs import check_reward_model

SENTENCE = st.lists(st.sampled_from("a b c d".split()), max_size=9)


def grams(words: Any, n: int) -> list[tuple[Any, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


# -- rewards -----------------------------------------------------------------------------------


def test_shares_by_hand() -> None:
    episodes = batch(["good film good film", "good good good", "film", ""])
    # (good film) (film good) (good film): 2 of 3; (good good) twice: 1 of 2; none at all: 1.
    assert Distinct(2)(episodes) == pytest.approx([2 / 3, 1 / 2, 1, 1])
    assert Repetition(2)(episodes) == pytest.approx([-1 / 3, -1 / 2, 0, 0])
    assert Distinct(1)(episodes) == pytest.approx([1 / 2, 1 / 3, 1, 1])
    assert Distinct(9)(episodes).tolist() == [1, 1, 1, 1]


def test_words_or_tokens() -> None:
    episodes = batch(["good , film ,", "good ! ! !"])
    assert resolve("distinct", n=1)(episodes) == pytest.approx([3 / 4, 1 / 2])
    assert resolve("distinct", n=1, unit="words")(episodes) == pytest.approx([1, 1])


@settings(max_examples=60, deadline=None)
@given(st.lists(SENTENCE, min_size=1, max_size=6), st.integers(1, 4))
def test_shares_equal_counting_one_by_one(rows: list[list[str]], n: int) -> None:
    ids = np.zeros((len(rows), max(map(len, rows)) + 1), dtype=np.int64)
    for row, words in zip(ids, rows, strict=True):
        row[: len(words)] = [1 + "abcd".index(word) for word in words]
    expected = [
        len(set(grams(words, n))) / len(grams(words, n)) if grams(words, n) else 1.0
        for words in rows
    ]
    assert distinct_shares(ids, n, 0) == pytest.approx(expected)


def test_no_n_gram_reaches_over_a_gap() -> None:
    ids = np.array([[1, 2, 0, 1, 2, 0, 0]])
    assert distinct_shares(ids, 2, 0).tolist() == [0.5]  # (1 2) twice, no (2 1)
    assert distinct_shares(ids, 3, 0).tolist() == [1.0]


def test_long_n_grams_over_large_vocabularies_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 200_000, size=(2, 50))
    ids[1, 25:] = ids[1, :25]
    assert distinct_shares(ids, 8, 0) == pytest.approx([1, (43 - 18) / 43])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"n": 0}, "at least 1, got 0"), ({"n": 1.5}, "at least 1, got 1.5"),
     ({"unit": "word"}, "Did you mean 'words'")],
)  # fmt: skip
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve("distinct", **kwargs)


def test_the_contract_of_reward_models() -> None:
    check_reward_model("distinct")
    check_reward_model(Repetition(1, unit="words"))


# -- metrics -----------------------------------------------------------------------------------


def test_distinct_n_by_hand() -> None:
    texts = ["The cat sat.", "the cat ran", ""]
    assert distinct_n(texts, 1) == 4 / 6  # the, cat, sat, ran
    assert distinct_n(texts, 2) == 3 / 6  # the cat, cat sat, cat ran
    assert distinct_n(texts, 3) == 2 / 6
    assert distinct_n(texts, 1, pooled=False) == 1.0
    assert distinct_n(["a a", "a a"], 1, pooled=False) == 0.5 and distinct_n(["a a"], 3) == 0.0


def test_self_bleu_by_hand() -> None:
    assert self_bleu(["a warm film"] * 3) == 1.0
    assert self_bleu(["a b", "c d"]) == 0.0
    # Unigram precisions 2/3, 2/3, lengths equal: the mean is 2/3.
    assert self_bleu(["a b c", "a b d"], order=1) == pytest.approx(2 / 3)
    # Half of "a b" is found; "a" is found, but one word against two is the factor exp(1 - 2).
    assert self_bleu(["a b", "a"], order=1) == pytest.approx((1 / 2 + np.exp(-1)) / 2)


def test_self_bleu_reads_words_not_characters() -> None:
    # As characters the two share half of what they consist of; as words they share nothing.
    assert self_bleu(["abcd efgh", "abce efgi"], order=2) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(SENTENCE.filter(bool), min_size=2, max_size=6), st.integers(1, 4))
def test_self_bleu_equals_sacrebleu_one_by_one(rows: list[list[str]], order: int) -> None:
    from sacrebleu.metrics.bleu import BLEU

    texts = [" ".join(words) for words in rows]
    metric = BLEU(max_ngram_order=order, tokenize="none", effective_order=True)
    scores = [
        metric.sentence_score(text, texts[:row] + texts[row + 1 :]).score / 100
        for row, text in enumerate(texts)
    ]
    assert self_bleu(texts, order=order) == pytest.approx(np.mean(scores), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(SENTENCE.filter(bool), min_size=2, max_size=6), st.randoms())
def test_the_order_of_the_texts_does_not_matter(rows: list[list[str]], random: Any) -> None:
    texts = [" ".join(words) for words in rows]
    shuffled = texts.copy()
    random.shuffle(shuffled)
    assert self_bleu(shuffled) == pytest.approx(self_bleu(texts))
    assert distinct_n(shuffled, 2) == distinct_n(texts, 2)
    assert 0 <= distinct_n(texts, 1) <= 1 and 0 <= self_bleu(texts) <= 1


def test_collapse_is_seen() -> None:
    collapsed = ["a warm and funny film"] * 20
    varied = [f"{a} {b} film" for a in ("a", "the", "no", "one") for b in "b c d e f".split()]
    assert distinct_n(collapsed, 2) < 0.1 < distinct_n(varied, 2)
    assert self_bleu(collapsed) > 0.99 > self_bleu(varied)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: distinct_n("one text", 1), TypeError, "several strings, got one"),
        (lambda: self_bleu("one text"), TypeError, "several strings, got one"),
        (lambda: distinct_n(["", "!"], 1), ValueError, "at least 1 text with a word, got 0 of 2"),
        (lambda: self_bleu(["a", "."]), ValueError, "at least 2 texts with a word, got 1 of 2"),
        (lambda: distinct_n(["a"], 0), ValueError, "at least 1, got 0"),
        (lambda: self_bleu(["a", "b"], order=0), ValueError, "order must be .* got 0"),
    ],
)
def test_arguments_of_metrics(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(ImportError, match=r"text_envs\[metrics\]"):
        self_bleu(["a", "b"])
