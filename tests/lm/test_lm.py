"""Loading models by name, path and object."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import text_envs
from agents import PPO, freeze, load_lm
from text_envs.tokenizers import HFTokenizer


@pytest.fixture(scope="module")
def hub_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 saved as the hub has it: no padding token, the old activation."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["the film is"], vocab_size=262, special_tokens=["<|endoftext|>"])
    config = GPT2Config(
        vocab_size=bpe.get_vocab_size(), n_positions=64, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(path)
    bare = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    bare.save_pretrained(path)
    return path


def test_a_folder_gives_model_and_tokenizer(hub_model: Path, caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        model, tokenizer = load_lm(hub_model)
    assert isinstance(tokenizer, HFTokenizer) and not model.training
    rows = model.get_input_embeddings().weight.shape[0]
    assert tokenizer.vocab_size == rows
    assert tokenizer.pad_id == rows - 1 != tokenizer.eos_id
    assert "padding token added" in caplog.text and "embeddings resized" in caplog.text


def test_the_faster_activation_is_the_same_function(hub_model: Path) -> None:
    from transformers import GPT2LMHeadModel

    plain = GPT2LMHeadModel.from_pretrained(hub_model).eval()
    fast, _ = load_lm(hub_model)
    ids = torch.arange(20)[None]
    rows = plain.config.vocab_size
    torch.testing.assert_close(
        plain(ids).logits, fast(ids).logits[..., :rows], rtol=1e-4, atol=1e-5
    )
    assert "NewGELU" in repr(plain) and "NewGELU" not in repr(fast)


def test_a_model_passes_through(gpt2: Any) -> None:
    lm = gpt2(20)
    model, tokenizer = load_lm(lm)
    assert model is lm and tokenizer is None


def test_names_that_are_not_found() -> None:
    with pytest.raises(ValueError, match=r"no language model 'reveiws'. Did you mean 'reviews'\?"):
        load_lm("reveiws")
    with pytest.raises(ValueError, match="no causal language model '/nowhere/at/all'"):
        load_lm("/nowhere/at/all")
    with pytest.raises(TypeError, match="got int"):
        load_lm(3)  # type: ignore[arg-type]


def test_pickled_weights_are_not_read(tmp_path: Path, gpt2: Any) -> None:
    lm = gpt2(20)
    lm.config.save_pretrained(tmp_path)
    torch.save(lm.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        load_lm(tmp_path)


def test_freeze(gpt2: Any) -> None:
    lm = gpt2(20)
    frozen = freeze(lm)
    assert frozen is not lm and not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in lm.parameters())


def test_ppo_on_a_foreign_tokenizer(hub_model: Path) -> None:
    """The main job with a tokenizer of the hub's kind: padding added, special ids barred."""
    model, tokenizer = load_lm(hub_model)
    assert tokenizer is not None
    task = text_envs.Task(
        [text_envs.Example("the film is"), text_envs.Example("")],
        tokenizer=tokenizer, prompt_length=12, max_tokens=5,
    )  # fmt: skip
    env = text_envs.TokenVectorEnv(task, num_envs=4, reward=lambda e: np.ones(len(e)))
    agent = PPO(
        "CausalLMPolicy", env, n_episodes=8, batch_size=4, n_epochs=1, kl_coef=0.1, seed=0,
        device="cpu", policy_kwargs={"model": model},
    )  # fmt: skip
    agent.learn(60)
    assert agent.rollout is not None
    written = agent.rollout.actions[agent.rollout.mask]
    assert not tokenizer.forbidden[written.numpy()].any()


@pytest.mark.skipif(
    not (Path(text_envs.__file__).parent / "assets/reviews/model.safetensors").exists(),
    reason="the bundled model is not built",
)
def test_the_bundled_model() -> None:
    model, tokenizer = load_lm("reviews")
    assert tokenizer is not None
    assert model.get_input_embeddings().weight.shape[0] >= tokenizer.num_actions
