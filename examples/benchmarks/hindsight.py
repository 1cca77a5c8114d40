"""Part `hindsight`: HIR's checking, relabelling and update against plain LM training.

The roll-out is played once: 256 answers to LogicalDeductionThreeGoal-v0 by an untrained model of 2
layers. Contenders, in sequences a second:

- checking and relabelling: the reward model judges all texts, each gets the instruction it
  reached and goes to the history; a sequence is a text;
- HIR update: one epoch over the history in minibatches of 64 with the contrast between two
  instructions, so that a sequence is a text under one of them; once more with the entropy loss;
- plain LM training: forward and backward pass of the cross entropy of the same answers behind
  their instructions, gradients clipped, one Adam step a minibatch; a sequence is a text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import configure

import text_envs
from agents import HIR
from agents.data.history import History
from agents.data.relabelling import levels_of, relabel
from agents.rollouts.rollout import Rollout
from benchmarks.control import PlainTraining
from benchmarks.lm import on_threads
from benchmarks.measure import Contender, Row, compare, interleave
from text_envs import EpisodeBatch

__all__ = ["measure"]

UNIT = "sequences/s"
PLAIN = "plain LM training"


def _agent(num_envs: int, episodes: int, sequences: int, seed: int) -> HIR:
    env = text_envs.make_sb3("text_envs/LogicalDeductionThreeGoal-v0", num_envs=num_envs)
    agent = HIR(
        "CausalLMPolicy", env, n_episodes=episodes, n_epochs=1, batch_size=sequences, seed=seed,
        ent_coef=0.0, learning_rate=0.0, weight_decay=0.0,  # the same weights in every round
        device="cpu",
    )  # fmt: skip
    agent.learn(1)
    agent.set_logger(configure(None, []))
    return agent


def _checking(agent: HIR, rollout: Rollout) -> Callable[[], None]:
    """Return what judges and relabels the texts of a roll-out."""
    assert agent.env is not None
    task, model = (agent.env.get_attr(name)[0] for name in ("task", "reward_model"))
    infos = rollout.infos
    tokens, columns = rollout.tokens.numpy(), rollout.columns.numpy()
    length, examples = rollout.lengths.numpy(), np.array([i["example_index"] for i in infos])
    roles, reasons = np.stack([i["roles"] for i in infos]), [i["finish_reason"] for i in infos]

    def run() -> None:
        episodes = EpisodeBatch(
            tokens, roles, prompt_length=task.prompt_length, tokenizer=task.tokenizer,
            example_indices=examples, finish_reasons=reasons, get_example=task.example,
        )  # fmt: skip
        achieved = levels_of(model(episodes), [0.5])
        goals = relabel(achieved, np.ones_like(achieved))
        history = History(tokens.shape[1], task.max_tokens)
        history.add(tokens, columns, np.zeros(len(tokens)), length, goals, examples)

    return run


def _contenders(num_envs: int, episodes: int, sequences: int, seed: int) -> dict[str, Contender]:
    agent = _agent(num_envs, episodes, sequences, seed)
    rollout = agent.rollout
    assert rollout is not None
    actor: Any = agent.policy.actor
    instructed = torch.from_numpy(actor.put(rollout.tokens.numpy(), None))
    shown = replace(rollout, tokens=instructed, columns=rollout.columns + actor.front)
    plain = PlainTraining(agent.policy, sequences)
    everything = np.arange(episodes)

    def update(ent_coef: float) -> Callable[[], None]:
        def run() -> None:
            agent.ent_coef = ent_coef
            stats: Any = {
                name: []
                for name in (
                    "supervised_loss", "contrastive_loss", "contrast_accuracy", "entropy_loss",
                    "loss", "grad_norm",
                )
            }  # fmt: skip
            for start in range(0, episodes, sequences):
                agent._step(agent.history.batch(everything[start : start + sequences]), stats)

        return run

    def timed(run: Callable[[], None], passes: int, times: int = 1) -> Contender:
        def stretch() -> float:
            begin = time.perf_counter()
            for _ in range(times):
                run()
            return times * passes * episodes / (time.perf_counter() - begin)

        return stretch

    return {
        "checking, relabelling": timed(_checking(agent, rollout), 1, 20),
        "HIR update": timed(update(0.0), 2),
        "HIR update, entropy": timed(update(0.001), 2),
        PLAIN: timed(lambda: plain.epoch(shown), 1),
    }


def measure(quick: bool, seed: int, threads: list[int]) -> list[Row]:
    """Return the rows of this part."""
    num_envs, episodes, sequences = (4, 8, 4) if quick else (64, 256, 64)
    rows = []
    for count in threads:
        case = f"{episodes} texts, {on_threads(count)}"
        speeds = interleave(_contenders(num_envs, episodes, sequences, seed), 2 if quick else 15)
        for ours, target in (
            ("checking, relabelling", 20.0),
            ("HIR update", 1.0),
            ("HIR update, entropy", 1.0),
        ):
            row = compare(
                speeds, ours, PLAIN, part="hindsight", case=case, unit=UNIT, target=target
            )
            print(row, flush=True)
            rows.append(row)
    return rows
