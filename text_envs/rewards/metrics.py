r"""Measures over many texts: how much they repeat, themselves and one another, and what they earn.

| function | measures | low means |
|---|---|---|
| `distinct_n` | distinct n-grams over words | texts made of the same phrases |
| `self_bleu` | BLEU of each text against all others | texts that differ |
| `reward_alignment` | KL between histograms of rewards | rewards spread as the demonstrations' |

A policy that has collapsed onto one text has a Self-BLEU of 1; Distinct-n also falls when each text
by itself loops. Both read words, lower case, without punctuation, never characters. Both depend on
how many texts there are: compare equal numbers of texts only.

References: J. Li et al., "A diversity-promoting objective function for neural conversation models",
2016, arXiv 1510.03055 (Distinct-n). Y. Zhu et al., "Texygen: a benchmarking platform for text
generation models", 2018, arXiv 1802.01886 (Self-BLEU). M. Rita et al., "Countering reward
over-optimization in LLM with demonstration-guided reinforcement learning", 2024, arXiv 2404.19409
(alignment of rewards).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.rewards.words import split_words

__all__ = ["distinct_n", "reward_alignment", "self_bleu"]

NGram = tuple[str, ...]


def distinct_n(texts: Sequence[str], n: int, *, pooled: bool = True) -> float:
    r"""Return $\text{Distinct-}n = |\{n\text{-grams}\}| / \#\text{words}$, from 0 to 1.

    >>> distinct_n(["a b a b", "a b"], n=2)  # (a b), (b a): 2 of 6 words
    0.3333333333333333
    >>> distinct_n(["a b a b", "a b"], n=2, pooled=False)  # the mean of 2 / 4 and 1 / 2
    0.5

    Args:
        texts: what was written.
        n: words of an n-gram.
        pooled: count over all texts together (diversity of the whole); False counts in each text
            and takes the mean (repetition within texts). Texts without words are left out.

    Raises:
        TypeError: one string instead of several.
        ValueError: no text with a word, or `n` below 1.
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be an integer of at least 1, got {n!r}")
    rows = _words(texts, at_least=1)
    if not pooled:
        return float(np.mean([len(_grams(words, n)) / len(words) for words in rows]))
    kinds = set().union(*(_grams(words, n) for words in rows))
    return len(kinds) / sum(map(len, rows))


