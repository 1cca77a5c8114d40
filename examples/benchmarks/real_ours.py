"""A contender of `real_model` in this package, or the bare step; prints a line of JSON."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import configure
from torch.nn import functional

import agents
import text_envs
from benchmarks.real_words import Watch, Words, arguments, language_model
from text_envs.datasets import EpisodeDataset
from text_envs.episodes.types import Role

__all__ = ["main"]


class Bare:
    """Training as textbooks write it: cross entropy of the last T tokens of B sequences.

    Args:
        lm: the model.
        args: of the command line.
    """

    def __init__(self, lm: Any, args: Any) -> None:
        self.lm, self.kept = lm, args.tokens
        ids = torch.randint(lm.config.vocab_size, (args.sequences, args.prompt + args.tokens))
        self.ids = ids
        self.optimizer = torch.optim.Adam(lm.parameters(), lr=1e-6, eps=1e-5, fused=True)

    def run(self) -> None:
        """Make a forward and a backward pass."""
        # The scores of the tokens that are learnt alone, as everybody who is short of memory does.
        hidden = self.lm.base_model(self.ids[:, :-1], use_cache=False).last_hidden_state
        scores = self.lm.get_output_embeddings()(hidden[:, -self.kept :])
        loss = functional.cross_entropy(scores.flatten(0, 1), self.ids[:, -self.kept :].flatten())
        loss.backward()

    def update(self) -> None:
        """Take a step of the optimiser."""
        self.optimizer.zero_grad()
        self.run()
        torch.nn.utils.clip_grad_norm_(self.lm.parameters(), 1.0)
        self.optimizer.step()


def on_policy(name: str, lm: Any, args: Any, task: Words) -> Any:
    """Return an agent that plays B episodes of exactly T tokens an iteration."""
    env = text_envs.make_sb3(task, num_envs=args.sequences, seed=args.seed)
    extra: dict[str, Any] = {"group_size": args.sequences}
    if name.startswith("PPO"):
        extra = {"batch_size": args.sequences, "kl_coef": 0.1}
    agent = getattr(agents, name.split()[0])(
        "CausalLMPolicy", env, n_episodes=args.sequences, learning_rate=1e-6, seed=args.seed,
        device="cpu", **extra,
        policy_kwargs={
            "model": lm, "forbidden": [task.tokenizer.eos_id],
            "gradient_checkpointing": "checkpointing" in name,
            "lora": {"r": 8, "target_modules": "all-linear"} if "LoRA" in name else None,
        },
    )  # fmt: skip
    agent.set_logger(configure(None, []))
    return agent


def offline(name: str, folder: str, args: Any, task: Words) -> Any:
    """Return an agent that learns from B recorded episodes of T tokens.

    Its model is named, as a user names it: a model that is given stays its owner's beside the
    frozen copy.
    """
    shape = (args.sequences, args.prompt + args.tokens)
    tokens = np.random.default_rng(0).integers(task.tokenizer.vocab_size - 4, size=shape)
    roles = np.full(shape, int(Role.ACTION))
    roles[:, : args.prompt] = int(Role.PROMPT)
    rewards = np.zeros(shape)
    rewards[:, -1] = 1.0
    data = EpisodeDataset(
        tokens=tokens, roles=roles, rewards=rewards, truncated=np.zeros(args.sequences, bool),
        example_indices=np.zeros(args.sequences, int), finish_reasons=("length",) * args.sequences,
    )  # fmt: skip
    policy = "ValueGuidedPolicy" if name.startswith("ILQL") else "CausalLMPolicy"
    extra = {"label_smoothing": 0.1} if "smoothing" in name else {}
    kwargs = {"model": folder, "gradient_checkpointing": "checkpointing" in name}
    agent = getattr(agents, name.split()[0])(
        policy, text_envs.make_sb3(task, num_envs=1), dataset=data, batch_size=args.sequences,
        learning_rate=1e-6, seed=args.seed, device="cpu", policy_kwargs=kwargs, **extra,
    )  # fmt: skip
    agent.set_logger(configure(None, []))
    return agent


def pace(watch: Watch, lm: Any, args: Any, task: Words) -> None:
    """Time the update of PPO, a bare pass and a bare update in turns."""
    bare = Bare(copy.deepcopy(lm), args)
    agent = on_policy("PPO", lm, args, task)
    steps = args.sequences * args.tokens
    agent.learn(steps)  # a roll-out, and one update that does not count
    bare.update()
    train = watch.timed("PPO update", agent.train)
    contenders = [
        train, watch.timed("bare pass", bare.run), watch.timed("bare update", bare.update)
    ]  # fmt: skip
    for number in range(args.updates):
        for contender in contenders[number % 3 :] + contenders[: number % 3]:
            bare.optimizer.zero_grad()
            contender()


def main() -> None:
    """Run a contender."""
    args = arguments(__doc__)
    watch = Watch()
    lm = language_model(args.model, bool(args.quick))
    if args.what == "bare":
        bare = Bare(lm, args)
        watch.forget_peak()
        for _ in range(args.updates):
            watch.timed("update", bare.update)()
        watch.report()
        return
    task = Words(lm.config.vocab_size, args.prompt, args.tokens)
    if args.what == "pace":
        pace(watch, lm, args, task)
        watch.report()
        return
    plays = args.what.split()[0] in ("PPO", "RLOO", "GRPO")
    if plays:
        agent = on_policy(args.what, lm, args, task)
    else:
        with tempfile.TemporaryDirectory() as folder:
            lm.save_pretrained(folder)  # without a tokenizer: the words are the task's
            del lm
            agent = offline(args.what, folder, args, task)
    name = "train" if plays else "train_step"
    setattr(agent, name, watch.timed("update", getattr(agent, name)))
    watch.forget_peak()
    learn = watch.timed("iteration", agent.learn)
    for number in range(args.updates):
        learn(args.sequences * args.tokens, reset_num_timesteps=number == 0)
    watch.report()


if __name__ == "__main__":
    main()
