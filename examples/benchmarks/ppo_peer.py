"""A contestant of `peers`: `agents.PPO` until the goal is reached; prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import sys

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import PPO
from benchmarks.goal import Goal, GoalReached
from benchmarks.peers import COMPLETIONS, add_arguments

__all__ = ["main"]


class _Watch(BaseCallback):
    def __init__(self, goal: Goal) -> None:
        super().__init__()
        self.goal = goal

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.goal.saw(self.locals["rollout"].episode_rewards.mean().item())


def _make(args: argparse.Namespace) -> PPO:
    return PPO(
        "CausalLMPolicy",
        "text_envs/Reviews-v0",
        policy_kwargs={"model": "reviews"},
        learning_rate=args.rate,
        n_episodes=COMPLETIONS,
        batch_size=COMPLETIONS // args.steps,
        n_epochs=1,
        kl_coef=0.0,
        seed=args.seed,
        device="cpu",
    )


def main() -> None:
    """Train once to warm up, then against the clock."""
    args = add_arguments(argparse.ArgumentParser(description=__doc__)).parse_args()
    torch.set_num_threads(args.threads)
    _make(args).learn(1)
    goal = Goal(args.goal, args.seconds)
    ppo = _make(args)
    goal.start()
    try:
        ppo.learn(sys.maxsize, callback=_Watch(goal))
    except GoalReached:
        print(json.dumps(goal.report()))


if __name__ == "__main__":
    main()
