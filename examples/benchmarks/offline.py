"""Part `offline`: tokens a second of ILQL and LM training, of guided and plain decoding.

Training goes once through the same recorded episodes, in the same minibatches, on the bundled model
and its 4,000 words (Reviews) and on a small model from scratch (Wordle). A token is one the agent
wrote. The contenders:

- ILQL, one update a minibatch: the value trunk forward and backward, its target forward, both Q
  heads over all words, the step and the move of the target; "joint" trains the language model too;
- plain LM training: forward and backward pass of the cross entropy of the same tokens, gradients
  clipped, one Adam step a minibatch, as everybody writes it.

Decoding plays the same environment, `policy.predict(obs)` and `env.step(actions)`, with the end of
text forbidden, by the language model alone and guided by values: "guided" runs the language model
and the target of Q, "clipped" the trunk of V as well.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

import text_envs
from agents import CausalLMPolicy, policy_kwargs_for
from agents.data.batches import OfflineBatch
from agents.ilql import ILQL
from agents.policies.value_guided import ValueGuidedPolicy
from benchmarks.lm import on_threads
from benchmarks.measure import Contender, Row, compare, interleave

__all__ = ["measure"]

UNIT = "tokens/s"
SCRATCH = {"width": 128, "heads": 4}


class PlainTraining:
    """Language model training as everybody writes it."""

    def __init__(self, lm: Any, pad_id: int) -> None:
        self.lm, self.pad_id = copy.deepcopy(lm).requires_grad_(True), pad_id
        self.optimizer = torch.optim.Adam(self.lm.parameters(), lr=0.0)

    def step(self, batch: OfflineBatch) -> None:
        """Train on a minibatch, at learning rate 0."""
        filled = batch.tokens != self.pad_id
        ids = batch.tokens.masked_fill(~filled, 0)
        hidden = self.lm.base_model(
            input_ids=ids, attention_mask=filled.long(), use_cache=False
        ).last_hidden_state
        labels = torch.full_like(ids, -100)
        row = batch.mask.nonzero()[:, 0]
        labels[row, batch.columns[batch.mask]] = batch.actions[batch.mask]
        # No column before the first action says anything: their scores are not computed.
        first = int(batch.columns[:, 0].min())
        scores = self.lm.get_output_embeddings()(hidden[:, first:])
        loss = functional.cross_entropy(scores.flatten(0, 1), labels[:, first:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.lm.parameters(), 1.0)
        self.optimizer.step()


def _epoch(step: Callable[[OfflineBatch], Any], batches: list[OfflineBatch]) -> Contender:
    tokens = sum(batch.num_steps for batch in batches)

    def stretch() -> float:
        begin = time.perf_counter()
        for batch in batches:
            step(batch)
        return tokens / (time.perf_counter() - begin)

    return stretch


def _training(env_id: str, model: Any, episodes: int, sequences: int) -> dict[str, Contender]:
    env = text_envs.make_sb3(env_id, num_envs=1)
    quality = "random" if "Reviews" in env_id else "mixed"
    data = env.get_attr("task")[0].demonstrations(episodes, quality=quality, seed=0)
    contenders: dict[str, Contender] = {}
    for name, weight in (("ILQL", 0.0), ("ILQL joint", 1.0)):
        torch.manual_seed(0)
        agent = ILQL(
            env=env, dataset=data, learning_rate=0.0, awac_weight=weight,
            policy_kwargs={"model": model}, seed=0, device="cpu",
        )  # fmt: skip
        assert agent.data is not None
        order = agent.data.lengths.argsort().split(sequences)
        batches = [agent.data.select(index) for index in order]
        contenders[name] = _epoch(agent.train_step, batches)
    actor = agent.policy.actor
    contenders["plain LM training"] = _epoch(PlainTraining(actor.lm, actor.pad_id).step, batches)
    return contenders


def _decoding(env_id: str, model: Any, num_envs: int, steps: int) -> dict[str, Contender]:
    env = text_envs.make_sb3(env_id, num_envs=num_envs)
    eos = env.get_attr("tokenizer")[0].eos_id
    may_end = env.get_attr("task")[0].multi_turn  # a dialogue needs its ends of turns
    arguments = policy_kwargs_for(env, model)
    if not may_end:
        arguments["forbidden"] = sorted({*arguments["forbidden"], eos})
    spaces = (env.observation_space, env.action_space, lambda _: 0.0)
    plain = CausalLMPolicy(*spaces, **copy.deepcopy(arguments))
    guided = ValueGuidedPolicy(*spaces, beta=1.0, **copy.deepcopy(arguments))
    clipped = ValueGuidedPolicy(*spaces, beta=1.0, advantage_clip=1.0, **copy.deepcopy(arguments))

    def play(policy: CausalLMPolicy) -> Contender:
        def stretch() -> float:
            policy.actor.invalidate()
            begin = time.perf_counter()
            obs: Any = env.reset()
            for _ in range(steps):
                actions, _ = policy.predict(obs, deterministic=False)
                obs, _, _, _ = env.step(actions)
            return steps * num_envs / (time.perf_counter() - begin)

        return stretch

    return {"plain": play(plain), "guided": play(guided), "guided, clipped": play(clipped)}


def measure(quick: bool, seed: int, threads: list[int]) -> list[Row]:
    """Return the rows of this part."""
    rows = []
    rounds = 2 if quick else 5
    tasks: list[tuple[str, Any]] = [
        ("text_envs/Reviews-v0", "reviews"),
        ("text_envs/Wordle-v0", SCRATCH),
    ]
    for count in threads:
        label = on_threads(count)
        for env_id, model in tasks:
            torch.manual_seed(seed)
            name = env_id.split("/")[1]
            episodes, sequences = (4, 2) if quick else (128, 32)
            speeds = interleave(_training(env_id, model, episodes, sequences), rounds)
            num_envs, steps = (4, 4) if quick else (64, 48)
            played = interleave(_decoding(env_id, model, num_envs, steps), rounds)
            for measured, ours, against in (
                (speeds, "ILQL", "plain LM training"),
                (speeds, "ILQL joint", "plain LM training"),
                (played, "guided", "plain"),
                (played, "guided, clipped", "plain"),
            ):
                row = compare(
                    measured, ours, against, part="offline", case=f"{name}, {label}", unit=UNIT,
                    target=1 / 3 if ours == "guided" else None,
                )  # fmt: skip
                print(row, flush=True)
                rows.append(row)
    return rows
