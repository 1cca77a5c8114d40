"""Classifiers, scalar and pairwise preference models of transformers, against direct calls."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from reward_batches import batch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from text_envs.rewards import resolve
from text_envs.testing.envs import check_reward_model

PROMPTS = ["the film", "a loud picture", ""]
TEXTS = ["is a quiet triumph", "never finds its story", "is warm"]


class Direct:
    """A model and its tokenizer, asked about one text at a time."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForSequenceClassification.from_pretrained(path).eval()

    def __call__(self, *text: str, special: bool = True) -> np.ndarray[Any, Any]:
        inputs = self.tokenizer(*text, return_tensors="pt", add_special_tokens=special)
        with torch.no_grad():
            return self.model(**inputs).logits[0].double().numpy()


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x)))


# -- hf: ---------------------------------------------------------------------------------------


def test_a_scalar_head_pays_its_output(scalar_path: Path) -> None:
    direct = Direct(scalar_path)
    model = resolve(f"hf:{scalar_path}", batch_size=2)
    expected = [direct(text)[0] for text in TEXTS]
    assert model.score_texts(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.01
    expected = [direct(f"{p} {t}".strip())[0] for p, t in zip(PROMPTS, TEXTS, strict=True)]
    assert model.score_texts(TEXTS, PROMPTS) == pytest.approx(expected, abs=1e-5)
    check_reward_model(model, episodes=4)


def test_models_are_put_where_they_are_asked_to(
    scalar_path: Path, encoder_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "text_envs.lm.devices.pick_device", lambda d: (asked.append(d), torch.device("cpu"))[1]
    )
    resolve(f"hf:{scalar_path}", device="cuda:7")
    resolve(f"hf-preference:{scalar_path}", device="cuda:8")
    resolve("bertscore", model=str(encoder_path), device="cuda:9")
    assert asked == ["cuda:7", "cuda:8", "cuda:9"]
    monkeypatch.undo()
    auto = resolve(f"hf:{scalar_path}", device="auto")  # the CPU where there is no GPU
    assert auto.score_texts(TEXTS).shape == (3,)
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        resolve(f"hf:{scalar_path}", device="gpu")


def test_templates(scalar_path: Path, tmp_path: Path) -> None:
    direct = Direct(scalar_path)
    pair = resolve(f"hf:{scalar_path}", template="pair").score_texts(TEXTS[:2], PROMPTS[:2])
    expected = [direct(p, t)[0] for p, t in zip(PROMPTS[:2], TEXTS, strict=False)]
    assert pair == pytest.approx(expected, abs=1e-5)
    own = resolve(f"hf:{scalar_path}", template="Q: {prompt} A: {text}")
    assert own.score_texts(["b"], ["a"]) == pytest.approx(direct("Q: a A: b"), abs=1e-5)
    with pytest.raises(ValueError, match="tokenizer has no chat template"):
        resolve(f"hf:{scalar_path}", template="chat").score_texts(["b"], ["a"])
    direct.model.save_pretrained(tmp_path)
    direct.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    )
    direct.tokenizer.save_pretrained(tmp_path)
    chat = resolve(f"hf:{tmp_path}", template="chat").score_texts(["b"], ["a"])
    assert chat == pytest.approx(direct("user: a\nassistant: b\n", special=False), abs=1e-5)
    with pytest.raises(ValueError, match="Did you mean 'plain'"):
        resolve(f"hf:{scalar_path}", template="plane")
    with pytest.raises(ValueError, match="unknown template '{prompt} only'"):
        resolve(f"hf:{scalar_path}", template="{prompt} only")


def test_a_text_too_long_keeps_its_end(scalar_path: Path) -> None:
    model = resolve(f"hf:{scalar_path}")
    long = "never " * 100
    ends = model.score_texts(TEXTS[:2], [long, long])
    assert abs(ends[0] - ends[1]) > 1e-3  # what the agent wrote is still read
    direct = Direct(scalar_path)
    ids = direct.tokenizer(f"{long} {TEXTS[0]}")["input_ids"][-64:]  # the model has 64 positions
    with torch.no_grad():
        expected = direct.model(input_ids=torch.tensor([ids])).logits[0, 0].item()
    assert ends[0] == pytest.approx(expected, abs=1e-5)


# -- hf-preference: ----------------------------------------------------------------------------


def test_scalar_preferences_are_differences(scalar_path: Path) -> None:
    score = resolve(f"hf:{scalar_path}")
    others = [["is dull", "is a mess"], ["is loud"], ["is warm"]]
    of = score.score_texts(TEXTS, PROMPTS)
    wanted = [score.score_texts(o, [p] * len(o)) for p, o in zip(PROMPTS, others, strict=True)]
    logit = resolve(f"hf-preference:{scalar_path}", batch_size=3)
    expected = [s - z.mean() for s, z in zip(of, wanted, strict=True)]
    assert logit.score_texts(PROMPTS, TEXTS, others) == pytest.approx(expected, abs=1e-5)
    chance = resolve(f"hf-preference:{scalar_path}", output="probability")
    expected = [sigmoid(s - z).mean() for s, z in zip(of, wanted, strict=True)]
    assert chance.score_texts(PROMPTS, TEXTS, others) == pytest.approx(expected, abs=1e-5)
    assert chance.score_texts(PROMPTS, TEXTS, others)[2] == 0.5  # against itself, exactly


