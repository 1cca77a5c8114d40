"""Jobs of the study on guided feedback: the model to start from, the guide, training, judging.

All methods of a task start from the same language model, ask the same guide, use the same settings
and write the same number of tokens themselves; they differ in where guide and agent take turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.utils import LinearSchedule

import text_envs
from agents import BC, D2LOLS, LOLS, PPO, AggreVaTeD, PPOPlusPlus, evaluate_texts, load_lm
from agents.rollouts.evaluation import Evaluation
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards import resolve
from text_envs.rewards.meteor import Meteor
from text_envs.rewards.metrics import distinct_n
from text_envs.rewards.overlap import Bleu, Coverage, Rouge

__all__ = ["CASES", "METHODS", "guide", "sft", "train"]

# Of all methods. The value loss does not reach the language model: the returns of a good guide are
# large from the first text on, and the first values are 0.
SETTINGS: Mapping[str, Any] = {"n_episodes": 64, "batch_size": 16, "n_epochs": 2, "gae_lambda": 1.0}
POLICY: Mapping[str, Any] = {"detach_value": True, "value_hidden": [64]}
METHODS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (PPO, {}),
    "PPO++": (PPOPlusPlus, {"beta": 0.6}),
    "AggreVaTeD": (AggreVaTeD, {"beta": 0.8}),
    "LOLS": (LOLS, {"beta": 0.8, "tau": 0.8}),
    "D2LOLS": (D2LOLS, {"beta": 0.8, "tau": 10}),
}
_SIZES = {"layers": 2, "width": 96, "heads": 4}


@dataclass(frozen=True)
class Case:
    """A task of the study.

    Attributes:
        env: id of the environment.
        kl_coef: weight of the KL to the model that training starts from.
        learning_rate: falls to 0.
        tokens: that each method writes itself.
        sft: demonstrations and passes over them that the start is made of; none: the bundled model.
        guide: quality, number and passes of the demonstrations that make a guide of the start.
        guide_tokens: or the tokens of PPO that do.
        judges: reward models whose mean is reported and which nobody is paid by.
        reward: what is paid; None for the environment's own.
    """

    env: str
    kl_coef: float
    learning_rate: float
    tokens: int
    sft: tuple[int, int] | None = None
    guide: tuple[str, int, int] | None = None
    guide_tokens: int = 0
    judges: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    reward: Callable[[EpisodeBatch], Any] | None = None

    def make(self, num_envs: int, split: str = "train") -> Any:
        """Return `num_envs` rows of the environment."""
        paid = {} if self.reward is None else {"reward": self.reward}
        return text_envs.make_sb3(self.env, num_envs=num_envs, split=split, **paid)


def all_covered(episodes: EpisodeBatch) -> Any:
    """Pay 1 for a text that uses every concept, and nothing for any other, `(B,)`."""
    return (Coverage()(episodes) == 1.0).astype(np.float64)


CASES: Mapping[str, Case] = {
    "Reviews": Case(
        "text_envs/Reviews-v0", kl_coef=0.1, learning_rate=3e-4, tokens=30_000,
        guide_tokens=90_000, judges={"vader": lambda: resolve("vader")},
    ),
    "Concepts": Case(
        "text_envs/ConceptsToSentence-v0", kl_coef=0.05, learning_rate=5e-4, tokens=40_000,
        sft=(4096, 8), guide=("reference", 4096, 12),
        judges={"coverage": Coverage, "bleu": Bleu, "rouge": Rouge, "meteor": Meteor},
    ),
    "Summarization": Case(
        "text_envs/Summarization-v0", kl_coef=0.1, learning_rate=5e-4, tokens=40_000,
        sft=(2048, 8), guide=("expert", 2048, 8), judges={"rouge": Rouge},
    ),
    # Seldom paid: does a guide help to find what chance hardly finds?
    "Concepts, all or none": Case(
        "text_envs/ConceptsToSentence-v0", kl_coef=0.01, learning_rate=5e-4, tokens=40_000,
        sft=(4096, 8), guide=("reference", 4096, 12), reward=all_covered,
        judges={"coverage": Coverage, "bleu": Bleu, "rouge": Rouge, "meteor": Meteor},
    ),
}  # fmt: skip


# -- the model to start from, and the guide --------------------------------------------------------


def sft(folder: Path, task: str, method: str, seed: int, scale: float) -> dict[str, Any]:
    """Clone the behaviour data into `folder/agent`; the bundled model as it is on Reviews-v0."""
    case = CASES[task]
    if case.sft is None:
        model: Any = load_lm("reviews")[0]
    else:
        model = _clone(case, "mixed", *_scaled(case.sft, scale), _SIZES, seed).policy.actor.lm
    agent = PPO("CausalLMPolicy", case.env, policy_kwargs={"model": model}, device="cpu")
    agent.save(folder / "agent")
    return _judge(case, agent.policy, seed, scale, str(folder / "agent"), folder)


def guide(
    folder: Path, task: str, method: str, seed: int, scale: float, start: str
) -> dict[str, Any]:
    """Make a stronger model out of `start`: by good demonstrations, or by more of PPO."""
    case = CASES[task]
    if case.guide is not None:
        quality, count, epochs = case.guide
        agent: Any = _clone(case, quality, *_scaled((count, epochs), scale), start, seed + 1)
    else:
        agent = _algorithm(case, PPO, start, seed + 1)
        agent.learn(int(case.guide_tokens * scale))
    agent.save(folder / "agent")
    return _judge(case, agent.policy, seed, scale, start, folder)


def _scaled(sizes: tuple[int, int], scale: float) -> tuple[int, int]:
    count, epochs = sizes
    return max(64, int(count * scale)), max(1, int(epochs * scale))


def _clone(case: Case, quality: str, count: int, epochs: int, model: Any, seed: int) -> BC:
    data = text_envs.datasets.collect(case.env, quality, count, seed=seed)
    agent = BC(
        "CausalLMPolicy", case.env, dataset=data, batch_size=32, seed=seed, device="cpu",
        learning_rate=LinearSchedule(3e-3, 0.0, 1.0), policy_kwargs={"model": model},
    )  # fmt: skip
    agent.learn(n_epochs=epochs)
    return agent


# -- training --------------------------------------------------------------------------------------


def _algorithm(case: Case, cls: Any, start: str, seed: int, **kwargs: Any) -> Any:
    return cls(
        "CausalLMPolicy", case.make(SETTINGS["n_episodes"]), kl_coef=case.kl_coef,
        learning_rate=LinearSchedule(case.learning_rate, 0.0, 1.0), seed=seed, device="cpu",
        policy_kwargs={"model": start, **POLICY}, **SETTINGS, **kwargs,
    )  # fmt: skip


def train(
    folder: Path,
    task: str,
    method: str,
    seed: int,
    scale: float,
    start: str,
    guide: str,
    beta: float | None = None,
) -> dict[str, Any]:
    """Train with one method and judge what the agent then writes by itself.

    Args:
        folder: for the texts.
        task: a key of `CASES`.
        method: a key of `METHODS`.
        seed: of everything.
        scale: factor on the number of tokens.
        start: folder of the model to start from.
        guide: folder of the guide.
        beta: other than the method's.
    """
    case, (cls, kwargs) = CASES[task], METHODS[method]
    if beta is not None:
        kwargs = kwargs | {"beta": beta}
    if cls is not PPO:
        kwargs = kwargs | {"guide": guide}
    agent = _algorithm(case, cls, start, seed, **kwargs)
    agent.learn(int(case.tokens * scale))
    queries = vars(agent.queries) if cls is not PPO else {"calls": 0, "rows": 0, "tokens": 0}
    return {
        "tokens": agent.num_timesteps,
        "texts": agent._episode_num,
        **{f"guide_{name}": count for name, count in queries.items()},
        **_judge(case, agent.policy, seed, scale, start, folder),
    }


# -- judging ---------------------------------------------------------------------------------------


def _judge(
    case: Case, policy: Any, seed: int, scale: float, start: str, folder: Path
) -> dict[str, Any]:
    """Let the policy write about test prompts and measure it."""
    count = 256 if scale >= 1 else 64
    env = case.make(64, "test")
    reference = policy.actor.like(load_lm(start)[0])
    found = evaluate_texts(policy, env, count, seed=1000 + seed, reference=reference)
    (folder / "texts.json").write_text(json.dumps(found.texts[:64], indent=1), encoding="utf-8")
    rollout = found.rollout
    assert rollout.ref_log_probs is not None
    texts = [text for text in found.texts if text.strip()] or ["nothing"]
    episodes = _episodes(found, env.get_attr("task")[0])
    return {
        "reward": float(found.rewards.mean()),
        **{f"reward_{k}": float(v.mean()) for k, v in rollout.reward_terms.items()},
        **{name: float(np.mean(make()(episodes))) for name, make in case.judges.items()},
        "kl": float(found.kl.mean()),
        "perplexity": float((-rollout.ref_log_probs[rollout.mask].mean()).exp()),
        "length": float(rollout.lengths.float().mean()),
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2)},
    }


def _episodes(found: Evaluation, task: Any) -> EpisodeBatch:
    infos = found.rollout.infos
    return EpisodeBatch(
        found.rollout.tokens.numpy(),
        np.stack([info["roles"] for info in infos]),
        prompt_length=task.prompt_length,
        tokenizer=task.tokenizer,
        example_indices=np.array([info["example_index"] for info in infos]),
        finish_reasons=[info["finish_reason"] for info in infos],
        get_example=task.example,
    )
