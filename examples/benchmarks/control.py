"""Part `control`: texts a second of DPG's and RLOO's updates, the reference pass included.

The roll-out is played once: 64 episodes on the bundled model. The contenders go through it in
minibatches of 16 episodes:

- DPG: log-probabilities under the reference, importance weights, one forward and backward pass;
- RLOO: log-probabilities under the reference, penalties, advantages, one forward and backward pass;
- plain LM training: forward and backward pass of the cross entropy of the same tokens, gradients
  clipped, one Adam step a minibatch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.logger import configure
from torch.nn import functional

import text_envs
from agents import DPG, RLOO, CausalLMPolicy
from agents.rollouts.episodes import collect_episodes, score
from agents.rollouts.rollout import Rollout
from benchmarks.lm import on_threads
from benchmarks.measure import Contender, Row, compare, interleave

__all__ = ["measure"]

UNIT = "texts/s"


class PlainTraining:
    """Language model training as everybody writes it."""

    def __init__(self, policy: CausalLMPolicy, sequences: int) -> None:
        self.actor = copy.deepcopy(policy.actor)
        self.sequences = sequences
        parameters = [p for p in self.actor.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=0.0)
        self.parameters = parameters

    def epoch(self, rollout: Rollout) -> None:
        """Go through the episodes once."""
        lm: Any = self.actor.lm
        for index in rollout.minibatches(self.sequences):
            tokens = rollout.tokens[index]
            filled = tokens != self.actor.pad_id
            ids = tokens.masked_fill(~filled, 0)
            hidden = lm.base_model(
                input_ids=ids, attention_mask=filled.long(), use_cache=False
            ).last_hidden_state
            mask = rollout.mask[index]
            first = int(rollout.columns[0, 0])
            scores = lm.get_output_embeddings()(hidden[:, first : first + mask.shape[1]])
            actions = rollout.actions[index].masked_fill(~mask, -100)
            loss = functional.cross_entropy(scores.flatten(0, 1), actions.flatten())
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()


def _contenders(num_envs: int, max_tokens: int, sequences: int, seed: int) -> dict[str, Contender]:
    def env() -> Any:
        return text_envs.make_sb3("text_envs/Reviews-v0", num_envs=num_envs, max_tokens=max_tokens)

    common: dict[str, Any] = {
        "n_episodes": num_envs, "batch_size": sequences, "seed": seed, "device": "cpu",
        "learning_rate": 0.0,  # the same weights in every round
    }  # fmt: skip
    group = min(num_envs, 16)
    dpg = DPG("CausalLMPolicy", env(), beta=0.3, group_size=group, **common)
    rloo = RLOO("CausalLMPolicy", env(), kl_coef=0.1, group_size=min(num_envs, 4), **common)
    rollout = collect_episodes(dpg.policy, dpg.env, num_envs, dpg.env.reset()).rollout
    plain = PlainTraining(dpg.policy, sequences)

    def update(agent: Any) -> Callable[[], None]:
        agent.set_logger(configure(None, []))
        agent.rollout = rollout

        def run() -> None:
            rollout.ref_log_probs = score(agent.reference, rollout)
            agent.train()

        return run

    def timed(run: Callable[[], None]) -> Contender:
        def stretch() -> float:
            begin = time.perf_counter()
            run()
            return len(rollout) / (time.perf_counter() - begin)

        return stretch

    return {
        "DPG update": timed(update(dpg)),
        "RLOO update": timed(update(rloo)),
        "plain LM training": timed(lambda: plain.epoch(rollout)),
    }


def measure(quick: bool, seed: int, threads: list[int]) -> list[Row]:
    """Return the rows of this part."""
    num_envs, max_tokens, sequences = (4, 4, 2) if quick else (64, 48, 16)
    rows = []
    for count in threads:
        case = f"{num_envs} texts of up to {max_tokens}, {on_threads(count)}"
        speeds = interleave(_contenders(num_envs, max_tokens, sequences, seed), 2 if quick else 15)
        for ours in ("DPG update", "RLOO update"):
            row = compare(
                speeds, ours, "plain LM training", part="control", case=case, unit=UNIT, target=0.5
            )
            print(row, flush=True)
            rows.append(row)
    return rows