@pytest.mark.parametrize("kwargs", [{"label": "FIRST"}, {"label": 0}])
def test_pairwise_preferences_read_both_orders(pairwise_path: Path, kwargs: dict[str, Any]) -> None:
    direct = Direct(pairwise_path)

    def odds(prompt: str, first: str, second: str) -> float:
        logits = direct(f"{prompt} {first}".strip(), second)
        return float(logits[0] - logits[1])

    spec = f"hf-preference:{pairwise_path}"
    model = resolve(spec, head="pairwise", batch_size=2, **kwargs)
    others = ["is dull", "is loud", "is warm"]
    triples = list(zip(PROMPTS, TEXTS, others, strict=True))
    expected = [(odds(x, y, z) - odds(x, z, y)) / 2 for x, y, z in triples]
    paid = model.score_texts(PROMPTS, TEXTS, [[z] for z in others])
    assert paid == pytest.approx(expected, abs=1e-5) and paid[2] == pytest.approx(0, abs=1e-6)
    swapped = model.score_texts(PROMPTS, others, [[y] for y in TEXTS])
    assert swapped == pytest.approx(-paid, abs=1e-5)
    single = resolve(spec, head="pairwise", both_orders=False, **kwargs)
    expected = [odds(*triple) for triple in triples]
    assert single.score_texts(PROMPTS, TEXTS, [[z] for z in others]) == pytest.approx(
        expected, abs=1e-5
    )


def test_a_pairwise_head_with_one_output(scalar_path: Path) -> None:
    direct = Direct(scalar_path)
    model = resolve(f"hf-preference:{scalar_path}", head="pairwise", output="probability")
    expected = sigmoid((direct("a b", "c")[0] - direct("a c", "b")[0]) / 2)
    assert model.score_texts(["a"], ["b"], [["c"]]) == pytest.approx([expected], abs=1e-5)


def test_what_a_text_is_compared_with(scalar_path: Path) -> None:
    spec = f"hf-preference:{scalar_path}"
    metadata = [{"sft": "a dog", "many": ["bad", "a cat"]}]
    episodes = batch(["good"], [["a cat", "bad"]], metadata=metadata)
    against = resolve(spec, output="probability")
    expected = against.score_texts(["a film"], ["good"], [["a cat", "bad"]])
    assert against(episodes) == pytest.approx(expected)
    assert resolve(spec, against="many", output="probability")(episodes) == pytest.approx(expected)
    fixed = resolve(spec, baseline="a dog")(episodes)
    assert resolve(spec, against="sft")(episodes) == pytest.approx(fixed)
    with pytest.raises(ValueError, match="example 0 has no 'dpo' in its metadata"):
        resolve(spec, against="dpo")(episodes)
    with pytest.raises(ValueError, match="example 0 has no references"):
        against(batch(["good"]))


def test_a_preference_as_reward_of_an_environment(scalar_path: Path) -> None:
    spec = f"hf-preference:{scalar_path}"
    env = gym.make(
        "text_envs/Summarization-v0",
        reward=spec,
        reward_kwargs={"output": "probability", "batch_size": 16},
        max_tokens=4,
    )
    env.reset(seed=0)
    assert 0 < env.step(env.unwrapped.tokenizer.eos_id)[1] < 1
    model = env.unwrapped.reward_model
    assert copy.deepcopy(model) is model and model.name == spec
    check_reward_model(model, task="text_envs.tasks.concepts:ConceptsToSentence", episodes=3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"head": "pair"}, "unknown head 'pair'.* Did you mean 'pairwise'"),
        ({"output": "logits"}, "unknown output 'logits'.* Did you mean 'logit'"),
        ({}, r"head='scalar' needs a model with one output.*'FIRST', 'SECOND'"),
        ({"head": "pairwise"}, r"which of the labels \['FIRST', 'SECOND'\]"),
        ({"head": "pairwise", "label": "FIRSTS"}, "Did you mean 'FIRST'"),
        ({"head": "pairwise", "label": 2}, "label 2 of .*accepted: 0..1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_arguments(pairwise_path: Path, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(f"hf-preference:{pairwise_path}", **kwargs)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    for prefix in ("hf", "hf-preference"):
        with pytest.raises(ValueError, match=f"reward '{prefix}:.*cannot load"):
            resolve(f"{prefix}:{tmp_path}")
