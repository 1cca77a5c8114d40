"""METEOR by hand from its formula, against NLTK, and with three kinds of synonyms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nltk
import pytest
from reward_batches import batch

from text_envs.rewards import resolve
from text_envs.rewards.meteor import Meteor
from text_envs.testing.envs import check_reward_model

CAT = "the cat sat on the mat"


def by_hand(matches: int, words: int, reference: int, chunks: int) -> float:
    p, r = matches / words, matches / reference
    return p * r / (0.9 * p + 0.1 * r) * (1 - 0.5 * (chunks / matches) ** 3)


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        (CAT, CAT, by_hand(6, 6, 6, 1)),
        ("The cat was sat on the mat.", CAT, by_hand(6, 7, 6, 2)),
        ("on the mat sat the cat", CAT, by_hand(6, 6, 6, 6)),  # as NLTK aligns the articles
        ("the cats sitting", "the cat sits", by_hand(3, 3, 3, 1)),  # by their stems
        ("a movie", "a film", by_hand(1, 2, 2, 1)),
        ("dog", CAT, 0.0),
        ("", CAT, 0.0),
    ],
)
def test_by_hand(text: str, reference: str, expected: float) -> None:
    assert Meteor().score_texts([text], [[reference]]) == pytest.approx([expected])


def test_equals_nltk_without_synonyms() -> None:
    from nltk.translate.meteor_score import meteor_score

    class Empty:
        def synsets(self, word: str) -> list[Any]:
            return []

    texts = [CAT, "the dogs ran in a park", "mat the on"]
    wanted = [["a cat sat on a mat", "dogs"], ["a dog runs in the park"], [CAT]]
    expected = [
        meteor_score([r.split() for r in each], text.split(), wordnet=Empty())
        for text, each in zip(texts, wanted, strict=True)
    ]
    assert Meteor().score_texts(texts, wanted) == pytest.approx(expected)
    assert min(expected) > 0


def test_episodes_and_their_best_reference() -> None:
    episodes = batch(["a good film .", "a dog"], [["a movie", "a good film"], ["a cat"]])
    assert Meteor()(episodes) == pytest.approx([by_hand(3, 3, 3, 1), by_hand(1, 2, 2, 1)])
    with pytest.raises(ValueError, match="example 0 has no references"):
        Meteor()(batch(["good"]))


def test_the_name_says_which_stages_there_are() -> None:
    assert resolve("meteor").name == "meteor-exact-stem"
    assert resolve("meteor", synonyms=[["film", "movie"]]).name == "meteor"


def test_a_thesaurus_of_ones_own() -> None:
    meteor = Meteor(synonyms=[["film", "movie", "picture"], ["good", "fine"]])
    full = by_hand(2, 2, 2, 1)
    pairs = {"a movie": "a film", "a film": "a movie", "fine picture": "good movies"}
    scores = meteor.score_texts(list(pairs), [[wanted] for wanted in pairs.values()])
    assert scores == pytest.approx([full] * 3)
    assert meteor.score_texts(["a good"], [["a film"]]) == pytest.approx([by_hand(1, 2, 2, 1)])


def write_wordnet(folder: Path) -> None:
    """Write a WordNet of two nouns with one meaning in the format of its database."""
    folder.mkdir(parents=True)
    for part in ("adj", "adv", "noun", "verb"):
        for name in (f"index.{part}", f"data.{part}", f"{part}.exc"):
            (folder / name).write_text("")
    (folder / "cntlist.rev").write_text("")
    (folder / "lexnames").write_text("00\tnoun.artifact\t1\n")
    (folder / "data.adj").write_text("  1 WordNet 3.0 Copyright 2006 by Princeton University  \n")
    (folder / "data.noun").write_text("00000000 00 n 02 film 0 movie 0 000 | what is shown  \n")
    index, sense = "{} n 1 0 1 0 00000000  \n", "{}%1:00:00:: 00000000 1 0\n"
    for name, line in (("index.noun", index), ("index.sense", sense)):
        (folder / name).write_text("".join(map(line.format, ("film", "movie"))))


def test_wordnet_where_nltk_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    corpora = [LazyCorpusLoader(name, WordNetCorpusReader, object()) for name in ("wordnet",) * 2]
    monkeypatch.setattr("nltk.corpus.wordnet", corpora[0])
    with pytest.raises(ValueError, match="python -m nltk.downloader wordnet"):
        Meteor(synonyms="wordnet")
    write_wordnet(tmp_path / "corpora" / "wordnet")
    monkeypatch.setattr("nltk.corpus.wordnet", corpora[1])
    meteor = Meteor(synonyms="wordnet")
    assert meteor.name == "meteor"
    # The stem of "movie" is no word; the synonym is found all the same.
    texts, wanted = ["a movie", "a film", "a dog"], [["a film"], ["a movie"], ["a cat"]]
    scores = meteor.score_texts(texts, wanted)
    assert scores == pytest.approx([by_hand(2, 2, 2, 1)] * 2 + [by_hand(1, 2, 2, 1)])
    for opened in corpora[1]._data_file_map.values():  # NLTK leaves them open
        opened.close()


def test_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="None, 'wordnet' or groups of words, got 'wordnets'"):
        Meteor(synonyms="wordnets")
    monkeypatch.setitem(sys.modules, "nltk.translate.meteor_score", None)
    with pytest.raises(ImportError, match=r"text_envs\[metrics\]"):
        Meteor()


def test_the_contract_of_reward_models() -> None:
    check_reward_model("meteor", task="text_envs.tasks.concepts:ConceptsToSentence")
