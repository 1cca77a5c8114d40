"""Recorded visual dialogues: the VisDial files, and a world whose answers are the recorded ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example
from text_envs.tasks.shared.data import load_examples, read_lines
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["Recordings", "load_dialogues"]


class Recordings:
    """Dialogues about real images, each of which plays the hidden one among its neighbours.

    A question is answered if it was asked in the recorded dialogue, word for word. A candidate is
    contradicted where its own dialogue has another answer to that question.

    Attributes:
        contexts: the dialogues: caption, recorded text, and the turns in the metadata.
        questions: every recorded question, normalised.
        answers: every recorded answer, normalised.
        candidates: dialogues in a pool; fewer if there are not so many.
    """

    def __init__(self, dialogues: Sequence[Example], candidates: int, source: str) -> None:
        """Number the questions and answers.

        Args:
            dialogues: examples with `metadata["dialog"]`, as `load_dialogues` returns them.
            candidates: dialogues in a pool.
            source: names the data in errors.

        Raises:
            DatasetError: fewer than two dialogues, or nothing was asked in any of them.
        """
        if len(dialogues) < 2:
            raise DatasetError(f"{source}: needs two dialogues or more, got {len(dialogues)}")
        rounds = max(len(dialogue.metadata["dialog"]) for dialogue in dialogues)
        if rounds == 0:
            raise DatasetError(f"{source}: no question was asked in any dialogue")
        self.contexts = list(dialogues)
        self.candidates = min(candidates, len(dialogues))
        questions: dict[str, int] = {}
        answers: dict[str, int] = {}
        # Numbers of the question and the answer of each turn, -1 where there is none.
        self._asked = np.full((len(dialogues), rounds), -1, dtype=np.int64)
        self._answered = np.full((len(dialogues), rounds), -1, dtype=np.int64)
        for row, dialogue in enumerate(dialogues):
            for turn, (question, answer) in enumerate(dialogue.metadata["dialog"]):
                question, answer = normalise(question), normalise(answer)
                self._asked[row, turn] = questions.setdefault(question, len(questions))
                self._answered[row, turn] = answers.setdefault(answer, len(answers))
        self.questions, self.answers = list(questions), list(answers)

    def __len__(self) -> int:
        return len(self.contexts)

    def context(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the dialogue of each example, `(B,)`: the example itself."""
        return indices

    def _first(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        start = indices // self.candidates * self.candidates
        return np.minimum(start, len(self) - self.candidates)

    def place(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which dialogue of its pool each example is, `(B,)`."""
        return indices - self._first(indices)

    def example(self, index: int) -> Example:
        """Return the recorded dialogue."""
        return self.contexts[index]

    def answer(self, indices: NDArray[np.int64], questions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the recorded answers, `(B,)`, -1 where the question was not asked."""
        hits = self._asked[indices] == questions[:, None]  # (B, rounds)
        answers = self._answered[indices, hits.argmax(axis=1)]
        return np.where(hits.any(axis=1), answers, -1)

    def contradictions(
        self,
        indices: NDArray[np.int64],
        questions: NDArray[np.int64],
        answers: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return which candidates were recorded with another answer, `(B, n)`."""
        pool = self._first(indices)[:, None] + np.arange(self.candidates)  # (B, n)
        hits = self._asked[pool] == questions[:, None, None]  # (B, n, rounds)
        others: NDArray[np.bool_] = (hits & (self._answered[pool] != answers[:, None, None])).any(
            axis=2
        )
        return others

    def expert(
        self, index: int, fitting: NDArray[np.bool_], asked: int, penalties: NDArray[np.float64]
    ) -> int:
        """Return the next recorded question: people are the experts here."""
        questions = self._asked[index][self._asked[index] >= 0]
        return int(questions[asked % len(questions)]) if len(questions) else 0


def normalise(text: str) -> str:
    """Return the words of a text with single spaces, without a question mark or stop at the end."""
    words = WordTokenizer.split(text)
    while words and words[-1] in (".", "?"):
        words.pop()
    return " ".join(words)


def load_dialogues(dataset: Any, split: str) -> list[Example]:
    """Return captions with their dialogues.

    Args:
        dataset: a VisDial file (`visdial_1.0_train.json`, whose turns are numbers of entries in
            its lists of questions and answers); or anything `load_examples` reads, with the
            caption in `caption` and in `dialog` a list of question and answer pairs.
        split: the split of a Hub data set; a file is a split.

    Raises:
        DatasetError: the message names the file and the field.
    """
    if isinstance(dataset, str | Path) and Path(dataset).suffix == ".json":
        return _read_visdial(Path(dataset))
    examples = load_examples(dataset, split=split, fields=("caption", "prompt", "text"))
    source = dataset if isinstance(dataset, str | Path) else type(dataset).__name__
    return [
        _as_dialogue(
            example.prompt,
            _pairs(example.metadata.get("dialog"), f"{source}, item {number}: field 'dialog'"),
            {key: value for key, value in example.metadata.items() if key != "dialog"},
        )
        for number, example in enumerate(examples, start=1)
    ]


def _as_dialogue(
    caption: str, pairs: Sequence[tuple[str, str]], metadata: Mapping[str, Any]
) -> Example:
    text = " ".join(f"{question} ? {answer} ." for question, answer in pairs)
    return Example(caption, (text,) if pairs else (), {**metadata, "dialog": tuple(pairs)})


def _pairs(turns: Any, where: str) -> list[tuple[str, str]]:
    """Return the turns of a dialogue; the last one of VisDial's test split has no answer."""
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise DatasetError(f"{where}: expected a list of turns, got {turns!r}")
    pairs = []
    for number, turn in enumerate(turns):
        if isinstance(turn, Mapping):
            turn = (turn.get("question"), turn.get("answer", ""))
        if not isinstance(turn, Sequence) or len(turn) != 2:
            raise DatasetError(f"{where}[{number}]: expected question and answer, got {turn!r}")
        if not all(isinstance(text, str) for text in turn):
            raise DatasetError(f"{where}[{number}]: expected two texts, got {turn!r}")
        if turn[1]:
            pairs.append((turn[0], turn[1]))
    return pairs


def _read_visdial(path: Path) -> list[Example]:
    try:
        content = json.loads("\n".join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}, line {error.lineno}: not JSON ({error.msg} at column {error.colno})"
        ) from error
    data = _get(content, "data", dict, f"{path}")
    questions, answers = (
        _get(data, name, list, f"{path}: data") for name in ("questions", "answers")
    )
    dialogues = []
    for number, dialog in enumerate(_get(data, "dialogs", list, f"{path}: data")):
        where = f"{path}: data.dialogs[{number}]"
        caption = _get(dialog, "caption", str, where)
        pairs = []
        for place, turn in enumerate(_get(dialog, "dialog", list, where)):
            at = f"{where}.dialog[{place}]"
            question = _look_up(questions, _get(turn, "question", int, at), f"{at}.question")
            if "answer" in turn:
                answer = _look_up(answers, _get(turn, "answer", int, at), f"{at}.answer")
                pairs.append((question, answer))
        dialogues.append(_as_dialogue(caption, pairs, {"image_id": dialog.get("image_id")}))
    return dialogues


def _get(mapping: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(mapping, dict):
        raise DatasetError(f"{where}: expected an object, got {type(mapping).__name__}")
    if not isinstance(mapping.get(key), kind) or isinstance(mapping[key], bool):
        found = repr(mapping[key])[:80] if key in mapping else "nothing"
        raise DatasetError(f"{where}.{key}: expected {kind.__name__}, got {found}")
    return mapping[key]


def _look_up(texts: Sequence[Any], index: int, where: str) -> str:
    if not 0 <= index < len(texts):
        raise DatasetError(f"{where}: {index} is not an entry; accepted: 0..{len(texts) - 1}")
    if not isinstance(texts[index], str):
        raise DatasetError(f"{where}: entry {index} must be a text, got {texts[index]!r}")
    text: str = texts[index]
    return text
