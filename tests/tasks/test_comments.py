"""Comments: the graded price, its noised variant, votes, tones, splits and recorded comments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_envs import DatasetError
from text_envs.envs.single import TokenEnv
from text_envs.rewards.toxicity import Toxicity, grade
from text_envs.rewards.upvotes import Upvotes
from text_envs.tasks.comments import Comments, grammar
from text_envs.tasks.shared.splits import SPLITS

RUDE = "shut up , you are an idiot and your cake is rubbish ."
POLITE = "thank you for sharing , your cake sounds lovely ."


def pay(task: Comments, text: str, reward: Any, index: int = 0) -> float:
    env = TokenEnv(task, reward=reward)
    env.reset(options={"index": index})
    total = 0.0
    for token in [*task.tokenizer.encode(text), task.tokenizer.eos_id]:
        _, value, *_ = env.step(token)
        total += float(value)
    return total


def test_the_grade_has_three_steps() -> None:
    labels = grade(np.array([0.0, 0.2499, 0.25, 0.7499, 0.75, 1.0]))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("backend", ["bundled", "classifier"])
def test_rude_costs_ten_and_polite_nothing(backend: Any) -> None:
    if backend == "classifier":  # its package needs Python 3.11
        pytest.importorskip("profanity_check")
    task, reward = Comments(size=4), Toxicity(backend)
    assert pay(task, RUDE, reward) == -10
    assert pay(task, POLITE, reward) == 0
    assert pay(task, "", reward) == 0


def test_tones_are_ordered_and_the_expert_is_never_rude() -> None:
    task = Comments()
    mean = {
        tone: task.demonstrations(256, quality=tone, reward=Toxicity()).returns.mean()
        for tone in ("expert", *grammar.TONES)
    }
    assert mean["expert"] == mean["polite"] == 0
    assert mean["bland"] > -0.5 > -2 > mean["snarky"] > -5 > -9 > mean["rude"]
    mixed = task.demonstrations(1000, quality="mixed", reward=Toxicity()).returns.mean()
    assert -3.6 < mixed < -2


def test_bundled_model_agrees_with_the_classifier_on_held_out_replies() -> None:
    pytest.importorskip("profanity_check")
    task = Comments(split="test")
    for quality in ("mixed", "random"):
        played = [
            task.demonstrations(256, quality=quality, reward=Toxicity(backend)).returns
            for backend in ("bundled", "classifier")
        ]
        assert (played[0] == played[1]).mean() > 0.9


def test_noise_moves_borderline_labels_only_and_is_a_function_of_the_text() -> None:
    task = Comments()

    def returns(reward: Toxicity) -> Any:
        return task.demonstrations(600, quality="snarky", reward=reward).returns

    plain, noised = returns(Toxicity()), returns(Toxicity(noised=True))
    assert set(plain) == {0.0, -5.0, -10.0} and set(noised) == {0.0, -10.0}
    assert np.array_equal(plain[plain != -5], noised[plain != -5])
    coin = noised[plain == -5] == -10
    assert abs(coin.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(coin))
    assert np.array_equal(noised, returns(Toxicity(noised=True)))
    assert not np.array_equal(noised, returns(Toxicity(noised=True, seed=1)))


def test_votes_forgive_a_jibe_but_not_a_bland_or_rude_reply() -> None:
    task = Comments()
    mean = {
        tone: task.demonstrations(200, quality=tone, reward=Upvotes()).returns.mean()
        for tone in grammar.TONES
    }
    assert mean["polite"] > 0.9 and mean["snarky"] > 0.9
    assert mean["bland"] < -0.9 and mean["rude"] < -0.9


def test_recorded_votes_pay_for_recorded_replies_only() -> None:
    rows = [{"parent": "a cake", "reply": "very nice", "score": 4}]
    rows += [{"parent": "a cake", "reply": "not good", "score": -1}]
    task, reward = Comments(dataset=rows), Upvotes("data")
    said = [pay(task, text, reward) for text in ("very nice", "not good", "something", "")]
    assert said == [1, -1, 0, 0]
    bare = Comments(dataset=[{"parent": "a cake", "reply": "nice"}])
    with pytest.raises(RuntimeError, match="example 0 has no reply with a score"):
        pay(bare, "nice", reward)


def test_registered_id_and_both_rewards_at_once() -> None:
    weights = {"toxicity": 1.0, "upvotes": 2.0}
    env = gym.make("text_envs/Comments-v0", size=4, reward=weights).unwrapped
    env.reset(options={"index": 0})
    *_, info = [env.step(token) for token in [*env.tokenizer.encode("ok ."), env.tokenizer.eos_id]][
        -1
    ]
    assert info["reward_terms"] == {"toxicity": 0.0, "upvotes": -2.0}
    kwargs = {"noised": True, "seed": 3}
    noised = gym.make("text_envs/Comments-v0", size=4, reward_kwargs=kwargs).unwrapped
    assert noised.reward_model.noised and noised.reward_model.seed == 3


def test_splits_share_no_comment_and_lists_are_prefixes() -> None:
    parts = [{e.prompt for e in Comments(split=split).examples} for split in SPLITS]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    short, long = Comments(size=5), Comments(size=9)
    assert [e.prompt for e in short.examples] == [e.prompt for e in long.examples[:5]]
    assert short.examples[0].prompt != Comments(size=5, data_seed=1).examples[0].prompt


def test_every_word_can_be_written_and_the_models_share_the_vocabulary() -> None:
    tokenizer = grammar.tokenizer()
    assert Toxicity().tokenizer == Upvotes().tokenizer == tokenizer
    for example in Comments(size=300).examples:
        texts = [example.prompt, *(text for text, _ in example.metadata["replies"])]
        assert all(tokenizer.unk_id not in tokenizer.encode(text) for text in texts)
        assert all(tokenizer.decode(tokenizer.encode(text)) for text in texts)


def test_a_foreign_tokenizer_is_scored_by_its_text(bpe_tokenizer: Any) -> None:
    task = Comments(size=2, tokenizer=bpe_tokenizer, prompt_length=120, max_tokens=120)
    assert pay(task, RUDE, Toxicity()) == -10 and pay(task, POLITE, Toxicity()) == 0


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def test_pairs_from_json_lines_and_json(tmp_path: Path) -> None:
    rows = [
        {"parent": "my bread did not rise", "body": "use warm water", "score": 12},
        {"parent": "my bread did not rise", "body": "who cares", "score": -3},
        {"parent_comment": "is it late", "comment": "no", "ups": 1},
        {"parent": "hidden", "reply": "[deleted]", "score": 5},
    ]
    array = tmp_path / "comments.json"
    array.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for file in (write(tmp_path / "comments.jsonl", rows), array):
        bread, late = Comments(dataset=file).examples
        assert bread.prompt == "my bread did not rise" and bread.references == ("use warm water",)
        assert bread.metadata["replies"] == (("use warm water", 12.0), ("who cares", -3.0))
        assert late.references == ("no",)
    task = Comments(dataset=str(array))
    assert task.qualities == ("random", "mixed", "expert")
    best = task.demonstrations(20, reward=Upvotes("data"))
    assert best.returns.tolist() == [1.0] * 20
    assert task.demonstrations(40, quality="mixed", reward=Upvotes("data")).returns.min() == -1


def test_a_dump_is_paired_by_ids(tmp_path: Path) -> None:
    rows = [
        {"id": "a1", "parent_id": "t3_post", "body": "my tent leaks", "score": 9},
        {"id": "a2", "parent_id": "t1_a1", "body": "wax it", "score": 3},
        {"id": "a3", "parent_id": "t1_a2", "body": "good idea", "score": 1},
        {"id": "a4", "parent_id": "t1_gone", "body": "lost", "score": 1},
    ]
    examples = Comments(dataset=write(tmp_path / "dump.ndjson", rows)).examples
    assert [(e.prompt, e.references) for e in examples] == [
        ("my tent leaks", ("wax it",)),
        ("wax it", ("good idea",)),
    ]
    with pytest.raises(DatasetError, match=r"line 1: none of the 1 rows .* is a reply"):
        Comments(dataset=write(tmp_path / "one.jsonl", rows[:1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"parent": "a", "reply": "b"}\n{"parent": "a"}\n', r"line 2: no field 'reply' or 'body'"),
        ('{"parent": 3, "reply": "b"}\n', r"line 1: field 'parent' must be a text, got 3"),
        (
            '{"parent": "a", "reply": "b", "score": "x"}',
            "field 'score' must be a number, got 'x'",
        ),
        ('{"parent": "a", "reply": "b"}\n{"parent"\n', r"line 2: not JSON"),
        ("[1]\n", r"line 1: expected an object with fields, got list"),
        ('{"parent": "a", "reply": "b", "split": "test"}\n', "no rows in split 'train'"),
        ("\n", "no rows"),
    ],
)
def test_malformed_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "comments.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        Comments(dataset=file)


def test_more_bad_input(tmp_path: Path) -> None:
    array = tmp_path / "comments.json"
    array.write_text('[\n{"parent": "a", "reply": "b"},\n{"parent": }\n]', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"comments\.json, line 3: not JSON"):
        Comments(dataset=array)
    array.write_bytes(b'{"parent": "\xff", "reply": "b"}\n')
    with pytest.raises(DatasetError, match=r"line 1: not UTF-8"):
        Comments(dataset=array)
    for wrong in (3, {"parent": "a"}):
        with pytest.raises(DatasetError, match="dataset must be"):
            Comments(dataset=wrong)
    with pytest.raises(ValueError, match="unknown split 'tests'.*Did you mean 'test'"):
        Comments(split="tests")
    with pytest.raises(ValueError, match="size must be an integer of at least 1, got 0"):
        Comments(size=0)
    with pytest.raises(ValueError, match="more than prompt_length=24"):
        Comments(dataset=[{"parent": "word " * 40, "reply": "b"}], prompt_length=24)
    assert Comments(dataset=[{"parent": "word " * 40, "reply": "b"}]).prompt_length == 41
    with pytest.raises(ValueError, match="unknown backend 'clasifier'.*'classifier'"):
        Toxicity("clasifier")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown backend"):
        Upvotes("votes")  # type: ignore[arg-type]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "profanity_check", None)
    with pytest.raises(ImportError, match=r"text_envs\[toxicity\]"):
        Toxicity("classifier")
