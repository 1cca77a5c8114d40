"""Exact match and regular expressions, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Echo
from reward_batches import batch

from text_envs import TokenVectorEnv
from text_envs.rewards import resolve
from text_envs.rewards.matching import ExactMatch, Regex, normalise
from text_envs.testing.envs import check_reward_model


def test_normalising_by_hand() -> None:
    text = "The  cat, an old_one, SAT!"
    assert normalise(text) == "cat old one sat"
    assert normalise(text, ()) == text
    assert normalise(text, ("case",)) == "the  cat, an old_one, sat!"
    assert normalise(text, ("articles", "space")) == "cat, old_one, SAT!"
    assert normalise("Straße", ("case",)) == "strasse"
    assert normalise("théa", ("articles",)) == "théa"


def test_any_reference_may_match() -> None:
    episodes = batch(
        ["the good film .", "a dog", "", "good film good film"],
        [["Good Film!", "x"], ["a cat", "dog"], ["."], ["good film"]],
    )
    assert ExactMatch()(episodes).tolist() == [1, 1, 1, 0]
    assert ExactMatch(normalise=())(episodes).tolist() == [0, 0, 0, 0]
    strict = resolve("exact_match", normalise=["case", "punctuation", "space"])
    assert strict(episodes).tolist() == [0, 0, 1, 0]
    with pytest.raises(ValueError, match="example 0 has no references"):
        ExactMatch()(batch(["good"]))


def test_the_extracted_answer_is_compared() -> None:
    texts = ["answer: 3, no, answer: 4", "4", "answer: "]
    wanted = [["4"]] * 3
    assert ExactMatch(extract=r"answer: (\d*)").score_texts(texts, wanted).tolist() == [1, 0, 0]
    assert ExactMatch(extract=r"\d").score_texts(texts, wanted).tolist() == [1, 1, 0]


def test_regular_expressions() -> None:
    texts = ["good good", "a good dog", "bad", ""]
    episodes = batch(texts)
    assert Regex("good")(episodes).tolist() == [1, 1, 0, 0]
    assert Regex("good", "count")(episodes).tolist() == [2, 1, 0, 0]
    assert Regex("good", "count", most=1)(episodes).tolist() == [1, 1, 0, 0]
    assert Regex("(good ?)+", "full")(episodes).tolist() == [1, 0, 0, 0]
    assert Regex("", "full")(episodes).tolist() == [0, 0, 0, 1]
    assert Regex("(?i)GOOD", source="transcript")(episodes).tolist() == [1, 1, 0, 0]


def test_the_transcript_has_both_sides() -> None:
    def reward(source: Any) -> float:
        model = Regex("yes", "count", source=source)
        env = TokenVectorEnv(Echo(), num_envs=1, reward=model, autoreset_mode="DISABLED")
        env.reset(seed=0)
        total = 0.0
        for word in (1, 4, 2, 4):  # "hello", to which it says "yes" and perhaps "hello"; "bye"
            total += env.step(np.array([word]))[1][0]
        return total

    assert reward("transcript") - reward("text") == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExactMatch(["cases"]), "unknown step 'cases'. Did you mean 'case'"),
        (lambda: ExactMatch(extract="("), r"'\(' is no regular expression"),
        (lambda: Regex("["), "is no regular expression"),
        (lambda: Regex("a", "counts"), "Did you mean 'count'"),
        (lambda: Regex("a", source="texts"), "Did you mean 'text'"),
        (lambda: Regex("a", most=2), "most is a positive limit for mode='count', got 2, 'any'"),
        (lambda: Regex("a", "count", most=0), "most is a positive limit"),
    ],
)
def test_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_contract_of_reward_models() -> None:
    check_reward_model(Regex(r"\bfilm\b", "count"))
    check_reward_model("exact_match", task="text_envs.tasks.concepts:ConceptsToSentence")
