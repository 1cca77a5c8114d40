"""Whether an answer is right: equal to an accepted one up to case, spaces and full stops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.types import EpisodeBatch
from text_envs.tokens.builtin import CharTokenizer, WordTokenizer
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.stopping import StopStrings

__all__ = ["ExactMatch", "normalise"]


def normalise(text: str) -> str:
    """Return the text in lower case without spaces and full stops.

    >>> normalise(" Ann Lee. ")
    'annlee'
    """
    return text.lower().replace(" ", "").replace(".", "")


class ExactMatch:
    """Reward 1 for an accepted answer, 0 for any other; belongs to the examples of one task.

    Tokens decide where they can. Two token sequences may spell the same text ("1" "2" and "12"),
    so a row whose tokens differ but whose text is as long as an accepted one is compared as text.
    """

    name = "exact_match"

    def __init__(
        self,
        answers: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        columns: int,
        stops: StopStrings | None = None,
    ) -> None:
        """Prepare the tables.

        Args:
            answers: the accepted answers of each of the M examples.
            tokenizer: of the task. Only with the built-in ones is the text of a sequence made of
                the texts of its tokens; with any other tokenizer every answer is decoded.
            columns: the longest answer that fits.
            stops: stop strings, which are no part of an answer.
        """
        self.answers = [frozenset(map(normalise, accepted)) for accepted in answers]
        self.tokenizer = tokenizer
        self._cut = str if stops is None else stops.cut
        self._by_token = stops is None and isinstance(tokenizer, WordTokenizer | CharTokenizer)
        if not self._by_token:
            return
        pieces = [normalise(tokenizer.decode([i])) for i in range(tokenizer.vocab_size)]
        first: dict[str, int] = {}
        # One number a spelling; -1 for what leaves no trace in the text.
        self._spelling = np.array(
            [first.setdefault(piece, i) if piece else -1 for i, piece in enumerate(pieces)]
        )
        self._spelling[tokenizer.pad_id] = -1
        self._piece_length = np.array([len(piece) for piece in pieces])
        most = max(map(len, answers))
        self._gold = np.full((len(answers), most, columns), -2, dtype=np.int64)  # (M, G, T)
        self._gold_length = np.full((len(answers), most), -1, dtype=np.int64)  # (M, G)
        for index, accepted in enumerate(answers):
            for number, answer in enumerate(accepted):
                ids = np.array(tokenizer.encode(answer), dtype=np.int64)
                ids = self._spelling[ids][self._spelling[ids] >= 0]
                self._gold_length[index, number] = len(normalise(answer))
                if len(ids) <= columns:
                    self._gold[index, number] = -1
                    self._gold[index, number, : len(ids)] = ids

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B,)`."""
        indices = episodes.example_indices
        if not self._by_token or episodes.tokenizer is not self.tokenizer:
            return np.array(
                [
                    float(normalise(self._cut(text)) in self.answers[index])
                    for text, index in zip(episodes.texts, indices.tolist(), strict=True)
                ]
            )
        response = episodes.response  # (B, T)
        spelled = self._spelling[response]
        silent = spelled < 0
        if (silent[:, :-1] & ~silent[:, 1:]).any():
            order = np.argsort(silent, axis=1, kind="stable")
            spelled = np.take_along_axis(spelled, order, axis=1)
        right: NDArray[np.bool_] = (
            (spelled[:, None, :] == self._gold[indices]).all(axis=2).any(axis=1)
        )  # (B, T) against (B, G, T)
        length = np.where(spelled < 0, 0, self._piece_length[spelled]).sum(axis=1)  # (B,)
        doubtful = ~right & (length[:, None] == self._gold_length[indices]).any(axis=1)
        for row in np.flatnonzero(doubtful).tolist():
            text = self.tokenizer.decode(response[row].tolist())
            right[row] = normalise(text) in self.answers[int(indices[row])]
        return right.astype(np.float64)
