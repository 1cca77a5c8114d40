"""A contender of `real_model`: TRL's RLOO or GRPO on the same model, batch and lengths.

Runs in .venv-trl and prints a line of JSON. No KL, no checkpointing, float32; every text has
exactly T tokens, as the end token may not come before.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback

from benchmarks.real_words import Watch, Words, arguments, language_model

__all__ = ["main"]


def _tokenizer(task: Words) -> PreTrainedTokenizerFast:
    special = ("<eos>", "<pad>", "<bos>", "<unk>")
    ids = {f"w{i}": i for i in range(task.tokenizer.vocab_size - len(special))}
    ids |= {word: len(ids) + number for number, word in enumerate(special)}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def _reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


class _Steps(TrainerCallback):
    """Notes the processor seconds of each step, a roll-out and an update."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.begin = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        seconds = self.watch.seconds.setdefault("iteration", [])
        seconds.append(time.process_time() - self.begin)


def main() -> None:
    """Run a contender."""
    args = arguments(__doc__)
    watch = Watch()
    lm = language_model(args.model, bool(args.quick))
    task = Words(lm.config.vocab_size, args.prompt, args.tokens)
    config_class, trainer_class = {
        "TRL RLOO": (trl.RLOOConfig, trl.RLOOTrainer),
        "TRL GRPO": (trl.GRPOConfig, trl.GRPOTrainer),
    }[args.what]
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder, learning_rate=1e-6, lr_scheduler_type="constant",
            per_device_train_batch_size=args.sequences, gradient_accumulation_steps=1,
            num_generations=args.sequences, num_iterations=1, max_steps=args.updates,
            max_completion_length=args.tokens, temperature=1.0, beta=0.0, disable_dropout=True,
            generation_kwargs={"min_new_tokens": args.tokens}, bf16=False,
            gradient_checkpointing=False, use_cpu=True, seed=args.seed, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = trainer_class(
            model=lm, args=config, reward_funcs=_reward,
            train_dataset=Dataset.from_list(
                [{"prompt": f"<bos> {x.prompt}"} for x in task.examples]
            ),
            processing_class=_tokenizer(task),
        )  # fmt: skip
        played = watch.timed("roll-out", trainer._generate_and_score_completions)
        trainer._generate_and_score_completions = played
        trainer.add_callback(_Steps(watch))
        watch.forget_peak()
        trainer.train()
    # What is not playing is the update: the trainer has no stretch of its own for it.
    pairs = zip(watch.seconds["iteration"], watch.seconds["roll-out"], strict=True)
    watch.seconds["update"] = [whole - played for whole, played in pairs]
    watch.report()


if __name__ == "__main__":
    main()
