"""What the contenders of `real_model` share: the model, and texts of a fixed length."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from text_envs import EpisodeBatch, Example, Task
from text_envs.lm.loading import load_lm
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["Watch", "Words", "arguments", "language_model", "resident"]

# SmolLM2-135M: what is measured where no folder is given, with random weights.
_SHAPE = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}  # fmt: skip
_QUICK = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
_SPECIAL = 4


class Words(Task):
    """Random prompts over as many words as the model has; short words are paid."""

    reward = staticmethod(lambda episodes: _share_of_even(episodes))

    def __init__(self, words: int, prompt_length: int, max_tokens: int) -> None:
        names = [f"w{i}" for i in range(words - _SPECIAL)]
        generator = torch.Generator().manual_seed(0)
        size = (16, prompt_length - 1)  # the begin token is the other one
        drawn = torch.randint(len(names), size, generator=generator).tolist()
        super().__init__(
            [Example(" ".join(names[i] for i in row)) for row in drawn],
            tokenizer=WordTokenizer(names),
            prompt_length=prompt_length,
            max_tokens=max_tokens,
        )


def _share_of_even(episodes: EpisodeBatch) -> Any:
    return (episodes.response % 2 == 0).mean(axis=1)


def language_model(folder: str | None, quick: bool) -> Any:
    """Return the model of a folder, else an untrained one of the same shape, in float32."""
    if folder:
        return load_lm(folder)[0]
    torch.manual_seed(0)
    sizes = {**_SHAPE, **(_QUICK if quick else {})}
    config = LlamaConfig(**sizes, bos_token_id=None, eos_token_id=None, pad_token_id=None)  # type: ignore[arg-type]
    return LlamaForCausalLM(config).eval()


def arguments(doc: str | None) -> argparse.Namespace:
    """Return what every contender is told."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--what", required=True)
    parser.add_argument("--model", default="", help="a folder; empty for random weights")
    parser.add_argument("--quick", type=int, default=0)
    for name in ("sequences", "prompt", "tokens", "updates", "threads", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return args


def resident(key: str) -> float:
    """Return a line of this process's status in MiB; NaN without Linux's /proc."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    found = [line for line in lines if line.startswith(key + ":")]
    return int(found[0].split()[1]) / 1024


class Watch:
    """Processor seconds of named stretches, and the peak of memory from its making to `report`.

    Attributes:
        before: what the process held before there was a model, MiB.
    """

    def __init__(self) -> None:
        self.before = resident("VmRSS")
        self.seconds: dict[str, list[float]] = {}

    def forget_peak(self) -> None:
        """Begin to look for the peak now."""
        marker = Path("/proc/self/clear_refs")
        if marker.exists():
            marker.write_text("5", encoding="ascii")

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are noted under a name."""

        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            result = function(*args, **kwargs)
            self.seconds.setdefault(name, []).append(time.process_time() - begin)
            return result

        return call

    def report(self) -> None:
        """Print what was found as a line of JSON."""
        peak = resident("VmHWM") - self.before
        print(json.dumps({"peak_mib": peak, "cpu_seconds": self.seconds}))
