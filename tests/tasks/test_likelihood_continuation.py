"""LikelihoodContinuation-v0 and the likelihood reward: exact sums, batches, demonstrations."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import SENTENCES

from text_envs import TokenEnv
from text_envs.rewards import likelihood
from text_envs.rewards.likelihood import Likelihood
from text_envs.tasks.generation import Generation
from text_envs.tasks.likelihood import LikelihoodContinuation
from text_envs.testing.envs import check_reward_model, check_task
from text_envs.testing.tasks import play_batch
from text_envs.tokenizers import WordTokenizer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def task() -> LikelihoodContinuation:
    return LikelihoodContinuation()


@pytest.fixture(scope="module")
def saved_lm(tmp_path_factory: pytest.TempPathFactory, bpe_tokenizer: Any) -> Path:
    """A random GPT-2 with a tokenizer, saved in the format of the hub."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lm")
    config = GPT2Config(
        vocab_size=len(bpe_tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(path)
    bpe_tokenizer.save_pretrained(path)
    return path


def by_hand(model: Any, ids: list[int], prompt: int, actions: int) -> float:
    """Mean log-probability of ids[prompt:], one softmax a token."""
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([ids])).logits[0, :, :actions].log_softmax(dim=-1)
    return float(np.mean([log_p[t - 1, ids[t]].item() for t in range(prompt, len(ids))]))


def test_the_reward_is_the_mean_over_the_text_and_its_end(task: LikelihoodContinuation) -> None:
    env = TokenEnv(task)
    tokenizer, model = task.tokenizer, task.likelihood._model
    for text, end in (("a warm film", True), ("", True), ("good " * 24, False)):
        env.reset(options={"index": 5})
        prompt = tokenizer.encode_prompt(task.example(5).prompt)
        ids = tokenizer.encode(text) + [tokenizer.eos_id] * end
        for token in ids:
            _, reward, terminated, _, _ = env.step(token)
        assert terminated
        exact = by_hand(model, prompt + ids, len(prompt), tokenizer.num_actions)
        assert np.isclose(float(reward), exact, atol=1e-8)


def test_special_tokens_get_no_probability(saved_lm: Path) -> None:
    task = LikelihoodContinuation(model=str(saved_lm), dataset=SENTENCES, prompt_length=40)
    episodes = play_batch(task, 3)
    row = episodes.tokens[1][episodes.tokens[1] != task.tokenizer.pad_id]
    start = int((episodes.roles[1] == 1).sum())
    with torch.no_grad():
        logits = task.likelihood._model(input_ids=torch.tensor(row)[None]).logits[0]
    logits[:, np.flatnonzero(task.tokenizer.forbidden)] = -torch.inf
    log_p = logits[:, : task.tokenizer.num_actions].log_softmax(dim=-1)
    exact = np.mean([log_p[t - 1, row[t]].item() for t in range(start, len(row))])
    assert np.isclose(task.likelihood(episodes)[1], exact, atol=1e-8)


def test_the_contracts_of_rewards_and_tasks(task: LikelihoodContinuation) -> None:
    check_reward_model(task.likelihood, task=task)
    check_task(LikelihoodContinuation(max_tokens=4), card=True, episodes=8)
    splits = [LikelihoodContinuation(split=s) for s in ("train", "validation", "test")]
    prompts = [{split.example(i).prompt for i in range(len(split))} for split in splits]
    assert [len(split) for split in splits] == [len(seen) for seen in prompts] == [1024, 256, 256]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])


def test_batch_size_and_dtype_change_nothing_that_counts(task: LikelihoodContinuation) -> None:
    episodes = play_batch(task, 6)
    whole = task.likelihood(episodes)
    assert np.array_equal(Likelihood(batch_size=5)(episodes), whole)
    assert np.allclose(Likelihood(dtype="float32")(episodes), whole, atol=1e-4)


