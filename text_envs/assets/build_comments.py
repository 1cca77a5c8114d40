"""Fit the two small linear models of Comments-v0: toxicity and upvotes.

    python -m text_envs.assets.build_comments      # needs pip install 'text_envs[toxicity]'

Toxicity: the verdicts of the classifier in alt-profanity-check on replies from the grammar of
`text_envs.tasks.comments.grammar` and on random words of its vocabulary are fitted by ridge
regression on their logits. Upvotes: votes are drawn by a rule (`_TASTE`: readers like kind
replies, forgive a jibe, and want the reply to be about the comment), and a logistic regression
learns them.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.assets.build.logistic import fit_logistic
from text_envs.rewards.toxicity import THRESHOLDS, Toxicity, grade
from text_envs.rewards.upvotes import vote_features
from text_envs.rewards.words import count_words, encode_texts
from text_envs.tasks.comments import grammar
from text_envs.tasks.shared.splits import SPLITS

TARGET = Path(__file__).parent / "comments"
COMMAND = "python -m text_envs.assets.build_comments"
SIZES = {"train": 4000, "test": 1000}  # comments; each gets one reply a tone
LONGEST = 20  # words of a random text
_TASTE = {"polite": 0.8, "bland": -1.0, "snarky": 0.5, "rude": -1.6}
_ON_TOPIC = 0.7


class Replies:
    """Comments of one split with a reply in every tone, and as many random texts."""

    def __init__(self, split: str) -> None:
        rng = np.random.default_rng([0, SPLITS.index(split)])
        parents = grammar.draw_parents(split, SIZES[split], 0)
        self.tones = np.repeat((*grammar.TONES, "random"), len(parents))
        self.parents = [p.text for p in parents] * (len(grammar.TONES) + 1)
        self.texts = [
            grammar.draw_reply(p.thing, tone, rng) for tone in grammar.TONES for p in parents
        ]
        words = grammar.tokenizer().words
        for _ in parents:
            self.texts.append(" ".join(rng.choice(words, size=int(rng.integers(LONGEST + 1)))))
        self.ids = encode_texts(self.texts, grammar.tokenizer())
        things = [p.thing for p in parents] * (len(grammar.TONES) + 1)
        self.named = np.array(
            [thing in text.split() for thing, text in zip(things, self.texts, strict=True)]
        )


def fit_toxicity(train: Replies, test: Replies) -> dict[str, Any]:
    """Write `toxicity.json` and return how often its labels are the classifier's."""
    from profanity_check import predict_prob
    from profanity_check.profanity_check import vectorizer

    words = grammar.tokenizer().words
    known = np.isin(words, list(vectorizer.vocabulary_))
    counts = count_words(train.ids, len(words))[:, known]
    scaled = counts / np.sqrt(np.maximum(counts.sum(axis=1, keepdims=True), 1))
    inputs = np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)
    p = np.clip(predict_prob(train.texts), 1e-4, 1 - 1e-4)
    square = inputs.T @ inputs + 0.1 * np.eye(inputs.shape[1])
    fitted = np.linalg.solve(square, inputs.T @ np.log(p / (1 - p)))
    weights = np.full(len(words), np.nan)
    weights[known] = fitted[:-1].round(4)
    table = {
        word: None if np.isnan(weight) else weight
        for word, weight in zip(words, weights.tolist(), strict=True)
    }
    _write("toxicity.json", {"bias": round(float(fitted[-1]), 4), "words": table})

    truth = grade(predict_prob(test.texts))
    same = grade(Toxicity().score_ids(test.ids)) == truth
    tones = (*grammar.TONES, "random")
    return {
        "classifier": {p: version(p) for p in ("alt-profanity-check", "scikit-learn")},
        "licence": "alt-profanity-check is MIT, (c) its authors; here are verdicts fitted anew",
        "thresholds": list(THRESHOLDS),
        "held_out_texts": len(same),
        "held_out_same_label": _share(same),
        "same_label_by_tone": {tone: _share(same[test.tones == tone]) for tone in tones},
        "classifier_label_shares_by_tone": {
            tone: [_share(truth[test.tones == tone] == label) for label in range(3)]
            for tone in tones
        },
    }


def _votes(replies: Replies) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the probability of a vote up by the rule, and a vote drawn from it, `(N,)` each."""
    logits = np.array([_TASTE.get(tone, -2.0) for tone in replies.tones.tolist()])
    logits += _ON_TOPIC * replies.named
    p = 1 / (1 + np.exp(-logits))
    return p, (np.random.default_rng(1).random(len(p)) < p).astype(np.int64)


def fit_upvotes(train: Replies, test: Replies) -> dict[str, Any]:
    """Write `upvotes.json` and return how well it predicts held-out votes."""
    words = grammar.tokenizer().words
    topics = np.isin(words, grammar.topics())

    def inputs(replies: Replies) -> NDArray[np.float64]:
        parents = encode_texts(replies.parents, grammar.tokenizer())
        features = vote_features(parents, replies.ids, topics)
        return np.concatenate([features, np.ones((len(features), 1))], axis=1)

    _, votes = _votes(train)
    weights = fit_logistic(inputs(train), votes.astype(np.float64), penalty=1.0).round(4)
    _write(
        "upvotes.json",
        {
            "bias": float(weights[-1]),
            "on_topic": float(weights[-2]),
            "topics": sorted(grammar.topics()),
            "words": dict(zip(words, weights[:-2].tolist(), strict=True)),
        },
    )
    p, votes = _votes(test)
    up = inputs(test) @ weights > 0
    return {
        "rule": {"tone": _TASTE, "on_topic": _ON_TOPIC},
        "held_out_accuracy": _share(up == votes),
        "accuracy_of_the_rule_itself": _share((p > 0.5) == votes),
        "share_up_by_tone": {t: _share(up[test.tones == t]) for t in (*grammar.TONES, "random")},
    }


def _share(hits: Any) -> float:
    return round(float(np.mean(hits)), 4)


def _write(name: str, content: dict[str, Any]) -> None:
    (TARGET / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write the two models and their card."""
    TARGET.mkdir(exist_ok=True)
    train, test = Replies("train"), Replies("test")
    card = {
        "command": COMMAND,
        "comments": SIZES,
        "words": len(grammar.tokenizer().words),
        "toxicity": fit_toxicity(train, test),
        "upvotes": fit_upvotes(train, test),
    }
    _write("card.json", card)
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
