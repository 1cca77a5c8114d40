"""Copies of every reward model score as the original does, and neither changes the other."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from reward_batches import batch
from reward_server import Reply, Server, mark
from transformers import PreTrainedTokenizerBase

from text_envs import EpisodeBatch, Task
from text_envs.rewards import NAMES, resolve, score_with_details
from text_envs.tasks.toy import Toy
from text_envs.tokens.protocol import Tokenizer

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "cloudpickle": lambda model: pickle.loads(cloudpickle.dumps(model)),
}
TEXTS = ["a good film", "the dog runs in the park", "bad , bad movie !", ""]
OTHERS = ["the cat runs", "a dog , a cat", "good film", "park"]
KWARGS: dict[str, dict[str, Any]] = {
    "cache": {"model": "sentiment"},
    "calibrated": {"reward_model": "sentiment", "scale": 2.0, "choose": "mean"},
    "clip": {"model": {"length": 1.0, "repetition": -1.0}, "high": 2.0},
    "ledger": {"model": {"length": 1.0, "sentiment": [2.0, {"reward": "cache", "reward_kwargs": {
        "model": "sentiment"}}]}},
    "length": {"target": 4},
    "likelihood": {"dtype": "float32"},
    "meteor": {"synonyms": [["film", "movie"]]},
    "regex": {"pattern": "film"},
    "scale": {"model": "vader", "factor": 2.0},
    "toxicity": {"noised": True},
}  # fmt: skip
MODELS = {"hf": "scalar_path", "hf-preference": "scalar_path", "bertscore": "encoder_path",
          "embedding": "sentences_path"}  # fmt: skip
PACKAGES = {"bertscore": "bert_score", "embedding": "sentence_transformers"}
EVERY = sorted({*NAMES, "hf", "hf-preference", "sum"})


def respond(number: int, body: Any) -> Reply:
    if "messages" in body:
        return mark(f"Score: {len(body['messages'][-1]['content']) % 10}")
    return Reply({"rewards": [len(e["text"].split()) for e in body["episodes"]]})


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    with Server(respond) as server:

        def made(name: str) -> Any:
            kwargs = KWARGS.get(name, {})
            if name in ("hf", "hf-preference"):
                return resolve(f"{name}:{request.getfixturevalue('scalar_path')}")
            if name in MODELS:
                pytest.importorskip(
                    "bert_score" if name == "bertscore" else "sentence_transformers"
                )
                return resolve(name, model=str(request.getfixturevalue(MODELS[name])))
            if name == "judge":
                return resolve(name, model="m", base_url=server.url, template="{text}")
            if name == "remote":
                return resolve(name, url=server.url)
            if name == "sum":
                return resolve({"length": 1.0, "bleu": 2.0, "distinct": -0.5})
            return resolve(name, **kwargs)

        yield made


def episodes(texts: list[str]) -> EpisodeBatch:
    metadata = [{"votes": row, "concepts": ["dog", "run"]} for row in range(len(texts))]
    given = [["the dog runs in the park", "a good film"]] * len(texts)
    return batch(texts, given, metadata=metadata)


def scores(model: Any, texts: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    ledger, details = score_with_details(model, episodes(texts))
    running = ("mean", "std")  # of a ledger, which go on
    return ledger, {k: v for k, v in details.items() if not k.endswith(running)}


def same(one: Any, other: Any) -> bool:
    return all(
        set(a) == set(b) and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)
        for a, b in zip(one, other, strict=True)
    )


FROZEN = (torch.nn.Module, torch.Tensor, PreTrainedTokenizerBase, Task, Tokenizer, ModuleType, type)


def state(thing: Any, path: str = "", seen: dict[int, Any] | None = None) -> dict[str, Any]:
    """Return everything reachable from a reward model that scoring might change, by its path."""
    seen = {} if seen is None else seen
    if isinstance(thing, FROZEN) or id(thing) in seen:
        return {}
    seen[id(thing)] = thing
    if isinstance(thing, np.ndarray):
        return {path: thing.tobytes()}
    if isinstance(thing, np.random.Generator):
        return {path: repr(thing.bit_generator.state)}
    found: dict[str, Any] = {}
    if isinstance(thing, dict):
        found[path] = list(map(repr, thing))
        parts = {f"{path}[{key!r}]": value for key, value in thing.items()}
    elif isinstance(thing, list | tuple | set):
        parts = {f"{path}[{i}]": value for i, value in enumerate(thing)}
        found[path] = len(thing)
    elif isinstance(thing, MethodType):
        parts = {path: thing.__self__}
    elif isinstance(thing, FunctionType) or not hasattr(thing, "__dict__"):
        return {path: repr(thing)}
    else:
        parts = {f"{path}.{key}": value for key, value in vars(thing).items()}
    for name, part in parts.items():
        found |= state(part, name, seen)
    return found


def test_no_name_is_forgotten() -> None:
    assert set(EVERY) == {*NAMES, "hf", "hf-preference", "sum"}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", EVERY)
def test_a_copy_scores_alike_and_shares_nothing_that_changes(
    name: str, way: str, make: Callable[[str], Any]
) -> None:
    original = make(name)
    fresh = COPIES[way](original)
    first = scores(original, TEXTS)
    assert same(scores(fresh, TEXTS), first)
    used = COPIES[way](original)  # with whatever scoring has left behind
    assert same(scores(used, TEXTS), first)
    before = state(original)
    later = scores(used, OTHERS)
    assert state(original) == before, "scoring with the copy has changed the original"
    before = state(used)
    assert same(scores(original, OTHERS), later)
    scores(original, [text + " a" for text in OTHERS])
    assert state(used) == before, "scoring with the original has changed the copy"
    assert type(used) is type(original)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("options", [{"choose": "sample"}, {"scale": "std"}])
def test_copies_of_a_calibrated_reward_draw_for_themselves(way: str, options: Any) -> None:
    demonstrations = {0: ["a", "a b", "b a b"]}
    original = resolve(
        "calibrated", reward_model="length", demonstrations=demonstrations, **options
    )
    task = Toy()
    original.bind(task)
    shown = batch(["a b"] * 8, tokenizer=task.tokenizer)
    shown = EpisodeBatch(
        shown.tokens, shown.roles, prompt_length=shown.prompt_length, tokenizer=shown.tokenizer,
        example_indices=np.zeros(8, dtype=np.int64), finish_reasons=shown.finish_reasons,
        get_example=task.example,
    )  # fmt: skip
    original(shown)
    twin = COPIES[way](original)
    before = original._rng.bit_generator.state
    paid = twin(shown).values
    assert original._rng.bit_generator.state == before
    assert np.array_equal(original(shown).values, paid)


@pytest.mark.parametrize("name", ["hf", "hf-preference", "bertscore", "embedding", "likelihood"])
def test_deep_copies_share_the_weights(name: str, make: Callable[[str], Any]) -> None:
    def networks(thing: Any, seen: set[int]) -> Iterator[Any]:
        if isinstance(thing, torch.nn.Module):
            yield thing
        elif hasattr(thing, "__dict__") and id(thing) not in seen:
            seen.add(id(thing))
            for part in vars(thing).values():
                yield from networks(part, seen)

    original = make(name)
    found = [list(networks(m, set())) for m in (original, copy.deepcopy(original))]
    assert len(found[0]) == 1 and found[0][0] is found[1][0]


def test_a_module_is_no_attribute(make: Callable[[str], Any]) -> None:
    def attributes(thing: Any, depth: int = 3) -> Iterator[Any]:
        for part in vars(thing).values() if hasattr(thing, "__dict__") and depth else ():
            yield part
            if type(part).__module__.startswith("text_envs"):
                yield from attributes(part, depth - 1)

    for name in EVERY:
        assert not [a for a in attributes(make(name)) if isinstance(a, ModuleType)], name


def test_wordnet_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meteor = resolve("meteor")
    meteor._by_wordnet = True
    monkeypatch.setattr("text_envs.rewards.meteor._load_synonyms", lambda which: which)
    assert pickle.loads(pickle.dumps(meteor))._wordnet == "wordnet"
