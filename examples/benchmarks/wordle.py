"""Guesses per second of Wordle in the native vector environment.

    python examples/benchmarks/wordle.py           # about a minute on one core
    python examples/benchmarks/wordle.py --quick   # a few seconds

A turn is one whole guess: five letters, the end token, and the marks that answer it; starting new
games and the infos of finished ones are included. The guesses are words drawn uniformly from the
list and laid out before the clock starts. "in step" lets all rows guess at the same time, as a
batched agent does; "staggered" starts the rows at different letters, so that every step answers a
sixth of them.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs import TokenVectorEnv
from text_envs.tasks.wordle import Wordle
from text_envs.tasks.wordle.words import as_letters

NUM_ENVS = (1, 16, 256, 4096)
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "auto_submit": {"auto_submit": True},
    "resample": {"target": "resample"},
    "full": {"words": "full"},
}


def guesses(task: Wordle, turns: int, num_envs: int, staggered: bool) -> NDArray[np.int64]:
    """Return the tokens of random guesses, one row a step, `(turns * tokens, num_envs)`."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(task.words), size=(num_envs, turns))
    tokens = as_letters(task.words)[drawn].astype(np.int64)  # (N, turns, 5)
    if task.max_turn_tokens == 6:
        ends = np.full((num_envs, turns, 1), task.tokenizer.eos_id)
        tokens = np.concatenate([tokens, ends], axis=2)
    steps = tokens.reshape(num_envs, -1)
    if staggered:
        for row in range(num_envs):  # the first guess of a late row is malformed, all others whole
            steps[row] = np.roll(steps[row], row % task.max_turn_tokens)
    return np.ascontiguousarray(steps.T)


def turns_per_second(task: Wordle, num_envs: int, seconds: float, staggered: bool) -> float:
    """Return the median rate of five equal runs of about `seconds` in all."""
    env = TokenVectorEnv(task, num_envs=num_envs, autoreset_mode="SAME_STEP")
    env.reset(seed=0)
    steps = guesses(task, 20, num_envs, staggered)
    rates = []
    for _ in range(5):
        done = 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds / 5:
            for actions in steps:
                env.step(actions)
            done += 20 * num_envs
        rates.append(done / elapsed)
    return float(np.median(rates))


def main(quick: bool = False) -> dict[str, dict[str, int]]:
    """Measure, print a table and return it: variant, then number of environments, then rate."""
    seconds = 0.25 if quick else 2.5
    results: dict[str, dict[str, int]] = {}
    print("turns/s".ljust(24) + "".join(f"{n:>12} envs" for n in NUM_ENVS))
    for variant, kwargs in VARIANTS.items():
        task = Wordle(**kwargs)
        for label, staggered in (("in step", False), ("staggered", True)):
            if staggered and variant != "default":
                continue
            rates = {str(n): int(turns_per_second(task, n, seconds, staggered)) for n in NUM_ENVS}
            name = f"{variant}, {label}"
            results[name] = rates
            print(name.ljust(24) + "".join(f"{rate:>17,}" for rate in rates.values()), flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", help="write the numbers to this JSON file")
    arguments = parser.parse_args()
    numbers = main(arguments.quick)
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(numbers, file, indent=2)
            file.write("\n")
