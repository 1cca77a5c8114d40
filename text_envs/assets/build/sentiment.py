"""Train the sentiment model: a regularised logistic regression over clipped word counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.assets.build.corpus import Corpus, Review
from text_envs.tokens.builtin import WordTokenizer

CLIP = 1  # a word counts once: praise repeated is not more praise
STRENGTHS = (0.06, 0.12, 0.25, 0.5, 1.0)  # inverse penalties, chosen by cross-validation


def _counts(reviews: list[Review], tokenizer: WordTokenizer) -> NDArray[np.float64]:
    counts = np.zeros((len(reviews), len(tokenizer.words)))
    for row, review in enumerate(reviews):
        ids = np.array(tokenizer.ids(review.words))
        np.add.at(counts[row], ids[ids < len(tokenizer.words)], 1.0)
    return np.minimum(counts, CLIP)


def train(corpus: Corpus, tokenizer: WordTokenizer, target: Path, seed: int) -> dict[str, Any]:
    """Fit on the training reviews, write weights to `target`, return held-out measurements."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    inputs = _counts(corpus.train, tokenizer)
    labels = np.array([review.fresh for review in corpus.train])
    # Balanced classes, so that an empty text is near one half whatever the share of fresh ones.
    model = LogisticRegression(class_weight="balanced", max_iter=500)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    search = GridSearchCV(model, {"C": list(STRENGTHS)}, cv=folds, scoring="neg_log_loss")
    search.fit(inputs, labels)
    best = search.best_estimator_
    weights = np.zeros(tokenizer.vocab_size)
    weights[: len(tokenizer.words)] = best.coef_[0]
    weights, bias = weights.round(4), round(float(best.intercept_[0]), 4)
    content = {
        "bias": bias,
        "clip": CLIP,
        "weights": weights.tolist(),
    }
    target.write_text(json.dumps(content) + "\n", encoding="utf-8")
    held_out = np.array([review.fresh for review in corpus.held_out])
    logits = _counts(corpus.held_out, tokenizer) @ weights[: len(tokenizer.words)] + bias
    return {
        "model": "logistic regression on the presence of words",
        "inverse_penalty": search.best_params_["C"],
        "held_out_reviews": len(held_out),
        "held_out_accuracy": round(float(((logits > 0) == held_out).mean()), 4),
        "held_out_auc": round(float(roc_auc_score(held_out, logits)), 4),
        "held_out_share_fresh": round(float(held_out.mean()), 4),
    }
