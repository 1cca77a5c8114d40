"""Saved models in transformers' own hands: the same ids, texts and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hir_helpers import tiny_t5
from models import tiny_gpt2
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    pipeline,
)

import agents
import text_envs
from agents.policies.return_conditioned import ReturnConditionedPolicy
from text_envs import Example, Task
from text_envs.lm import load_lm
from text_envs.tokenizers import CharTokenizer, WordTokenizer, load_tokenizer

PROMPTS = ["the film is", "a loud picture", "nobody", "the cast is warm", "isn't it ?"]


class Texts(Task):
    """Prompts with any tokenizer; longer texts are better."""

    reward = staticmethod(lambda episodes: np.asarray(episodes.lengths, dtype=float))

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(
            [Example(prompt) for prompt in PROMPTS],
            tokenizer=tokenizer, prompt_length=20, max_tokens=8,
        )  # fmt: skip


def words() -> WordTokenizer:
    return WordTokenizer.from_texts([*PROMPTS, "it 's well - acted , really ."])


def characters() -> CharTokenizer:
    return CharTokenizer("abcdefghijklmnopqrstuvwxyz '?.\n\u00e9A<")


@pytest.fixture(params=["words", "characters", "bpe"])
def tokenizer(request: pytest.FixtureRequest, bpe_tokenizer: Any) -> Any:
    kinds = {"words": words, "characters": characters, "bpe": lambda: load_tokenizer(bpe_tokenizer)}
    return kinds[request.param]()


def agent_for(tokenizer: Any, **kwargs: Any) -> Any:
    env = text_envs.make_sb3(Texts(tokenizer), num_envs=4)
    model = kwargs.pop("model", None) or tiny_gpt2(tokenizer.vocab_size, positions=40)
    policy_kwargs = {"model": model, **kwargs.pop("policy_kwargs", {})}
    given: dict[str, Any] = {"n_episodes": 8, "device": "cpu", "seed": 0} | kwargs
    return agents.PPO(given.pop("policy", "CausalLMPolicy"), env, policy_kwargs=policy_kwargs,
                      **given)  # fmt: skip


def same_ids(auto: Any, tokenizer: Any) -> None:
    texts = [*PROMPTS, "It's well-acted, really. ?", "the  film\nis", "zebra", "caf\u00e9 A<"]
    for text in texts:
        assert auto(text)["input_ids"] == tokenizer.encode_prompt(text), text
        ids = tokenizer.encode(text)
        assert auto.encode(text, add_special_tokens=False) == ids
        if tokenizer.unk_id not in ids:
            shown = auto.decode(ids, skip_special_tokens=True)
            assert shown == tokenizer.decode(ids), text
    assert auto.eos_token_id == tokenizer.eos_id and auto.pad_token_id == tokenizer.pad_id
    assert auto.bos_token_id == tokenizer.bos_id


def test_ids_texts_and_scores(tokenizer: Any, tmp_path: Path) -> None:
    agent = agent_for(tokenizer, policy_kwargs={"temperature": 0.7}).learn(16)
    agent.save(tmp_path / "agent")
    folder = tmp_path / "agent" / "policy" / "lm"
    auto = AutoTokenizer.from_pretrained(folder)
    same_ids(auto, tokenizer)
    lm = AutoModelForCausalLM.from_pretrained(folder).eval()
    for prompt in PROMPTS:
        ids = tokenizer.encode_prompt(prompt)
        row = np.full((1, 28), tokenizer.pad_id)
        row[0, 20 - len(ids) : 20] = ids
        wanted = agent.policy.get_distribution(torch.from_numpy(row)).distribution.logits
        with torch.no_grad():
            raw = lm(**auto(prompt, return_tensors="pt")).logits[0, -1]
        never = agent.policy.actor.forbidden_ids
        scores = raw[: tokenizer.num_actions] / 0.7
        scores[never] = -torch.inf
        torch.testing.assert_close(scores.log_softmax(0), wanted[0].log_softmax(0).float())


def test_generate_samples_the_distribution_of_the_policy(tokenizer: Any, tmp_path: Path) -> None:
    """Temperature, forbidden ids and what is no action are known to the saved configuration."""
    agent = agent_for(tokenizer, policy_kwargs={"temperature": 0.7})
    agent.policy.save(tmp_path / "policy")
    folder = tmp_path / "policy" / "lm"
    config = GenerationConfig.from_pretrained(folder)
    assert config.do_sample and config.temperature == 0.7
    never = {*agent.policy.actor.forbidden_ids,
             *range(tokenizer.num_actions, agent.policy.actor.num_tokens)}  # fmt: skip
    assert set(config.suppress_tokens or ()) == never
    lm = AutoModelForCausalLM.from_pretrained(folder).eval()
    auto = AutoTokenizer.from_pretrained(folder)
    ids = auto("the film is", return_tensors="pt")
    with torch.no_grad():
        out = lm.generate(**ids, max_new_tokens=1, return_dict_in_generate=True,
                          output_scores=True, num_return_sequences=1)  # fmt: skip
    length = ids["input_ids"].shape[1]
    row = np.full((1, 28), tokenizer.pad_id)
    row[0, 20 - length : 20] = ids["input_ids"][0]
    wanted = agent.policy.get_distribution(torch.from_numpy(row)).distribution.probs[0]
    found = out.scores[0][0].softmax(0)
    torch.testing.assert_close(found[: len(wanted)], wanted, rtol=1e-4, atol=1e-6)
    assert found[len(wanted) :].sum() == 0


def test_a_pipeline_writes_what_the_policy_likes_most(tokenizer: Any, tmp_path: Path) -> None:
    agent = agent_for(tokenizer)
    agent.save(tmp_path / "agent")
    folder = tmp_path / "agent" / "policy" / "lm"
    write = pipeline("text-generation", model=str(folder), device="cpu")
    for prompt in PROMPTS[:3]:
        ids = list(tokenizer.encode_prompt(prompt))
        row = np.full((1, 28), tokenizer.pad_id)
        row[0, 20 - len(ids) : 20] = ids
        written: list[int] = []
        for column in range(20, 28):
            token = int(agent.predict(row, deterministic=True)[0][0])
            row[0, column] = token
            written.append(token)
            if token == tokenizer.eos_id:
                break
        config = GenerationConfig.from_pretrained(
            folder, do_sample=False, temperature=None, top_k=None, top_p=None, max_new_tokens=8
        )
        text = write(prompt, generation_config=config, return_full_text=False)
        assert text[0]["generated_text"].strip() == tokenizer.decode(written).strip()


def test_what_was_written_reads_back_here_too(tokenizer: Any, tmp_path: Path) -> None:
    agent = agent_for(tokenizer)
    agent.save(tmp_path / "agent")
    lm, own = load_lm(tmp_path / "agent")
    assert own == tokenizer
    assert load_tokenizer(tmp_path / "agent") == tokenizer
    again = agent_for(tokenizer, model=tmp_path / "agent")
    for one, two in zip(agent.policy.actor.lm.parameters(), again.policy.actor.lm.parameters(),
                        strict=True):  # fmt: skip
        assert torch.equal(one, two)
    again.save(tmp_path / "again")
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        files = [tmp_path / where / "policy" / "lm" / name for where in ("agent", "again")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    assert lm.config.vocab_size == agent.policy.actor.lm.config.vocab_size


@pytest.mark.parametrize("kind", ["instructions", "returns"])
def test_appended_tokens_are_never_generated(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    if kind == "instructions":
        agent = agent_for(tokenizer, policy="InstructedPolicy")
    else:
        agent = agent_for(
            tokenizer, policy=ReturnConditionedPolicy, policy_kwargs={"returns": [0.0, 1.0]}
        )
    agent.save(tmp_path / "agent")
    folder = tmp_path / "agent" / "policy" / "lm"
    auto = AutoTokenizer.from_pretrained(folder)
    same_ids(auto, tokenizer)
    lm = AutoModelForCausalLM.from_pretrained(folder).eval()
    rows = lm.get_input_embeddings().weight.shape[0]
    assert rows > tokenizer.vocab_size
    torch.manual_seed(0)
    ids = auto(["the film is"] * 64, return_tensors="pt")
    written = lm.generate(**ids, max_new_tokens=8)[:, ids["input_ids"].shape[1] :]
    allowed = (written < tokenizer.num_actions) | (written == tokenizer.pad_id)
    assert bool(allowed.all())
    given = {} if kind == "instructions" else {"policy": ReturnConditionedPolicy}
    again = agents.PPO.load(tmp_path / "agent", device="cpu", **given)
    obs = agent.env.reset()
    wanted = agent.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(again.predict(obs, deterministic=True)[0], wanted)


def test_an_encoder_decoder(tokenizer: Any, tmp_path: Path) -> None:
    agent = agent_for(tokenizer, policy="Seq2SeqPolicy", model=tiny_t5(tokenizer.vocab_size))
    agent.save(tmp_path / "agent")
    folder = tmp_path / "agent" / "policy" / "lm"
    same_ids(AutoTokenizer.from_pretrained(folder), tokenizer)
    lm = AutoModelForSeq2SeqLM.from_pretrained(folder)
    for one, two in zip(lm.parameters(), agent.policy.actor.lm.parameters(), strict=True):
        assert torch.equal(one, two)
    again = agent_for(tokenizer, policy="Seq2SeqPolicy", model=tmp_path / "agent")
    assert again.policy.tokenizer == tokenizer


def test_the_bundled_model_stays_readable(tmp_path: Path) -> None:
    agent = agents.PPO("CausalLMPolicy", "text_envs/Reviews-v0", n_episodes=8, device="cpu")
    agent.save(tmp_path / "agent")
    auto = AutoTokenizer.from_pretrained(tmp_path / "agent" / "policy" / "lm")
    bundled = load_tokenizer("reviews")
    same_ids(auto, bundled)
    assert auto.padding_side == "left" and auto.model_max_length == 128


def test_the_reference_of_a_checkpoint_is_a_model_too(tmp_path: Path) -> None:
    agent = agent_for(words(), kl_coef=0.1)
    agent.save(tmp_path / "agent")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "agent" / "reference")
    for one, two in zip(lm.parameters(), agent.reference.lm.parameters(), strict=True):
        assert torch.equal(one, two)
