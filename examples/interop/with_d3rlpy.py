"""d3rlpy trains on an exported data set and plays in the environment that the data set brings.

    python examples/interop/run.py --only d3rlpy

Random walks of 8 commands in a small maze are recorded here, written as a Minari data set, read
back by Minari, and given to d3rlpy's behaviour cloning and conservative Q-learning. Greedy
imitation of walks gets stuck; Q-learning puts pieces of walks together. d3rlpy pins Gymnasium 1.0,
so this runs in a virtual environment of its own, which is also a test that `text_envs` works with
that release.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import d3rlpy
import minari
import numpy as np
import torch
from d3rlpy.algos import DiscreteBCConfig, DiscreteCQLConfig
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.metrics import evaluate_qlearning_with_environment
from d3rlpy.models.encoders import Encoder, EncoderFactory, register_encoder_factory
from row import finish

from text_envs import datasets

LAYOUT = "u"


class LastTokens(Encoder):
    """An embedding of the last tokens of a text, wherever in the row they stand."""

    def __init__(self, vocab_size: int, pad_id: int, keep: int, width: int) -> None:
        super().__init__()
        self.pad_id, self.keep = pad_id, keep
        self.embedding = torch.nn.Embedding(vocab_size, 16)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(16 * keep, width), torch.nn.ReLU(),
            torch.nn.Linear(width, width), torch.nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features `(B, width)` of observations `(B, L)`, which d3rlpy makes floats."""
        tokens = x.long()
        last = tokens.shape[1] - 1 - (tokens != self.pad_id).flip(1).int().argmax(dim=1)
        columns = last[:, None] - torch.arange(self.keep, device=x.device)  # (B, keep)
        recent = tokens.gather(1, columns.clamp(min=0))
        features: torch.Tensor = self.layers(self.embedding(recent).flatten(1))
        return features


@dataclass()
class LastTokensFactory(EncoderFactory):
    """d3rlpy's way to make the encoder above."""

    vocab_size: int
    pad_id: int
    keep: int = 8
    width: int = 128

    def create(self, observation_shape: Any) -> LastTokens:
        """Return a new encoder."""
        return LastTokens(self.vocab_size, self.pad_id, self.keep, self.width)

    @staticmethod
    def get_type() -> str:
        """Return the name under which d3rlpy saves it."""
        return "last_tokens"


register_encoder_factory(LastTokensFactory)


def read(dataset: minari.MinariDataset) -> d3rlpy.dataset.MDPDataset:
    """Return the episodes as d3rlpy has them: T observations for T actions.

    `d3rlpy.datasets.get_minari` of 2.8.1 keeps Minari's T + 1 observations of every episode and
    counts T, which moves the observations of all episodes but the first; it also refuses an
    environment without an outer limit of steps, as those of this suite are.
    """
    episodes = list(dataset.iterate_episodes())
    return d3rlpy.dataset.MDPDataset(
        observations=np.concatenate([e.observations[:-1] for e in episodes]),
        actions=np.concatenate([e.actions for e in episodes]),
        rewards=np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        terminals=np.concatenate([e.terminations for e in episodes]).astype(np.float32),
        timeouts=np.concatenate([e.truncations for e in episodes]).astype(np.float32),
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=int(dataset.action_space.n),  # type: ignore[attr-defined]
    )


def run(episodes: int, steps: int, trials: int, seed: int) -> dict[str, float]:
    """Export, train both algorithms and return mean returns."""
    torch.set_num_threads(1)
    d3rlpy.seed(seed)
    recorded = datasets.recipe("maze-walks", episodes, seed=seed, layout=LAYOUT)
    exported = datasets.to_minari(recorded, "maze/u-walks-v0")
    assert datasets.from_minari(exported) == recorded, "the export must lose nothing"
    env = exported.recover_environment()
    text_env: Any = env.unwrapped
    encoder = LastTokensFactory(text_env.tokenizer.vocab_size, text_env.tokenizer.pad_id)
    data = read(minari.load_dataset("maze/u-walks-v0"))
    # The data are cut after 8 commands; on whole games the walks that they are of earn this.
    walks = text_env.task.demonstrations(trials, quality="walk", seed=seed)
    returns = {"walk": float(walks.returns.mean())}
    for name, config in (
        ("BC", DiscreteBCConfig(batch_size=128, encoder_factory=encoder)),
        (
            "CQL",
            DiscreteCQLConfig(
                batch_size=128, learning_rate=1e-3, gamma=0.99, alpha=0.1,
                target_update_interval=100, encoder_factory=encoder,
            ),
        ),
    ):  # fmt: skip
        algorithm = config.create(device="cpu:0")
        algorithm.fit(
            data, n_steps=steps, n_steps_per_epoch=steps, show_progress=False,
            logger_adapter=NoopAdapterFactory(),
        )  # fmt: skip
        env.reset(seed=seed)
        returns[name] = evaluate_qlearning_with_environment(algorithm, env, n_trials=trials)
    returns["expert"] = float(text_env.task.demonstrations(trials, seed=seed).returns.mean())
    assert returns["CQL"] > max(returns["BC"], returns["walk"]), returns
    return returns


def main() -> None:
    """Parse the command line and print the result."""
    parser = argparse.ArgumentParser(description="d3rlpy on an exported data set.")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = str(Path(folder) / "datasets")
        returns = run(args.episodes, args.steps, args.trials, args.seed)
    words = ", ".join(f"{name} {value:.2f}" for name, value in returns.items())
    ran = (f"a Minari set of {args.episodes} random walks in the maze", "BC", "CQL")
    finish("d3rlpy", ran, f"mean returns: {words}", [args.seed])


if __name__ == "__main__":
    main()
