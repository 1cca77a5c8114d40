"""Every name resolves, keeps the contract of reward models, and its card's example runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reward_server import Reply, Server, mark

import text_envs.rewards
import text_envs.rewards.metrics
from text_envs.rewards import NAMES, RewardModel, resolve
from text_envs.tasks.reviews import Reviews
from text_envs.testing.envs import check_reward_model

CONCEPTS = "text_envs.tasks.concepts:ConceptsToSentence"
COMMENTS = "text_envs.tasks.comments:Comments"
SUMMARIES = "text_envs.tasks.summarization:Summarization"
# Those not listed are checked where they have a server or a model: judge, remote, bertscore ...
CHECKED: dict[str, tuple[Any, dict[str, Any]]] = {
    "bleu": (CONCEPTS, {}),
    "cache": (None, {"model": "sentiment"}),
    "ciderd": (CONCEPTS, {}),
    "clip": (None, {"model": "length", "high": 5}),
    "constant": (None, {}),
    "coverage": (CONCEPTS, {}),
    "distinct": (None, {}),
    "exact_match": (CONCEPTS, {}),
    "ledger": (None, {"model": "sentiment"}),
    "length": (None, {"target": 4}),
    "likelihood": (Reviews(max_tokens=5), {}),
    "meteor": (CONCEPTS, {}),
    "preference": (SUMMARIES, {}),
    "regex": (None, {"pattern": "film"}),
    "repetition": (None, {}),
    "rouge": (CONCEPTS, {}),
    "scale": (None, {"model": "length", "factor": 0.1}),
    "sentiment": (None, {}),
    "toxicity": (COMMENTS, {}),
    "upvotes": (COMMENTS, {}),
    "vader": (None, {}),
}
ELSEWHERE = {"bertscore", "embedding", "judge", "remote", "calibrated"}


def test_no_name_is_forgotten() -> None:
    assert set(CHECKED) | ELSEWHERE == set(NAMES)
    assert list(NAMES) == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_the_contract_of_reward_models(name: str) -> None:
    task, kwargs = CHECKED[name]
    model = resolve(name, **kwargs)
    assert name in str(getattr(model, "name", ""))
    check_reward_model(model, episodes=3, **({} if task is None else {"task": task}))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("distinkt", "Did you mean 'distinct'"),
        ("exactmatch", "Did you mean 'exact_match'"),
        ("meteors", "Did you mean 'meteor'"),
        ("jugde", "Did you mean 'judge'"),
        ("hf-preferences:x", "Did you mean 'hf-preference'"),
        ("fh:x", "cannot import module 'fh'.*'hf'"),
    ],
)
def test_near_names_are_suggested(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(spec)


def test_every_model_has_a_card_with_an_example() -> None:
    for name in NAMES:
        if name == "constant":
            card = text_envs.rewards.Constant.__doc__
        elif inspect.isclass(NAMES[name]):
            card = NAMES[name].__doc__
        else:
            module, attribute = (cell.cell_contents for cell in NAMES[name].__closure__ or ())
            found = importlib.import_module(f"text_envs.rewards.{module}")
            card = getattr(found, attribute).__doc__
        assert card is not None and ">>> " in card, name


# -- examples ----------------------------------------------------------------------------------

MODULES = sorted(module.name for module in pkgutil.iter_modules(text_envs.rewards.__path__))
NEEDS = {
    "hf": "transformers", "hf_preference": "transformers", "likelihood": "transformers",
    "lexicon": "vaderSentiment", "meteor": "nltk", "overlap": "sacrebleu",
    "judge": "urllib3", "remote": "urllib3",
}  # fmt: skip


def run_examples(module: Any, **names: Any) -> int:
    result = doctest.testmod(module, extraglobs=names)
    assert result.failed == 0
    return result.attempted


@pytest.mark.parametrize("name", [name for name in MODULES if name != "similarity"])
def test_examples_in_cards(name: str, request: pytest.FixtureRequest) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    module = importlib.import_module(f"text_envs.rewards.{name}")
    if name in ("hf", "hf_preference"):
        head = "classifier_path" if name == "hf" else "scalar_path"
        assert run_examples(module, folder=request.getfixturevalue(head)) > 2
        return

    def respond(number: int, body: Any) -> Reply:
        if "messages" in body:
            return mark("Score: 7")
        return Reply({"rewards": [len(e["text"].split()) for e in body["episodes"]]})

    with Server(respond) as server:
        run_examples(module, url=server.url, base_url=server.url)


def test_examples_of_similarity(encoder_path: Path, sentences_path: Path) -> None:
    pytest.importorskip("bert_score")
    module = importlib.import_module("text_envs.rewards.similarity")
    assert run_examples(module, encoder=str(encoder_path), sentences=str(sentences_path)) == 6


def test_examples_of_metrics() -> None:
    pytest.importorskip("sacrebleu")
    assert run_examples(text_envs.rewards.metrics) >= 4


# -- the base installation ---------------------------------------------------------------------


def test_names_load_nothing_before_they_are_asked_for() -> None:
    code = (
        "import sys, text_envs.rewards, text_envs.rewards.metrics, text_envs.rewards.judge, "
        "text_envs.rewards.remote, text_envs.rewards.similarity, text_envs.rewards.meteor, "
        "text_envs.rewards.hf_preference; "
        "heavy = {'torch', 'transformers', 'urllib3', 'nltk', 'sacrebleu', 'rouge_score', "
        "'bert_score', 'sentence_transformers'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "make", "extra"),
    [
        ("urllib3", lambda: resolve("remote", url="http://host"), "judge"),
        ("urllib3", lambda: resolve("judge", model="m", base_url="http://host"), "judge"),
        ("transformers", lambda: resolve("hf-preference:x"), "agents"),
        ("transformers", lambda: resolve("hf:x"), "agents"),
        ("vaderSentiment.vaderSentiment", lambda: resolve("vader"), "judge"),
    ],
)
def test_missing_packages_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, make: Any, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"text_envs\[{extra}\]"):
        make()


def test_a_model_without_a_name_is_called_by_its_type() -> None:
    from text_envs.core.reward import describe, label

    class Mine:
        def __call__(self, episodes: Any) -> Any:
            return np.zeros(len(episodes))

    model: RewardModel = Mine()
    assert (describe(model), label(model)) == ("Mine", "Mine")
    assert (describe(resolve("length")), label(resolve("length"))) == ("'length'", "length")
