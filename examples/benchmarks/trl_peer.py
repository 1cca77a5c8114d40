"""A contestant of `peers`: TRL's RLOO or GRPO trainer; runs in .venv-trl, prints a line of JSON.

Settings that TRL would choose for large models on accelerators are set to what is fastest here:
no bf16, no gradient checkpointing, no reports, no checkpoints. The learning rate stays constant
and there is no KL term, as for every contestant.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

import text_envs
from benchmarks.goal import Goal, GoalReached
from benchmarks.peers import COMPLETIONS, add_arguments
from text_envs.rewards.sentiment import Sentiment
from text_envs.tasks.reviews import Reviews

__all__ = ["main"]

ASSETS = Path(text_envs.__file__).parent / "assets" / "reviews"
TRAINERS = {
    "RLOO": (trl.RLOOConfig, trl.RLOOTrainer),
    "GRPO": (trl.GRPOConfig, trl.GRPOTrainer),
}


def _reward(goal: Goal) -> Any:
    sentiment = Sentiment()
    eos, pad = sentiment.tokenizer.eos_id, sentiment.tokenizer.pad_id

    def score(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        tokens = np.full((len(completion_ids), max(map(len, completion_ids))), pad)
        for row, ids in enumerate(completion_ids):
            words = [token for token in ids if token != eos]
            tokens[row, : len(words)] = words
        rewards = sentiment.score_tokens(tokens)
        assert len(rewards) == COMPLETIONS, "an iteration is one call of the reward"
        goal.saw(float(rewards.mean()))
        return [float(reward) for reward in rewards]

    return score


def _trainer(args: argparse.Namespace, goal: Goal, folder: str, max_steps: int) -> Any:
    config_class, trainer_class = TRAINERS[args.method]
    task = Reviews()
    config = config_class(
        output_dir=folder,
        learning_rate=args.rate,
        lr_scheduler_type="constant",
        per_device_train_batch_size=COMPLETIONS // args.steps,
        steps_per_generation=args.steps,
        gradient_accumulation_steps=1,
        num_generations=8,  # of one prompt; what GRPO does anyway, and better for RLOO than its 2
        num_iterations=1,
        max_steps=max_steps,
        max_completion_length=task.max_tokens,
        temperature=1.0,
        beta=0.0,
        disable_dropout=True,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        seed=args.seed,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        ASSETS, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return trainer_class(
        model=model,
        args=config,
        reward_funcs=_reward(goal),
        train_dataset=Dataset.from_list([{"prompt": x.prompt} for x in task.examples]),
        processing_class=AutoTokenizer.from_pretrained(ASSETS, trust_remote_code=False),
    )


def main() -> None:
    """Train once to warm up, then against the clock."""
    args = add_arguments(argparse.ArgumentParser(description=__doc__)).parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        _trainer(args, Goal(2.0, 1e9), folder, max_steps=args.steps).train()
        goal = Goal(args.goal, args.seconds)
        trainer = _trainer(args, goal, folder, max_steps=1_000_000)
        goal.start()
        try:
            trainer.train()
        except GoalReached:
            print(json.dumps(goal.report()))


if __name__ == "__main__":
    main()
