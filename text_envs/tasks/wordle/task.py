"""Wordle: find a hidden word in six guesses, letter by letter, with marks as replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.errors import DatasetError, suggest
from text_envs.episodes.types import Example, Replies, Turns
from text_envs.tasks.wordle.players import AdversarialSet, Player, adversarial_set
from text_envs.tasks.wordle.words import (
    LENGTH,
    WordleTokenizer,
    as_letters,
    feedback,
    load_words,
    pattern_codes,
    pattern_table,
)

__all__ = ["SPLITS", "Wordle"]

SPLITS = ("train", "validation", "test", "all")
_SEED = 2022  # of the split of words
_HELD_OUT = 0.1  # share of the words in each of validation and test
_CODE = 26 ** np.arange(LENGTH)


class Wordle(Task):
    """Guess a five-letter word; green, yellow and grey marks tell how close a guess was.

    ## Description
    The agent spells a guess letter by letter and ends it with the end token. The reply marks
    each letter: green, it stands there; yellow, it stands elsewhere; grey, it does not occur
    (again): one letter of the target answers for one letter of the guess, green before yellow,
    left before right. The task is a test of multi-step planning from imperfect data:
    `demonstrations` plays six scripted policies, `adversarial_set` makes data in which good
    openings were mostly played by bad players.

    ## Action Space
    `Discrete(27)`: the letters a to z, and the end of the guess. Marks lie outside the action
    space.

    ## Observation Space
    `Box(0, 33, (62,), int64)`: one prompt column that holds the begin token, 61 columns for six
    guesses of up to six tokens and five replies of five marks. With `auto_submit` a guess takes
    five tokens and the shape is (56,).

    ## Rewards
    -1 on the last token of every guess, 0 if it is the hidden word: returns from -6 to 0. A guess
    of fewer or more than five letters costs a try and -1 and gets no marks, only the token that
    says so; the sixth token ends a guess in any case.

    ## Starting State
    The begin token; the hidden word is drawn uniformly from the split. With `target="fixed"`, the
    default, it stays for the episode. With `target="resample"` it is drawn again before every
    guess, uniformly among the words of the split that fit all marks so far: observations and
    rewards have the same distribution, but now depend on nothing that is hidden, so that they
    are an MDP in the strict sense.

    ## Episode End
    The hidden word was guessed (`finish_reason="solved"`) or six tries are used up (`"lost"`).

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `split="train"`: "train", "validation", "test" hide 80, 10 and 10 percent of the words; "all",
    as in the papers, hides any. Guesses may use the whole list in every split. `words="small"`:
    400 words; "full": 3,000; or a file with one word a line. `dataset=None`: a word list of your
    own in place of `words`: a file, a Hub name, a Python list. `target="fixed"`: or "resample",
    see above. `off_list="allow"`: five letters that are no word of the list get marks like any
    other guess; "reject" treats them as malformed. `tries=6`. `auto_submit=False`: True ends a
    guess at its fifth letter, without an end token; off by default, because then the token that
    ends a turn carries its reward, as in all tasks with turns. `reward`, `reward_kwargs`,
    `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The task, the scripted policies and the adversarial set follow Snell et al., "Offline RL for
    natural language generation with implicit language Q learning", 2022, arXiv 2206.11871; marks
    of repeated letters follow the rule of the newspaper game. Word lists: see
    `text_envs/assets/wordle/card.json`.
    """

    multi_turn = True
    qualities = ("random", "mixed", "expert", "suboptimal", "wrong", "repeat")

    def __init__(
        self,
        *,
        split: str = "train",
        words: Any = "small",
        dataset: Any = None,
        target: str = "fixed",
        off_list: str = "allow",
        tries: int = 6,
        auto_submit: bool = False,
    ) -> None:
        """Load the words.

        Args:
            split: which words may be hidden.
            words: a bundled list by name, or a file.
            dataset: a word list of your own, see `load_words`; excludes `words`.
            target: "fixed" or "resample".
            off_list: "allow" or "reject".
            tries: number of guesses, at least 1.
            auto_submit: end a guess at its fifth letter.

        Raises:
            ValueError: an argument that is none of these.
            DatasetError: a word list that cannot be used, or is too short for its split.
        """
        _check("split", split, SPLITS)
        _check("target", target, ("fixed", "resample"))
        _check("off_list", off_list, ("allow", "reject"))
        if not isinstance(tries, int | np.integer) or tries < 1:
            raise ValueError(f"tries must be an integer of at least 1, got {tries!r}")
        if dataset is not None and words != "small":
            raise ValueError("words and dataset both choose the word list; give one")
        self.words = load_words(words if dataset is None else dataset)
        self.hidden = _split(len(self.words), split)
        self.tries = int(tries)
        self.max_turn_tokens = LENGTH if auto_submit else LENGTH + 1
        super().__init__(
            [Example("", metadata={"target": self.words[index]}) for index in self.hidden],
            tokenizer=WordleTokenizer(),
            prompt_length=1,
            max_tokens=self.tries * self.max_turn_tokens + (self.tries - 1) * LENGTH,
        )
        self.tokenizer: WordleTokenizer
        self._resample = target == "resample"
        self._reject = off_list == "reject"
        self._auto_submit = auto_submit
        self._letters = as_letters(self.words)  # (W, 5)
        self._targets = self._letters[self.hidden]  # (T, 5)
        codes = self._letters @ _CODE
        self._order = np.argsort(codes)
        self._codes = codes[self._order]
        # One row per guess, so that narrowing a batch gathers whole rows.
        table = pattern_table(self.words) if self._resample else None
        self._patterns = None if table is None else np.ascontiguousarray(table[:, self.hidden])
        self._player = Player(self.words)

    def memory(self, num_envs: int) -> dict[str, NDArray[Any]]:
        """Return what an episode is: the hidden word, the tries, and what resampling needs."""
        memory: dict[str, NDArray[Any]] = {
            "target": np.zeros(num_envs, dtype=np.int64),
            "tries": np.zeros(num_envs, dtype=np.int64),
        }
        if self._resample:
            memory["fits"] = np.ones((num_envs, len(self)), dtype=bool)
            memory["draws"] = np.zeros((num_envs, self.tries))
        return memory

    def begin(
        self,
        memory: Mapping[str, NDArray[Any]],
        rows: NDArray[np.int64],
        indices: NDArray[np.int64],
        rngs: Sequence[np.random.Generator],
    ) -> None:
        """Hide the word of each example."""
        memory["target"][rows] = indices
        memory["tries"][rows] = 0
        if self._resample:
            memory["fits"][rows] = True
            # All draws of an episode at once: a generator's call costs more than its numbers.
            memory["draws"][rows] = [rng.random(self.tries) for rng in rngs]

    def reply(self, turns: Turns) -> Replies:
        """Mark the guesses."""
        memory, rows, tokenizer = turns.memory, turns.rows, self.tokenizer
        batch = np.arange(len(rows))
        columns = np.minimum(turns.start[:, None] + np.arange(LENGTH), turns.tokens.shape[1] - 1)
        guesses = turns.tokens[batch[:, None], columns]  # (B, 5)
        ended = turns.tokens[batch, turns.stop - 1] == tokenizer.eos_id
        accepted = turns.stop - turns.start - ended == LENGTH
        if self._reject:
            accepted &= self._positions(guesses) >= 0
        marks = feedback(guesses, self._targets[memory["target"][rows]])  # (B, 5)
        solved = accepted & (marks == 2).all(axis=1)
        tries = memory["tries"][rows] + 1
        memory["tries"][rows] = tries
        done = solved | (tries == self.tries)
        refusal = np.full(LENGTH, tokenizer.pad_id)
        refusal[0] = tokenizer.refused
        replies = np.where(accepted[:, None], marks + np.int64(tokenizer.grey), refusal)
        if self._resample:
            going_on = np.flatnonzero(accepted & ~done)
            self._narrow(memory["fits"], rows[going_on], guesses[going_on], marks[going_on])
            self._draw(memory, rows[~done], tries[~done])
        reasons = np.where(solved, "solved", "lost").tolist()
        return Replies(replies, np.where(solved, 0.0, -1.0), done, reasons)

    def _positions(self, guesses: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where guesses `(B, 5)` stand in the list, -1 for those that do not, `(B,)`."""
        codes = guesses @ _CODE
        at = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return np.where(self._codes[at] == codes, self._order[at], -1)

    def _narrow(
        self,
        fits: NDArray[np.bool_],
        rows: NDArray[np.int64],
        guesses: NDArray[np.int64],
        marks: NDArray[np.int8],
    ) -> None:
        """Strike out the words that would have been marked otherwise."""
        assert self._patterns is not None
        codes = pattern_codes(marks)[:, None]
        positions = self._positions(guesses)
        known = np.flatnonzero(positions >= 0)
        fits[rows[known]] &= self._patterns[positions[known]] == codes[known]  # (B, T)
        for i in np.flatnonzero(positions < 0).tolist():
            patterns = pattern_codes(feedback(guesses[i], self._targets))
            fits[rows[i]] &= patterns == codes[i]

    @staticmethod
    def _draw(
        memory: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], tries: NDArray[np.int64]
    ) -> None:
        """Hide another word in each row, uniformly among those that fit."""
        rank = memory["fits"][rows].cumsum(axis=1, dtype=np.int32)  # (B, T)
        chosen = np.floor(memory["draws"][rows, tries] * rank[:, -1])
        memory["target"][rows] = (rank > chosen[:, None]).argmax(axis=1)

    # -- scripted players ----------------------------------------------------------------------

    def draw_qualities(self, quality: str, rngs: Sequence[np.random.Generator]) -> list[str]:
        """Return the policy of each episode; "mixed" draws one of the four that know words."""
        if quality != "mixed":
            return [quality] * len(rngs)
        policies = ("expert", "suboptimal", "wrong", "repeat")
        return [policies[rng.integers(len(policies))] for rng in rngs]

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return a guess of a scripted policy for each row; it sees what an agent sees."""
        end = [] if self._auto_submit else [self.tokenizer.eos_id]
        histories = self._player.histories(turns.tokens[:, self.prompt_length :], self.tokenizer)
        guesses = [
            self._player.guess(history, quality, rng)
            for history, quality, rng in zip(histories, qualities, turns.rngs, strict=True)
        ]
        return [[*letters, *end] for letters in self._letters[guesses].tolist()]

    def adversarial_set(self, n: int, *, seed: int = 0) -> AdversarialSet:
        """Return games that tempt an agent to shun the best opening, see `adversarial_set`."""
        return adversarial_set(self, n, seed)

    def __repr__(self) -> str:
        return f"Wordle({len(self)} of {len(self.words)} words)"


def _check(name: str, value: Any, accepted: Sequence[str]) -> None:
    if value not in accepted:
        raise ValueError(f"unknown {name} {value!r}.{suggest(str(value), accepted)}")


def _split(count: int, split: str) -> NDArray[np.int64]:
    """Return the positions of the words of a split, in order."""
    if split == "all":
        return np.arange(count)
    order = np.random.default_rng([_SEED, count]).permutation(count)
    held_out = int(_HELD_OUT * count)
    parts = np.split(order, [held_out, 2 * held_out])
    chosen = parts[{"test": 0, "validation": 1, "train": 2}[split]]
    if not len(chosen):
        raise DatasetError(f"split {split!r} of {count} words is empty; use split='all'")
    return np.sort(chosen)
