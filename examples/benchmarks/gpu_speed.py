"""Tokens a second on a device: roll-outs against `generate`, updates against a bare pass.

The environment has 49,152 words and the texts a fixed length. A roll-out is the collector's, the
environment included. `generate` of transformers samples from the plain distribution, with the same
model, prompts and numbers of tokens. An update is `PPO.train` with one epoch, value loss and
optimiser; a bare pass the forward and backward pass of the cross entropy of the same tokens in the
same minibatches, without an optimiser.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.logger import configure
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from agents import PPO
from agents.rollouts.episodes import collect_episodes
from benchmarks.measure import compare, interleave
from text_envs import Example, Task
from text_envs.envs.vec_env import TokenVecEnv
from text_envs.envs.vector import TokenVectorEnv
from text_envs.lm.loading import load_lm
from text_envs.tokenizers import WordTokenizer

__all__ = ["SHAPES", "Shape", "measure_model"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model of Llama's kind, and of what it writes.

    Attributes:
        width: of the hidden states.
        inner: of the feed-forward layers.
        layers: number of layers.
        heads: of the queries.
        key_heads: of keys and values.
        words: of the vocabulary.
        dtype: of the weights.
        rows: texts written at once.
        tokens: of each text.
        batch: texts a minibatch.
    """

    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    words: int
    dtype: torch.dtype
    rows: int = 64
    tokens: int = 64
    batch: int = 16


SHAPES = {
    "SmolLM2-135M, float32": Shape(576, 1536, 30, 9, 3, 49_152, torch.float32),
    "SmolLM2-135M, bfloat16": Shape(576, 1536, 30, 9, 3, 49_152, torch.bfloat16),
    "1.7B shape, bfloat16": Shape(2048, 8192, 24, 32, 32, 49_152, torch.bfloat16),
}
TINY = {"tiny": Shape(16, 24, 2, 4, 2, 300, torch.float32, rows=4, tokens=4, batch=2)}


def _model(shape: Shape, folder: str | None, device: str) -> Any:
    if folder is not None:
        return load_lm(folder, device=device, dtype=shape.dtype)[0]
    config = LlamaConfig(
        vocab_size=shape.words, hidden_size=shape.width, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(config).to(shape.dtype).eval()


def _task(shape: Shape) -> Task:
    # The last action ends a text; padding and begin token are the model's last rows.
    tokenizer = WordTokenizer([f"w{i}" for i in range(shape.words - 4)])
    assert tokenizer.vocab_size <= shape.words, (tokenizer.vocab_size, shape.words)
    prompts = [" ".join(f"w{(7 * i + j) % 97}" for j in range(7)) for i in range(64)]
    return Task(
        [Example(prompt) for prompt in prompts],
        tokenizer=tokenizer, prompt_length=8, max_tokens=shape.tokens,
    )  # fmt: skip


def _timed(run: Callable[[], Any], tokens: int, device: str) -> Callable[[], float]:
    def stretch() -> float:
        _finish(device)
        begin = time.perf_counter()
        run()
        _finish(device)
        return tokens / (time.perf_counter() - begin)

    return stretch


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _generate(lm: Any, env: TokenVecEnv, shape: Shape, device: str) -> None:
    columns = env.env.task.prompt_length
    prompts = torch.from_numpy(env.reset()[:, :columns]).to(device)
    lm.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=shape.tokens,
        eos_token_id=None, pad_token_id=env.env.tokenizer.pad_id, bos_token_id=None,
    )  # fmt: skip
    written = lm.generate(inputs=prompts, attention_mask=torch.ones_like(prompts))
    assert written.shape == (shape.rows, columns + shape.tokens), "generate stopped early"


def _bare(lm: Any, rollout: Any, shape: Shape) -> None:
    first = int(rollout.columns[0, 0])
    for start in range(0, shape.rows, shape.batch):
        rows = slice(start, start + shape.batch)
        lm.zero_grad()
        hidden = lm.base_model(input_ids=rollout.tokens[rows, :-1], use_cache=False)
        scores = lm.get_output_embeddings()(hidden.last_hidden_state[:, first:]).float()
        functional.cross_entropy(scores.flatten(0, 1), rollout.actions[rows].flatten()).backward()


def measure_model(
    name: str, shape: Shape, folder: str | None, device: str, rounds: int
) -> dict[str, Any]:
    """Return speeds of roll-outs and updates of one model, and the most memory the GPU held."""
    lm = _model(shape, folder, device)
    env = TokenVecEnv(TokenVectorEnv(_task(shape), num_envs=shape.rows, reward="length"))
    eos = env.env.tokenizer.eos_id
    agent = PPO(
        "CausalLMPolicy", env, n_episodes=shape.rows, batch_size=shape.batch, device=device,
        learning_rate=1e-9, seed=0, policy_kwargs={"model": lm, "forbidden": [eos]},
    )  # fmt: skip
    agent.lr_schedule = lambda _: 0.0
    agent.set_logger(configure(None, []))
    policy = agent.policy
    lm = policy.actor.lm  # what became of it
    agent.rollout = collect_episodes(policy, env, shape.rows, env.reset()).rollout.to(device)
    tokens = shape.rows * shape.tokens

    def collect() -> None:
        policy.actor.invalidate()
        collect_episodes(policy, env, shape.rows, env.reset())

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    rows = []
    for ours, run, against, other in (
        ("roll-out", collect, "generate", lambda: _generate(lm, env, shape, device)),
        ("PPO.train", agent.train, "bare pass", lambda: _bare(lm, agent.rollout, shape)),
    ):
        contenders = {ours: _timed(run, tokens, device), against: _timed(other, tokens, device)}
        speeds = interleave(contenders, rounds)
        case = f"{name}, B={shape.rows}, T={shape.tokens}"
        rows.append(
            compare(speeds, ours, against, part="gpu", case=case, unit="tokens/s").as_dict()
        )
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else None
    weights = "as in its folder" if folder is not None else "random"
    return {"model": name, "weights": weights, "rows": rows, "peak_gib": peak}
