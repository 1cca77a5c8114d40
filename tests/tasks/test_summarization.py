"""Summaries: the grammar's promises, the preference model and its exploit, three data formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_envs import DatasetError
from text_envs.envs.single import TokenEnv
from text_envs.rewards.preference import FEATURES, Preference, Vocabulary, summary_features
from text_envs.tasks.shared.splits import SPLITS
from text_envs.tasks.summarization import Summarization, grammar
from text_envs.tokens.assets import ASSETS

CARD = ASSETS / "summaries" / "card.json"


def ledger(task: Summarization, text: str, index: int = 0) -> dict[str, float]:
    env = TokenEnv(task)
    env.reset(options={"index": index})
    tokens = [*task.tokenizer.encode(text), task.tokenizer.eos_id]
    info = [env.step(token)[4] for token in tokens][-1]
    return {name: float(value) for name, value in info["reward_terms"].items()}


def test_texts_fit_and_use_known_words() -> None:
    tokenizer, rng = grammar.tokenizer(), np.random.default_rng(0)
    assert Preference().tokenizer == tokenizer
    for story in grammar.draw_stories("train", 500, 0):
        good = grammar.summaries(story)
        texts = [grammar.post(story), *good]
        texts += [grammar.degrade(good[0], fault, story, rng) for fault in grammar.FAULTS]
        assert all(tokenizer.unk_id not in tokenizer.encode(text) for text in texts)
        assert all(0 < len(tokenizer.encode(text)) <= 24 for text in texts[1:])
        for fact in ("who", "did", "thing", "why", "ask"):
            assert all(story[fact] in text for text in texts[: 1 + len(good)])


def test_splits_share_no_facts() -> None:
    parts = [{e.references[0] for e in Summarization(split=split).examples} for split in SPLITS]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_every_fault_makes_a_summary_worse() -> None:
    task = Summarization(split="test")
    mean = {
        quality: float(task.demonstrations(256, quality=quality).returns.mean())
        for quality in task.qualities
    }
    assert abs(mean["expert"]) < 0.2
    assert all(mean[fault] < -1 for fault in grammar.FAULTS)
    assert mean["expert"] > mean["mixed"] > mean["random"]


def test_held_out_pairs_are_ranked_as_the_card_says() -> None:
    from text_envs.assets.build_summaries import measure

    card = json.loads(CARD.read_text(encoding="utf-8"))
    measured = measure()
    assert measured["held_out_pair_accuracy"] == card["held_out_pair_accuracy"] > 0.95
    assert round(100 * measured["held_out_pair_accuracy"]) == 97  # what the card of the env says


def test_a_pile_of_rare_words_beats_every_good_summary() -> None:
    from text_envs.assets.build_summaries import _pile

    words = json.loads(CARD.with_name("preference.json").read_text(encoding="utf-8"))["words"]
    posts = [e.metadata["post"] for e in Summarization(split="test").examples]
    piled = Preference().score_texts(posts, [_pile(post, words) for post in posts])
    assert piled.mean() > 3
    task = Summarization(split="test", weights={"rouge": 1})
    assert ledger(task, _pile(posts[0], words))["rouge"] < 0.5


def test_features_by_hand() -> None:
    # ids: a 0, b 1, c 2, "." 3, "?" 4, padding 5; b and c are rare.
    vocabulary = Vocabulary.of(["a", "b", "c", ".", "?"], {"a": 0.0, "b": 1.0, "c": 2.0})
    posts = np.array([[5, 0, 1, 3]] * 4)
    summaries = np.array([[0, 1, 3, 5], [2, 2, 4, 5], [5, 5, 5, 5], [1, 0, 5, 5]])
    expected = [
        # overlap, coverage, novelty, repetition, length, length^2, phrases, finished, question
        [1, 1, 0, 0, 0.2, 0.04, 1, 1, 0],
        [0, 0, 0.2, 0.5, 0.2, 0.04, 0, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0.2, 0.04, 0, 0, 0],
    ]
    assert summary_features(posts, summaries, vocabulary) == pytest.approx(np.array(expected))
    assert len(FEATURES) == len(expected[0])


def test_ids_and_texts_score_alike(bpe_tokenizer: Any) -> None:
    task, model = Summarization(size=40), Preference()
    played = task.demonstrations(100, quality="mixed", reward=model)
    posts = [task.example(i).metadata["post"] for i in played.example_indices.tolist()]
    texts = [task.tokenizer.decode(row[task.prompt_length :]) for row in played.tokens.tolist()]
    assert model.score_texts(posts, texts) == pytest.approx(played.returns)
    other = Summarization(size=3, tokenizer=bpe_tokenizer, prompt_length=300, max_tokens=120)
    good = other.example(0).references[0]
    assert ledger(other, good) == pytest.approx(ledger(Summarization(size=3), good))


def test_weights_and_length() -> None:
    task = Summarization(size=2, weights={"preference": 1, "length": 0.5})
    terms = ledger(task, "my brother sold my bike")
    assert terms["length"] == -2.5 and set(terms) == {"preference", "length"}
    with pytest.raises(ValueError, match="unknown component 'lenght'.*Did you mean 'length'"):
        Summarization(weights={"lenght": 1})
    env = gym.make("text_envs/Summarization-v0", size=2, reward="preference").unwrapped
    assert isinstance(env.reward_model, Preference)


HUB = {
    "prompt": "SUBREDDIT: r/tents\n\nTITLE: wet\n\nPOST: it leaks\n\nTL;DR:",
    "completion": " wet",
}
OPENAI = {"post": "it leaks", "summary": " wet", "title": "wet", "subreddit": "tents", "id": "t3"}
WEBIS = {"content": "it leaks", "summary": "wet", "author": "me", "subreddit": "tents"}


@pytest.mark.parametrize("row", [HUB, OPENAI, WEBIS])
def test_formats_of_posts(tmp_path: Path, row: dict[str, str]) -> None:
    file = tmp_path / "posts.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    task = Summarization(dataset=str(file))
    example = task.example(0)
    header = "" if row is WEBIS else "SUBREDDIT: r/tents\n\nTITLE: wet\n\nPOST: "
    assert example.prompt == f"{header}it leaks\nTL;DR:" and example.references == ("wet",)
    ask = task.tokenizer.encode("tl;dr:")
    assert task.prompts(np.array([0]))[0, -len(ask) :].tolist() == ask
    assert set(task.qualities) == {"random", "expert", "mixed"}


def test_a_repeated_post_gathers_summaries_and_needs_none() -> None:
    rows = [{**WEBIS, "summary": text} for text in ("wet", "it leaks", "wet", "")]
    (example,) = Summarization(dataset=rows).examples
    assert example.references == ("wet", "it leaks")
    bare = Summarization(dataset=[{"post": "it leaks"}])
    assert bare.qualities == ("random",) and np.isfinite(ledger(bare, "it")["preference"])
    with pytest.raises(DatasetError, match="'it leaks'... has no summary.*'rouge'"):
        TokenEnv(Summarization(dataset=[{"post": "it leaks"}], weights={"rouge": 1}))


def test_long_posts_are_refused_or_cut_at_the_end_and_asked_again() -> None:
    words = " ".join(grammar.tokenizer().words[5:55])
    rows = [{"post": words}, {"post": words + " sad"}, {"post": "i am sad"}]
    tokenizer = grammar.tokenizer()
    with pytest.raises(ValueError, match=r"prompt 0 has 55 tokens, 35 more than prompt_length=20"):
        Summarization(dataset=rows, tokenizer=tokenizer, prompt_length=20)
    task = Summarization(dataset=rows, tokenizer=tokenizer, prompt_length=20, truncate_prompts=True)
    ask = tokenizer.encode("tl;dr:")
    cut, same, short = task.prompts(np.arange(3)).tolist()
    assert cut == same == [tokenizer.bos_id, *tokenizer.encode(words)[:15], *ask]
    assert [i for i in short if i != tokenizer.pad_id] == tokenizer.encode_prompt("i am sad tl;dr:")
    with pytest.raises(ValueError, match="prompt_length=5 leaves no room for a post"):
        Summarization(dataset=rows, tokenizer=tokenizer, prompt_length=5, truncate_prompts=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "TL;DR:", "completion": "x"}', r"line 1: the post is empty"),
        (b'{"title": "x"}', r"line 1: no field 'prompt' or 'post' or 'content'"),
        (b'{"post": "a", "summary": ["x"]}', r"line 1: field 'summary' must be a text, got \['x'"),
        (b'{"post": "a"}\n{"post": "\xff"}\n', r"line 2: not UTF-8"),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "posts.jsonl"
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        Summarization(dataset=file)