def test_another_vocabulary_is_encoded_again(task: LikelihoodContinuation) -> None:
    words = WordTokenizer(["film", "a", "warm", "the", "is"])
    other = Generation(dataset=["the film is"], tokenizer=words, max_tokens=4)
    episodes = play_batch(other, 4)
    scores = task.likelihood(episodes)
    tokenizer = task.tokenizer
    for row, episode in enumerate(episodes):
        prompt = tokenizer.encode_prompt(episode.prompt)
        ids = tokenizer.encode(episode.text)
        ids += [tokenizer.eos_id] * (episode.finish_reason == "stop")
        exact = by_hand(task.likelihood._model, prompt + ids, len(prompt), tokenizer.num_actions)
        assert np.isclose(scores[row], exact, atol=1e-8)


def test_demonstrations_are_ordinary_and_greedy_texts_are_likelier(
    task: LikelihoodContinuation,
) -> None:
    means = {q: task.demonstrations(48, quality=q).returns.mean() for q in task.qualities}
    assert means["random"] < -10 < -5 < means["expert"] < -3 < means["greedy"]


def test_stored_likelihoods_are_what_the_model_says(task: LikelihoodContinuation) -> None:
    """Fails where the model has changed: run python -m text_envs.assets.build_continuations."""
    expert = task.demonstrations(32, seed=4)
    stored = [
        task.example(i).metadata["reviews_log_likelihood"] for i in expert.example_indices.tolist()
    ]
    assert np.allclose(expert.returns, stored, atol=2e-6)


def test_sampling_does_not_depend_on_the_batch(task: LikelihoodContinuation) -> None:
    prompts = task.prompts(np.arange(6))
    rngs = [[np.random.default_rng(i) for i in range(6)] for _ in range(2)]
    together = task.likelihood.continue_prompts(prompts, 8, rngs[0])
    alone = [task.likelihood.continue_prompts(prompts[i : i + 1], 8, [rngs[1][i]]) for i in (0, 4)]
    assert together[0] == alone[0][0] and together[4] == alone[1][0]
    eos = task.tokenizer.eos_id
    assert all(len(t) == 8 or t[-1] == eos for t in together)
    assert all(eos not in t[:-1] for t in together)


def test_sampling_follows_the_model(saved_lm: Path) -> None:
    model = Likelihood(str(saved_lm))
    prompt = np.array([model.tokenizer.encode_prompt("the film")])
    prompts = np.repeat(prompt, 4000, axis=0)
    rng = np.random.default_rng(0)
    drawn = np.array([t[0] for t in model.continue_prompts(prompts, 1, [rng] * 4000)])
    with torch.no_grad():
        logits = model._restrict(model._model(input_ids=torch.tensor(prompt)).logits)[0, -1]
    p = logits.softmax(dim=-1).numpy()
    counts = np.bincount(drawn, minlength=len(p))
    assert (counts[p == 0] == 0).all()
    likely = p * 4000 > 5
    chi2 = ((counts - 4000 * p)[likely] ** 2 / (4000 * p[likely])).sum()
    assert chi2 < likely.sum() + 5 * np.sqrt(2 * likely.sum())


def test_texts_of_ones_own_without_references_are_sampled(saved_lm: Path) -> None:
    task = LikelihoodContinuation(
        model=str(saved_lm), dataset=["the film"], prompt_length=20, max_tokens=5
    )
    expert, again = task.demonstrations(4), task.demonstrations(4)
    assert np.array_equal(expert.tokens, again.tokens)
    cut = LikelihoodContinuation(dataset=["the film is a delight"], opening_words=3)
    assert cut.example(0).references == ("a delight",)


def test_bad_input(saved_lm: Path) -> None:
    with pytest.raises(ValueError, match="= 136, but the model has only 128 positions"):
        LikelihoodContinuation(max_tokens=128)
    with pytest.raises(ValueError, match="unknown dtype 'float16'"):
        Likelihood(dtype="float16")
    with pytest.raises(ValueError, match="batch_size must be"):
        Likelihood(batch_size=0)
    with pytest.raises(ValueError, match="Did you mean 'reviews'"):
        Likelihood("review")
    with pytest.raises(ValueError, match="pass tokenizer="):
        Likelihood(Likelihood(str(saved_lm))._model)
    long = Generation(dataset=["film " * 200])
    with pytest.raises(ValueError, match="214 tokens is too long.*128 positions"):
        Likelihood()(play_batch(long, 1))


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "text_envs.lm.loading", None)
    likelihood._load_once.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'text_envs\[agents\]'"):
        gym.make("text_envs/LikelihoodContinuation-v0")