def self_bleu(texts: Sequence[str], *, order: int = 4) -> float:
    """Return the mean BLEU of each text with all others as references, from 0 to 1.

    By the package sacrebleu, on words, with its exponential smoothing; orders longer than the text
    are left out. The matches with all other texts are counted for all texts at once, so time grows
    with the number of words only.

    >>> self_bleu(["a warm film", "a warm film", "a warm film"])
    1.0
    >>> round(self_bleu(["a b c", "a d e"], order=1), 6)  # each shares one of its three words
    0.333333

    Args:
        texts: what was written; those without words are left out.
        order: longest n-gram.

    Raises:
        ImportError: sacrebleu is missing.
        TypeError: one string instead of several.
        ValueError: fewer than two texts with words, or `order` below 1.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ImportError("self_bleu needs sacrebleu: pip install 'text_envs[metrics]'") from error
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"order must be an integer of at least 1, got {order!r}")
    rows = _words(texts, at_least=2)
    counts = [_counts(words, order) for words in rows]
    most_often = _two_highest(counts)
    lengths = Counter(map(len, rows))
    scores = []
    for row, (words, grams) in enumerate(zip(rows, counts, strict=True)):
        correct, total = [0] * order, [0] * order
        for gram, count in grams.items():
            owner, highest, second = most_often[gram]
            total[len(gram) - 1] += count
            correct[len(gram) - 1] += min(count, second if owner == row else highest)
        closest = _closest(lengths, len(words))
        score: Any = BLEU.compute_bleu(
            correct, total, len(words), closest, smooth_method="exp", effective_order=True,
            max_ngram_order=order,
        )  # fmt: skip
        scores.append(score.score / 100)
    return min(float(np.mean(scores)), 1.0)  # rounding may carry it past


def reward_alignment(
    demonstrations: Any, rewards: Any, *, bins: int | Sequence[float] = 20, smoothing: float = 0.01
) -> float:
    r"""Return $A = KL(\rho_{demo} \| \rho_\pi) = \sum_k d_k \log (d_k / p_k)$, in nats.

    $d_k$ and $p_k$ are the shares of the demonstrations' and of the policy's rewards in bin k of a
    common histogram. 0 means that rewards are spread alike; it says nothing about the texts. Of
    finite samples A is above 0 even if they come from one distribution, by about (number of bins
    in use - 1) / 2 * (1 / number of demonstrations + 1 / number of rewards).

    >>> round(reward_alignment([0, 0, 1, 1], [0, 1, 1, 1], bins=2, smoothing=0), 6)
    0.143841
    >>> reward_alignment([0, 0, 1, 1], [1, 0, 1, 0])
    0.0

    Args:
        demonstrations: `(n,)` rewards of demonstrations.
        rewards: `(m,)` rewards of the policy's texts.
        bins: how many of equal width, from the lowest to the highest of both; or the edges between
            bins, increasing, where the outer bins reach to infinity. Policies are comparable under
            the same edges only.
        smoothing: share of the uniform distribution over the bins that both histograms are mixed
            with, from 0 to 1, so that an empty bin does not make A infinite.

    Raises:
        ValueError: no rewards, rewards that are not finite, or an argument that is not accepted.
    """
    demo, own = (
        _finite(name, values)
        for name, values in (("demonstrations", demonstrations), ("rewards", rewards))
    )
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be a share, from 0 to 1, got {smoothing!r}")
    edges = _edges(bins, np.concatenate([demo, own]))
    count = len(edges) + 1
    d, p = (
        np.bincount(np.searchsorted(edges, values, side="right"), minlength=count) / len(values)
        for values in (demo, own)
    )
    d, p = ((1 - smoothing) * shares + smoothing / count for shares in (d, p))
    used = d > 0
    if (p[used] == 0).any():
        return float("inf")
    return float((d[used] * np.log(d[used] / p[used])).sum())


def _finite(name: str, values: Any) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError(
            f"{name} must be a row of at least one finite number, got shape {numbers.shape}"
            + ("" if np.isfinite(numbers).all() else ", not all finite")
        )
    return numbers


def _edges(bins: int | Sequence[float], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edges between bins."""
    if isinstance(bins, int):
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        low, high = values.min(), values.max()
        # The highest value belongs to the last bin, as all edges but the outer two remain.
        return np.asarray(np.linspace(low, high, bins + 1)[1:-1], dtype=np.float64)
    edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ValueError(f"edges of bins must be finite and increasing, got {bins!r}")
    return edges


def _counts(words: Sequence[str], order: int) -> Counter[NGram]:
    return Counter(
        tuple(words[i : i + n]) for n in range(1, order + 1) for i in range(len(words) - n + 1)
    )


def _two_highest(counts: Sequence[Counter[NGram]]) -> dict[NGram, tuple[int, int, int]]:
    """Return for each n-gram the row that has it most often, how often, and the runner-up's count.

    From them follows how often the others of any row have it at most.
    """
    best: dict[NGram, tuple[int, int, int]] = {}
    for row, grams in enumerate(counts):
        for gram, count in grams.items():
            owner, highest, second = best.get(gram, (-1, 0, 0))
            if count > highest:
                best[gram] = (row, count, highest)
            elif count > second:
                best[gram] = (owner, highest, count)
    return best


def _closest(lengths: Counter[int], own: int) -> int:
    """Return the length nearest to `own` among the other texts, the shorter one in a draw."""
    others = (length for length, count in lengths.items() if length != own or count > 1)
    return min(others, key=lambda length: (abs(length - own), length))


def _words(texts: Sequence[str], at_least: int) -> list[list[str]]:
    if isinstance(texts, str):
        raise TypeError("texts must be several strings, got one; its characters are no texts")
    rows = [words for text in texts if (words := split_words(text))]
    if len(rows) < at_least:
        raise ValueError(
            f"needs at least {at_least} text{'s' * (at_least > 1)} with a word, got {len(rows)} of "
            f"{len(texts)}"
        )
    return rows


def _grams(words: Sequence[str], n: int) -> set[NGram]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
