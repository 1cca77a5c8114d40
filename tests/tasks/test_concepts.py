"""Concepts to a sentence: the grammar's promises, the components, CommonGen's two formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_envs import DatasetError
from text_envs.envs.single import TokenEnv
from text_envs.rewards.overlap import stem
from text_envs.tasks.concepts import ConceptsToSentence, grammar
from text_envs.tasks.shared.splits import SPLITS
from text_envs.tokenizers import WordTokenizer

ROWS = [
    {"concept_set_idx": 0, "concepts": ["dog", "run"], "target": "a dog is running"},
    {"concept_set_idx": 0, "concepts": ["dog", "run"], "target": "the dog runs away"},
    {"concept_set_idx": 1, "concepts": ["tree", "bird"], "target": "a bird sits in a tree"},
]
TARGETS = [str(row["target"]) for row in ROWS]
SCENES = [
    {"concept_set": "dog_N#run_V", "scene": ["a dog is running", "the dog runs away"]},
    {"concept_set": "tree#bird", "scene": ["a bird sits in a tree"], "reason": []},
]


def ledger(task: ConceptsToSentence, text: str, index: int = 0) -> dict[str, float]:
    env = TokenEnv(task)
    env.reset(options={"index": index})
    tokens = [*task.tokenizer.encode(text), task.tokenizer.eos_id]
    info = [env.step(token)[4] for token in tokens][-1]
    return {name: float(value) for name, value in info["reward_terms"].items()}


def test_references_use_every_concept_and_only_known_words() -> None:
    tokenizer = grammar.tokenizer()
    for scene in grammar.draw_scenes("train", 600, 0):
        assert 3 <= len(scene.concepts) <= 5 and len(set(scene.references)) == 4
        for text in scene.references:
            used = {stem(word) for word in text.split() if word.isalpha()}
            assert {stem(concept) for concept in scene.concepts} <= used
            assert (
                tokenizer.decode(tokenizer.encode(text)).split()
                == text.replace(" .", ".").replace(" ,", ",").split()
            )


def test_splits_share_no_concept_set_in_any_order() -> None:
    parts = [
        {frozenset(e.metadata["concepts"]) for e in ConceptsToSentence(split=split).examples}
        for split in SPLITS
    ]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_components_by_hand() -> None:
    task = ConceptsToSentence(size=1)
    concepts = task.example(0).metadata["concepts"]
    half = ledger(task, f"{concepts[0]} {concepts[1]}")
    assert half["coverage"] == pytest.approx(2 / len(concepts)) and 0 < half["ciderd"] < 10
    assert ledger(task, "") == {"coverage": 0.0, "ciderd": 0.0}
    perfect = ledger(task, task.example(0).references[0])
    assert perfect["coverage"] == 1 and perfect["ciderd"] > 10 / 4  # one of four is itself


def test_weights_choose_and_scale_the_components() -> None:
    plain = ledger(ConceptsToSentence(size=1), "a boy")
    weighed = ConceptsToSentence(size=1, weights={"ciderd": 0.5, "coverage": 0})
    assert ledger(weighed, "a boy") == {"ciderd": pytest.approx(plain["ciderd"] / 2)}
    metrics = ConceptsToSentence(size=3, weights={"bleu": 1, "rouge": 2})
    same = ledger(metrics, metrics.example(0).references[0])
    assert same == {"bleu": pytest.approx(1), "rouge": pytest.approx(2)}
    with pytest.raises(ValueError, match="unknown component 'cider'.*Did you mean 'ciderd'"):
        ConceptsToSentence(weights={"cider": 1})
    with pytest.raises(ValueError, match="at least one component"):
        ConceptsToSentence(weights={"coverage": 0})


def test_scripted_players_are_ordered() -> None:
    task = ConceptsToSentence()
    mean = {
        quality: float(task.demonstrations(200, quality=quality).returns.mean())
        for quality in task.qualities
    }
    assert mean["expert"] > mean["reference"] > mean["mixed"] > mean["list"] > mean["mismatched"]
    assert mean["expert"] > 6 and mean["random"] < 0.5 and mean["partial"] < mean["mixed"]
    lists = task.demonstrations(50, quality="list", reward="text_envs.rewards.overlap:Coverage")
    assert lists.returns.tolist() == [1.0] * 50


def test_every_split_weighs_n_grams_by_the_training_references() -> None:
    rewards = [ConceptsToSentence(split=split, size=3).reward for split in SPLITS]
    cider = [reward.parts["ciderd"][1] for reward in rewards]
    assert cider[0] is cider[1] is cider[2] and cider[0].documents == 2048
    assert ConceptsToSentence(size=3, data_seed=1).reward.parts["ciderd"][1] is not cider[0]


def test_registered_id_takes_weights_as_plain_json() -> None:
    env = gym.make("text_envs/ConceptsToSentence-v0", size=2, weights={"coverage": 2.0}).unwrapped
    assert env.reward_model.components == ("coverage",)


@pytest.mark.parametrize("rows", [ROWS, SCENES])
def test_both_formats_of_common_gen(tmp_path: Path, rows: list[Any]) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = WordTokenizer.from_texts(["generate sentence with : . away running runs"] + TARGETS)
    task = ConceptsToSentence(dataset=str(file), tokenizer=words)
    assert [e.prompt for e in task.examples] == [
        "generate a sentence with : dog run .",
        "generate a sentence with : tree bird .",
    ]
    assert task.example(0).references == ("a dog is running", "the dog runs away")
    assert task.example(0).metadata == {"concepts": ("dog", "run")}
    assert ledger(task, "a dog running")["coverage"] == 1
    assert task.demonstrations(20).returns.min() > 3


def test_evaluation_data_is_weighed_by_training_data() -> None:
    rows = [{**row, "split": "train"} for row in ROWS]
    rows.append({**ROWS[2], "concept_set_idx": 2, "split": "test"})
    task = ConceptsToSentence(dataset=rows, split="test")
    assert len(task) == 1 and task.reward.parts["ciderd"][1].documents == 2
    other = ConceptsToSentence(dataset=ROWS, split="test", training_dataset=ROWS)
    assert other.reward.parts["ciderd"][1].documents == 2
    alone = ConceptsToSentence(dataset=ROWS[2:])
    with pytest.raises(ValueError, match="at least two documents with references, got 1"):
        _ = alone.reward
    with pytest.raises(ValueError, match="training_dataset goes with a dataset"):
        ConceptsToSentence(training_dataset=ROWS)


def test_a_test_set_without_sentences_still_counts_coverage() -> None:
    rows = [{"concept_set_idx": 0, "concepts": ["dog", "run"], "target": ""}]
    task = ConceptsToSentence(dataset=rows)
    with pytest.raises(DatasetError, match=r"dog run .*no references.*'ciderd'"):
        TokenEnv(task)
    covered = ConceptsToSentence(dataset=rows, weights={"coverage": 1})
    assert covered.qualities == ("random", "list")
    assert covered.demonstrations(5, quality="list").returns.tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"concepts": "dog"}', r"line 1: field 'concepts' must be a list of texts, got 'dog'"),
        ('{"concepts": ["dog", 3]}', "must be a list of texts"),
        ('{"concepts": []}', r"line 1: a concept set is empty"),
        ('\n{"concept_set": "a##b", "scene": []}', r"line 2: a concept set is empty or has an"),
        ('{"target": "x"}', r"line 1: no field 'concepts' or 'concept_set'; it has 'target'"),
        ('{"concept_set": "a#b", "scene": "x"}', "field 'scene' must be a list of texts"),
        (
            '{"concept_set_idx": 4, "concepts": ["a"]}\n{"concept_set_idx": 4, "concepts": ["b"]}',
            r"line 2: field 'concept_set_idx' says 4",
        ),
    ],
)
def test_malformed_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "concepts.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        ConceptsToSentence(dataset=file)


def test_prompts_hold_the_concepts_in_random_order() -> None:
    task = ConceptsToSentence(size=400)
    verbs = {activity.verb for activity in grammar._activities()}
    places = [np.argmax([c in verbs for c in e.metadata["concepts"]]) for e in task.examples]
    assert set(places) == {0, 1, 2, 3, 4}
