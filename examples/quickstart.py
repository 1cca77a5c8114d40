"""Train a language model by PPO to praise films, and look at it before and after.

    python examples/quickstart.py            # the whole demonstration, under 3 minutes on 2 cores
    python examples/quickstart.py --quick    # a few seconds, to see that everything runs

Writes `curve.png`, `episodes.html` (open it in a browser) and the trained `model` to --out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curve import Curve, plot

import text_envs
from agents import PPO, evaluate_texts, mean_and_interval
from agents.rollouts.evaluation import Evaluation
from text_envs import rewards
from text_envs.render.pages import write_page

ENV_ID = "text_envs/Reviews-v0"


def summary(evaluation: Evaluation, judge: Any) -> dict[str, Any]:
    """Return reward, KL and judgement with their 95% intervals."""
    whole = [f"{p} {t}" for p, t in zip(evaluation.prompts, evaluation.texts, strict=True)]
    numbers = {
        "reward": evaluation.rewards,
        "KL (nats a text)": evaluation.kl,
        "judge (VADER)": judge.score_texts(whole),
        "length (tokens)": evaluation.rollout.lengths.numpy(),
        "distinct words": distinct_share(evaluation),
    }
    return {name: mean_and_interval(values) for name, values in numbers.items()}


def distinct_share(evaluation: Evaluation) -> np.ndarray[Any, Any]:
    """Return, for each text, the share of its tokens that are different from one another."""
    rollout = evaluation.rollout
    rows = (rollout.actions[b, : rollout.lengths[b]] for b in range(len(rollout)))
    return np.array([len(set(row.tolist())) / len(row) for row in rows])


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--kl-coef", type=float, default=0.04, help="reward paid per nat of KL")
    parser.add_argument("--out", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    iterations, test_episodes = (2, 64) if args.quick else (args.iterations, 512)
    args.out.mkdir(parents=True, exist_ok=True)
    # A model this small keeps one core busy; more threads would mostly wait for each other.
    torch.set_num_threads(1)

    agent = PPO(
        "CausalLMPolicy",
        ENV_ID,
        policy_kwargs={"model": "reviews"},
        learning_rate=5e-4,
        n_episodes=64,
        batch_size=8,
        n_epochs=1,
        kl_coef=args.kl_coef,
        seed=args.seed,
    )
    test = text_envs.make_sb3(ENV_ID, num_envs=64, split="test")
    judge = rewards.resolve("vader")
    reference = agent.reference
    before = evaluate_texts(agent.policy, test, test_episodes, reference=reference)

    curve = Curve()
    tokens = iterations * 64 * test.get_attr("task")[0].max_tokens
    agent.learn(tokens, callback=curve, progress_bar=True)
    after = evaluate_texts(agent.policy, test, test_episodes, reference=reference)

    for prompt, old, new in list(zip(before.prompts, before.texts, after.texts, strict=True))[:6]:
        print(f"\n{prompt} ...\n  before: {old}\n  after:  {new}")
    sums = {"before": summary(before, judge), "after": summary(after, judge)}
    print(f"\n{len(before.texts)} test prompts      before            after")
    for name, (mean, half) in sums["before"].items():
        new_mean, new_half = sums["after"][name]
        old = f"{round(mean, 3) + 0:7.3f} ± {half:.3f}"  # + 0: no minus before a zero
        print(f"{name:18}  {old}   {new_mean:7.3f} ± {new_half:.3f}")

    plot(curve.points, args.out / "curve.png", f"PPO on {ENV_ID}", "mean reward")
    token_scores = rewards.resolve("sentiment").token_scores  # type: ignore[attr-defined]
    write_page(
        args.out / "episodes.html",
        f"PPO on {ENV_ID}",
        {
            "Before training": before.token_rows(12, token_scores),
            "After training": after.token_rows(12, token_scores),
        },
        note="The same test prompts, continued by the model before and after. "
        "reward: what a word adds to the score; value: what the agent expects; "
        "KL: log-ratio to the initial model; a square is the end of the text.",
    )
    agent.save(args.out / "model")
    report = {"seed": args.seed, "iterations": iterations, "kl_coef": args.kl_coef, **sums}
    (args.out / "summary.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\nWrote curve.png, episodes.html, summary.json and model to {args.out}")


if __name__ == "__main__":
    main()
