"""The language of visual dialogue as tables: questions to numbers, answers to tokens and costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import Turns
from text_envs.tasks.visual_dialogue.records import normalise
from text_envs.tokens.builtin import WordTokenizer
from text_envs.tokens.protocol import Tokenizer

__all__ = ["Language", "longest", "penalties"]

_PENALTY = 2.0
# What opens a question to be answered by yes or no.
_OPENERS = frozenset("is are was were am do does did can could has have had will would".split())
# Words of answers that say little more than yes, no or perhaps.
_KEYWORDS = frozenset(
    "yes yeah yep no nope not n't maybe perhaps possibly probably looks look appears appear seems "
    "seem tell think guess sure unsure unclear".split()
)


def penalties(answers: Sequence[str], reward_kind: str) -> NDArray[np.float64]:
    """Return what each answer costs beyond the question, `(B,)`: 0, or 2 for an idle answer.

    Args:
        answers: texts.
        reward_kind: "standard" never charges, "yes_no" charges for exactly yes or no,
            "conservative" for any of a list of words.
    """
    if reward_kind == "standard":
        return np.zeros(len(answers))
    if reward_kind == "yes_no":
        idle = [normalise(answer) in ("yes", "no") for answer in answers]
    else:
        idle = [not _KEYWORDS.isdisjoint(WordTokenizer.split(answer)) for answer in answers]
    return _PENALTY * np.array(idle, dtype=np.float64)


def longest(sequences: Iterable[Sequence[int]]) -> int:
    """Return the greatest length."""
    return max(map(len, sequences))


class Language:
    """Questions and answers of a world in the ids of a tokenizer.

    Attributes:
        replies: `(A + 2, R)` the tokens of each answer, closed by a full stop, and of `others`.
        others: what is said in place of an answer.
        pardon: number of the reply to what is no question.
        cannot_tell: number of the reply to a question without an answer.
        askable: numbers of the questions that the tokenizer can write.
        polar: those of them that are answered by yes or no; all, if there are none.
    """

    others = ("pardon", "i can not tell")

    def __init__(
        self, tokenizer: Tokenizer, questions: Sequence[str], answers: Sequence[str]
    ) -> None:
        """Encode everything once.

        Raises:
            ValueError: the tokenizer can write none of the questions.
        """
        self._tokenizer = tokenizer
        self._stop, self._mark = tokenizer.encode("."), tokenizer.encode("?")
        self._answers = {answer: number for number, answer in enumerate(answers)}
        self.pardon, self.cannot_tell = len(answers), len(answers) + 1
        replies = [tokenizer.encode(text) + self._stop for text in (*answers, *self.others)]
        self.longest_answer = longest(replies)
        self.replies = self._pad(replies, self.longest_answer)
        self._questions = [tokenizer.encode(question) for question in questions]
        self.longest_question = longest(self._questions)
        writable = [number for number, ids in enumerate(self._questions) if self._can_write(ids)]
        if not writable:
            raise ValueError(f"{tokenizer!r} can write none of the {len(questions)} questions")
        self.askable = np.array(writable)
        polar = [number for number in writable if questions[number].split()[0] in _OPENERS]
        self.polar = np.array(polar or writable)
        self._index(self._pad(self._questions, self.longest_question)[self.askable])

    def _can_write(self, ids: Sequence[int]) -> bool:
        known = all(i < self._tokenizer.num_actions and i != self._tokenizer.eos_id for i in ids)
        return bool(ids) and known and not self._tokenizer.forbidden[list(ids)].any()

    def _pad(self, rows: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
        table = np.full((len(rows), width), self._tokenizer.pad_id, dtype=np.int64)
        for row, ids in zip(table, rows, strict=True):
            row[: len(ids[:width])] = ids[:width]
        return table

    def _index(self, table: NDArray[np.int64]) -> None:
        """Sort the questions by a hash: one search finds those of a whole batch."""
        rng = np.random.default_rng(0)
        self._factors = rng.integers(2**63, size=table.shape[1], dtype=np.int64) | 1
        hashes = table @ self._factors  # overflows on purpose
        order = hashes.argsort(kind="stable")
        self._hashes, self._sorted, self._numbers = hashes[order], table[order], self.askable[order]

    def read(self, turns: Turns) -> NDArray[np.int64]:
        """Return the number of the question in each turn, `(B,)`, -1 if it is none."""
        batch = np.arange(len(turns.rows))
        pad, width = self._tokenizer.pad_id, self._sorted.shape[1]
        stop = turns.stop - (turns.tokens[batch, turns.stop - 1] == self._tokenizer.eos_id)
        if len(self._mark) == 1:
            last = turns.tokens[batch, np.maximum(stop - 1, 0)]
            stop = stop - ((stop > turns.start) & (last == self._mark[0]))
        columns = turns.start[:, None] + np.arange(width)  # (B, width)
        inside = np.minimum(columns, turns.tokens.shape[1] - 1)
        words = np.where(columns < stop[:, None], turns.tokens[batch[:, None], inside], pad)
        hashes = words @ self._factors
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        same = (self._sorted[at] == words).all(axis=1) & (stop - turns.start <= width)
        return np.where(same, self._numbers[at], -1)

    def write(self, question: int) -> list[int]:
        """Return the tokens of a question with its mark, where there is one, and the end."""
        mark = self._mark if self._can_write(self._mark) else []
        return [*self._questions[question], *mark, self._tokenizer.eos_id]

    def hear(self, texts: Sequence[str], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of answers in free text, `(B,)`, and their tokens, `(B, width)`.

        An answer that the world does not know counts as `cannot_tell` and keeps its words.
        """
        numbers = [self._answers.get(normalise(text), self.cannot_tell) for text in texts]
        stop = len(self._stop)
        rows = [self._tokenizer.encode(normalise(text))[: width - stop] for text in texts]
        return np.array(numbers), self._pad([row + self._stop for row in rows], width)
