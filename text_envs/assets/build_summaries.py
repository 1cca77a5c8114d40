"""Fit the preference model of Summarization-v0 on pairs of summaries, the worse one degraded.

    python -m text_envs.assets.build_summaries

Good summaries of the grammar of `text_envs.tasks.summarization.grammar` are degraded once or
twice (missing or wrong facts, repetition, truncation, verbosity). In each pair the summary with
fewer faults is the preferred one; a share of the pairs is turned round, as people disagree. The
weights w minimise the negative log-likelihood of Bradley and Terry on feature differences d,
    -log sigmoid(w . d) + penalty/2 |w|^2
and the card says how often the model ranks held-out pairs rightly, and how far above good
summaries a text scores that only piles up the post's rarest words.
"""

from __future__ import annotations

import json
from collections import Counter
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.assets.build.logistic import fit_logistic
from text_envs.rewards.preference import FEATURES, Preference, Vocabulary, summary_features
from text_envs.rewards.words import encode_texts
from text_envs.tasks.shared.splits import SPLITS
from text_envs.tasks.summarization import grammar

TARGET = Path(__file__).parent / "summaries"
COMMAND = "python -m text_envs.assets.build_summaries"
STORIES = {"train": 4000, "test": 1000}
_TURNED_ROUND = 0.05  # share of the training pairs
_PENALTY = 1.0
_PILED = 16  # words of the text that shows the exploit

Pair = tuple[str, str, str, str]  # post, better, worse, the worse one's last fault


def rarities(stories: tuple[grammar.Story, ...]) -> dict[str, float]:
    """Return log(N / document frequency) of each word among the posts; marks have 0."""
    tokenizer = grammar.tokenizer()
    found = Counter(word for s in stories for word in set(tokenizer.split(grammar.post(s))))
    return {
        word: round(log(len(stories) / max(1, found[word])), 4) if word.isalpha() else 0.0
        for word in tokenizer.words
    }


def pairs(split: str) -> list[Pair]:
    """Return three pairs a story: good and degraded once, good and twice, once and twice."""
    rng = np.random.default_rng([0, SPLITS.index(split)])
    made = []
    for story in grammar.draw_stories(split, STORIES[split], 0):
        good = grammar.summaries(story)
        faults = [grammar.FAULTS[i] for i in rng.permutation(len(grammar.FAULTS))]
        text = good[int(rng.integers(len(good)))]
        once = grammar.degrade(text, faults[0], story, rng)
        # The second fault falls on the text that already has the first, unless it writes anew.
        later = next(f for f in faults[1:] if f not in ("missing", "wrong"))
        twice = grammar.degrade(once, later, story, rng)
        candidates = (
            (text, once, faults[0]),
            (text, twice, later),
            (once, twice, f"second {later}"),
        )
        post = grammar.post(story)
        made += [(post, better, worse, f) for better, worse, f in candidates if better != worse]
    return made


def _features(posts: list[str], texts: list[str], vocabulary: Vocabulary) -> NDArray[np.float64]:
    tokenizer = grammar.tokenizer()
    return summary_features(
        encode_texts(posts, tokenizer), encode_texts(texts, tokenizer), vocabulary
    )


def _differences(made: list[Pair], vocabulary: Vocabulary) -> NDArray[np.float64]:
    posts, better, worse, _ = (list(column) for column in zip(*made, strict=True))
    return _features(posts, better, vocabulary) - _features(posts, worse, vocabulary)


def fit() -> dict[str, Any]:
    """Return the content of `preference.json`."""
    stories = grammar.draw_stories("train", STORIES["train"], 0)
    words = rarities(stories)
    vocabulary = Vocabulary.of(grammar.tokenizer().words, words)
    made = pairs("train")
    differences = _differences(made, vocabulary)
    turned = np.random.default_rng(1).random(len(made)) < _TURNED_ROUND
    weights = fit_logistic(differences, np.where(turned, 0.0, 1.0), _PENALTY).round(4)
    good = [(grammar.post(s), text) for s in stories for text in grammar.summaries(s)]
    posts, texts = (list(column) for column in zip(*good, strict=True))
    shift = float((_features(posts, texts, vocabulary) @ weights).mean())
    return {
        "shift": round(shift, 4),
        "weights": dict(zip(FEATURES, weights.tolist(), strict=True)),
        "words": words,
    }


def measure() -> dict[str, Any]:
    """Return how the written model does on held-out stories."""
    model = Preference()
    made = pairs("test")
    posts, better, worse, faults = (list(column) for column in zip(*made, strict=True))
    right = model.score_texts(posts, better) > model.score_texts(posts, worse)
    kinds = np.array(faults)
    stories = grammar.draw_stories("test", STORIES["test"], 0)
    told = [grammar.post(story) for story in stories]
    texts = {"good": [grammar.summaries(story)[0] for story in stories]}
    rng = np.random.default_rng(2)
    for fault in grammar.FAULTS:
        texts[fault] = [
            grammar.degrade(text, fault, story, rng)
            for text, story in zip(texts["good"], stories, strict=True)
        ]
    words = json.loads((TARGET / "preference.json").read_text(encoding="utf-8"))["words"]
    texts["rarest words of the post, then ?"] = [_pile(post, words) for post in told]
    return {
        "held_out_pairs": len(made),
        "held_out_pair_accuracy": round(float(right.mean()), 4),
        "pair_accuracy_by_fault": {
            str(kind): round(float(right[kinds == kind].mean()), 4) for kind in np.unique(kinds)
        },
        "mean_score": {
            kind: round(float(model.score_texts(told, written).mean()), 3)
            for kind, written in texts.items()
        },
    }


def _pile(post: str, words: dict[str, float]) -> str:
    distinct = sorted(dict.fromkeys(post.split()), key=lambda word: -words[word])
    return " ".join([*(word for word in distinct[:_PILED] if word.isalpha()), "?"])


def main() -> None:
    """Write the model and its card."""
    TARGET.mkdir(exist_ok=True)
    _write("preference.json", fit())
    card = {
        "command": COMMAND,
        "stories": STORIES,
        "pairs_turned_round": _TURNED_ROUND,
        "penalty": _PENALTY,
        **measure(),
    }
    _write("card.json", card)
    print(json.dumps(card, indent=1))


def _write(name: str, content: dict[str, Any]) -> None:
    (TARGET / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
