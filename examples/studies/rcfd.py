"""Jobs of the study on calibration from demonstration: training in four use cases.

Whatever a policy was trained for, it is looked at in the same way: two texts for each of 256 test
prompts are scored by `Calibrated`, which tells the reward of the text and that of a demonstration
of the same prompt. RCfD and PPO differ in the reward they are paid and in nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

import text_envs
from agents import BC, PPO, WhitenRewards, evaluate_texts
from agents.rollouts.evaluation import Evaluation
from studies.rcfd_measure import judged, rewarded, rewards_of
from text_envs.lm.scratch import make_lm
from text_envs.rewards import Calibrated, resolve
from text_envs.rewards.likelihood import Likelihood
from text_envs.rewards.sentiment import Sentiment
from text_envs.tasks.reviews import Reviews
from text_envs.tokens.encoding import reference_tokens

ROUNDS = 2  # texts for each test prompt
TEXTS = 64  # an iteration
# Of all methods. A value loss that reaches the language model made PPO collapse with and without a
# penalty; a lambda below 1, while values are still 0 and rewards negative, favours long texts.
SETTINGS = {"batch_size": 8, "n_epochs": 1, "gae_lambda": 1.0}


@dataclass(frozen=True)
class Case:
    """A use case: where texts are written and what they are paid for.

    Attributes:
        env: id of the environment.
        rewards: reward models by name; more than one are components.
        learning_rate: of all methods; it goes with the language model that they start from.
    """

    env: str
    rewards: Mapping[str, Any]
    learning_rate: float


_FLOAT32 = {"reward": "likelihood", "reward_kwargs": {"dtype": "float32"}}
_LOGIT = {"reward": "sentiment", "reward_kwargs": {"output": "logit"}}
_SHORT = {"reward": "length", "reward_kwargs": {"scale": -1.0}}
CASES: Mapping[str, Case] = {
    "likelihood": Case("text_envs/LikelihoodContinuation-v0", {"likelihood": _FLOAT32}, 2e-4),
    "sentiment": Case("text_envs/Reviews-v0", {"sentiment": _LOGIT}, 2e-4),
    "preference": Case("text_envs/Summarization-v0", {"preference": "preference"}, 5e-4),
    "preference + length": Case(
        "text_envs/Summarization-v0", {"preference": "preference", "length": _SHORT}, 5e-4
    ),
}


class _Texts(BaseCallback):
    """Ends training after a number of iterations, so that methods get equally many texts.

    Keeps mean and standard deviation of the first reward of every iteration, not calibrated.
    """

    def __init__(self, iterations: int, name: str) -> None:
        super().__init__()
        self.left, self.name = iterations, name
        self.curve: list[tuple[float, float]] = []

    def _on_step(self) -> bool:
        return self.left > 0

    def _on_rollout_end(self) -> None:
        self.left -= 1
        rollout = self.locals["rollout"]
        details = [info.get("reward_details", {}) for info in rollout.infos]
        raw = np.array([d.get("raw", d.get(f"raw/{self.name}", np.nan)) for d in details])
        if np.isnan(raw).any():  # not calibrated: what was paid
            raw = next(iter(rollout.reward_terms.values())).numpy()
        self.curve.append((round(float(raw.mean()), 4), round(float(raw.std()), 4)))


# -- what training starts from ------------------------------------------------------------------


def rejection(
    folder: Path, task: str, seed: int, prompts: int, test_prompts: int, rounds: int
) -> dict[str, Any]:
    """Demonstrate praise: the model's own texts, drawn again until the reward calls one positive.

    So demonstrations are draws from a known distribution, the model given that the logit is above
    0. A prompt for which all rounds fail keeps its best text.
    """
    lm, sentiment = Likelihood("reviews", dtype="float32"), Sentiment("logit")
    accepted = tried = 0
    demonstrations: dict[str, list[list[int]]] = {}
    for number, (split, count) in enumerate((("train", prompts), ("test", test_prompts))):
        task_ = Reviews(split=split)
        best: list[list[int]] = [[] for _ in range(count)]
        highest = np.full(count, -np.inf)
        rngs = [np.random.default_rng([seed, number, index]) for index in range(count)]
        for _ in range(rounds):
            left = np.flatnonzero(highest <= 0)
            for some in np.array_split(left, -(-len(left) // 256)) if len(left) else ():
                starts = task_.prompts(some)
                written = lm.continue_prompts(starts, task_.max_tokens, [rngs[i] for i in some])
                rows = np.full((len(some), task_.max_tokens), task_.tokenizer.pad_id)
                for row, text in zip(rows, written, strict=True):
                    row[: len(text)] = text
                scores = sentiment.score_tokens(rows)
                tried, accepted = tried + len(some), accepted + int((scores > 0).sum())
                for index, text, score in zip(some.tolist(), written, scores, strict=True):
                    if score > highest[index]:
                        best[index], highest[index] = text, score
        demonstrations[split] = best
    (folder / "demonstrations.json").write_text(json.dumps(demonstrations), encoding="utf-8")
    return {"accepted": accepted / tried, "tried": tried}


def cloned(folder: Path, task: str, seed: int, episodes: int, epochs: int) -> dict[str, Any]:
    """Clone the mixed demonstrations, a third of which are good; training starts from there."""
    env = CASES[task].env
    data = text_envs.datasets.collect(env, "mixed", episodes, seed=seed)
    agent = BC(
        "CausalLMPolicy", env, dataset=data,
        policy_kwargs={"model": make_lm(env, width=96, heads=4)},
        learning_rate=lambda progress: 3e-3 * progress, seed=seed, device="cpu",
    )  # fmt: skip
    agent.learn(n_epochs=epochs)
    agent.save(folder / "model")
    held_out = text_envs.datasets.collect(env, "mixed", 256, seed=seed + 1, split="test")
    return {"nats_a_token": agent.loss_on(agent.as_batch(held_out)), "episodes": episodes}


# -- training and looking -----------------------------------------------------------------------


def train(
    folder: Path,
    task: str,
    method: str,
    seed: int,
    iterations: int,
    prompts: int = 256,
    beta: float = 0.0,
    alpha: float = 0.0,
    start: str = "reviews",
    demos: str = "",
) -> dict[str, Any]:
    """Train from `start` and look at the result.

    Args:
        folder: gets texts and rewards.
        task: a use case.
        method: "RCfD", "PPO" or, without training, "initial model" and "demonstrations".
        seed: of everything.
        iterations: of 64 texts each.
        prompts: of the test split, on which policies are compared.
        beta: reward that PPO pays for a nat of KL.
        alpha: PPO's weight of the second component.
        start: the model.
        demos: a file of demonstrations where the task has none.
    """
    case, names = CASES[task], list(CASES[task].rewards)
    texts = json.loads(Path(demos).read_text(encoding="utf-8")) if demos else None
    reward: Any = _calibrated(case, texts and texts["train"])
    if method == "PPO":
        weights = {name: 1.0 if name == names[0] else alpha for name in names}
        reward = resolve({name: [weights[name], case.rewards[name]] for name in names})
    agent = PPO(
        "CausalLMPolicy", _env(case, "train", TEXTS, reward, texts), n_episodes=TEXTS,
        learning_rate=case.learning_rate, kl_coef=beta, reference=start, seed=seed, device="cpu",
        policy_kwargs={"model": start, "detach_value": True}, **SETTINGS,
    )  # fmt: skip
    training = _Texts(iterations, names[0])
    if method not in ("initial model", "demonstrations"):
        # So the unit of a reward, its square and the balance of components all drop out.
        whitening = [WhitenRewards()] if method == "RCfD" else []
        agent.learn(10**9, [training, *whitening])
    rounds = _play(agent, case, "test", prompts, texts, 1000 * (seed + 1))
    (folder / "texts.json").write_text(json.dumps(rounds[0].texts[:64], indent=1), "utf-8")
    rewards = rewards_of(rounds, names)
    if method == "demonstrations":
        return _of_demonstrations(agent, task, prompts, texts, rewards)
    np.savez(folder / "rewards.npz", **rewards)
    examples = list(_task(case, "test", texts).examples[:prompts])
    lengths = np.concatenate([one.rollout.lengths.numpy() for one in rounds])
    written = [text for one in rounds for text in one.texts]
    return {
        **rewarded(rewards, names),
        **judged(task, examples, written, lengths),
        "kl_prior": float(np.concatenate([one.kl for one in rounds]).mean()),
        "curve": training.curve,
    }


def _of_demonstrations(
    agent: PPO, task: str, prompts: int, texts: Any, rewards: dict[str, NDArray[np.float64]]
) -> dict[str, Any]:
    """Return what the test demonstrations are like; A is that of those of the training prompts."""
    case = CASES[task]
    others = rewards_of(_play(agent, case, "train", prompts, texts, 0), list(case.rewards))
    swapped = {f"raw/{name}": others[f"demo/{name}"] for name in case.rewards}
    of_task = _task(case, "test", texts)
    examples, tokenizer = list(of_task.examples[:prompts]), of_task.tokenizer
    if texts is None:
        # One of several references each, in turn, as `Calibrated` draws them.
        chosen = [e.references[i % len(e.references)] for i, e in enumerate(examples)]
        rows = [reference_tokens(text, tokenizer, of_task.max_tokens) for text in chosen]
    else:
        rows = texts["test"]
    written = [tokenizer.decode(row) for row in rows]
    lengths = np.array([len(row) for row in rows])
    row = rewarded(rewards | swapped, list(case.rewards))
    row |= {"reward": row["demo_reward"], "reward_std": row["demo_std"]}
    row.pop("gap")  # of other prompts
    row.pop("between_prompts", None)
    count = len(examples[0].references)
    if count > 1:
        # Two draws are of the same reference once in `count` times, and then agree.
        demo = rewards[f"demo/{next(iter(case.rewards))}"]
        alike = float(np.corrcoef(demo[:prompts], demo[prompts:])[0, 1])
        row["between_prompts"] = (alike - 1 / count) / (1 - 1 / count)
    return row | judged(task, examples, written, lengths)


def _calibrated(case: Case, demonstrations: Sequence[Any] | None) -> Calibrated:
    specs = dict(case.rewards)
    if len(specs) == 1:
        return Calibrated(resolve(*specs.values()), demonstrations)
    return Calibrated(resolve({n: [1.0, spec] for n, spec in specs.items()}), demonstrations)


def _env(case: Case, split: str, num_envs: int, reward: Any, texts: Any = None) -> Any:
    kwargs: dict[str, Any] = {"split": split, "reward": reward}
    if texts is not None:  # only prompts with a demonstration
        kwargs["dataset"] = list(Reviews(split=split).examples[: len(texts[split])])
    return text_envs.make_sb3(case.env, num_envs=num_envs, **kwargs)


def _task(case: Case, split: str, texts: Any) -> Any:
    return _env(case, split, 1, "length", texts).get_attr("task")[0]


def _play(
    agent: PPO, case: Case, split: str, prompts: int, texts: Any, seed: int
) -> list[Evaluation]:
    """Play a text of each of the first prompts, and another.

    What each earns, and what a demonstration of its prompt does, stands in `infos`.
    """
    reward, rounds = _calibrated(case, texts and texts[split]), []
    for k in range(ROUNDS):
        env = _env(case, split, prompts, reward, texts)
        env.set_options([{"index": index} for index in range(prompts)])
        rounds.append(
            evaluate_texts(agent.policy, env, prompts, seed=seed + k, reference=agent.reference)
        )
    return rounds
