"""Generation-v0: prompts, tokenizer and reward of one's own in one call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from text_envs import DatasetError, EpisodeBatch
from text_envs.tasks.generation import Generation
from text_envs.testing.envs import check_task

ENV_ID = "text_envs/Generation-v0"
PROMPTS = ["the film is", "a story"]


def shouting(episodes: EpisodeBatch) -> np.ndarray[Any, Any]:
    return np.array([text.count("!") for text in episodes.texts], dtype=float)


def test_without_arguments_it_asks_for_half_the_columns() -> None:
    env = gym.make(ENV_ID).unwrapped
    env.reset(seed=0)
    for _ in range(10):
        env.step(0)
    _, reward, terminated, _, _ = env.step(env.tokenizer.eos_id)
    assert reward == -2.0 and terminated
    assert Generation().demonstrations(20).returns.tolist() == [0.0] * 20
    check_task(Generation, card=True)


def test_prompts_tokenizer_and_reward_of_ones_own(bpe_tokenizer: Any) -> None:
    env = gym.make(
        ENV_ID, dataset=PROMPTS, tokenizer=bpe_tokenizer, reward=shouting, max_tokens=5
    ).unwrapped
    tokenizer = env.tokenizer
    lengths = [len(tokenizer.encode_prompt(prompt)) for prompt in PROMPTS]
    assert env.task.prompt_length == max(lengths)
    observation, _ = env.reset(options={"index": 1})
    assert tokenizer.decode(observation.tolist()) == "a story"
    token = tokenizer.encode("!")[0]
    for _ in range(5):
        _, reward, terminated, _, info = env.step(token)
    assert terminated and reward == 5.0 and info["text"] == "!!!!!"


def test_arguments_that_are_plain_survive_the_spec() -> None:
    env = gym.make(ENV_ID, dataset=PROMPTS, reward={"length": 0.1, "sentiment": 1.0})
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.task.example(0).prompt == PROMPTS[0]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_files(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"prompts{suffix}"
    lines = PROMPTS if suffix == ".txt" else [json.dumps({"question": p}) for p in PROMPTS]
    file.write_text("\n".join(lines), encoding="utf-8")
    task = Generation(dataset=str(file), field=None if suffix == ".txt" else "question")
    assert [task.example(i).prompt for i in range(2)] == PROMPTS


def test_a_folder_of_the_datasets_package(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"text": PROMPTS, "reference": ["great", "of two"]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "d")
    task = Generation(dataset=str(tmp_path / "d"))
    assert task.example(1).references == ("of two",)


def test_the_expert_writes_references_without_what_cannot_be_written() -> None:
    rows = [{"prompt": "it is", "references": ["good zyzzyva film", "unused"]}]
    episodes = Generation(dataset=rows, max_tokens=6).demonstrations(1)
    tokenizer = Generation().tokenizer
    assert tokenizer.decode(episodes.tokens[0].tolist()) == "it is good film"
    cut = Generation(dataset=rows, max_tokens=1).demonstrations(1)
    assert cut.finish_reasons == ("length",) and tokenizer.decode(cut.tokens[0].tolist()) == (
        "it is good"
    )


def test_prompts_over_length() -> None:
    long = ["the film " * 200]
    with pytest.raises(ValueError, match="prompt 0 has 401 tokens, 145 more than prompt_length"):
        Generation(dataset=long)
    task = Generation(dataset=long, truncate_prompts=True, max_prompt_length=16)
    assert task.prompt_length == 16
    assert Generation(dataset=long, max_prompt_length=500).prompt_length == 401
    with pytest.raises(ValueError, match="max_prompt_length must be an integer of at least 1"):
        Generation(max_prompt_length=0)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no examples"):
        Generation(dataset=[])
    with pytest.raises(DatasetError, match="item 2: no field 'prompt' or 'text'"):
        Generation(dataset=[{"prompt": "a"}, {"promt": "b"}])
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(DatasetError, match=r"latin.txt, line 1: not UTF-8"):
        Generation(dataset=str(file))
    with pytest.raises(ValueError, match="unknown reward 'lenght'.*Did you mean 'length'"):
        gym.make(ENV_ID, reward="lenght")
    with pytest.raises(ValueError, match="unknown split"):
        Generation(split="dev")
