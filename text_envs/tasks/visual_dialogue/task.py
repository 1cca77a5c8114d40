"""Visual dialogue: ask about a hidden scene until a guesser can pick it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.task import Task
from text_envs.episodes.errors import suggest
from text_envs.episodes.types import Example, Replies, Turns
from text_envs.tasks.visual_dialogue.language import Language, longest, penalties
from text_envs.tasks.visual_dialogue.records import Recordings, load_dialogues
from text_envs.tasks.visual_dialogue.scenes import SPLITS, VOCABULARY, Scenes, load_scenes
from text_envs.tokens.builtin import WordTokenizer
from text_envs.tokens.protocol import Tokenizer

__all__ = ["REWARD_KINDS", "SPLITS", "Answerer", "VisualDialogue"]

REWARD_KINDS = ("standard", "yes_no", "conservative")

Answerer = Callable[[Sequence[str], Sequence[Example]], Sequence[str]]
"""Questions and the examples they are about, to answers."""


class VisualDialogue(Task):
    """Find out by questions which of 128 scenes is meant; talk of yes and no can cost extra.

    ## Description
    Two players look for a picture. The agent knows a caption and asks questions; an answerer, who
    sees the picture, replies; a guesser ranks the candidate pictures after every answer. Pictures
    are symbolic here: a place with three kinds of things, each with colour, size, number and
    side. The caption tells two of the three, and all candidates fit it, so that what pays is to
    ask about things that are likely in that place but have not been told. The questions are
    `is there a dog`, `what colour is the dog`, `how big is the dog`, `where is the dog`,
    `how many dogs are there`, `is the dog red`, for 16 kinds and 6 colours, with or without a
    question mark.

    ## Action Space
    `Discrete(76)`: the 75 words of questions and answers, and the end of a question.

    ## Observation Space
    `Box(0, 78, (135,), int64)`: 20 prompt columns, left-padded, and 115 columns for ten questions
    of up to seven tokens and nine replies of up to five.

    ## Rewards
    -1 for every question, 0 for the one that ends the search: returns from -10 to 0. With
    `reward_kind="yes_no"` a further -2, on the last question too, whenever the answer is exactly
    "yes" or "no"; with "conservative" whenever it contains a word such as yes, no, not, maybe.
    What is no question of the language is answered "pardon" and costs -1.

    ## Starting State
    A caption, with a scene drawn uniformly from those of its pool; 256 captions of 128 scenes in
    the training split, and no caption in two splits.

    ## Episode End
    The guesser's progress reaches half of what was missing (`finish_reason="found"`), or ten
    questions have been asked (`"rounds"`). The guesser is Bayesian: all candidates are equally
    likely before, and an answer is believed to be wrong with a small, constant probability, so
    that candidates rank by the number of answers they contradict. The percentile rank of the true
    one is the share of the others that rank below it, ties counting half; it starts at 0.5, and
    the search ends once (rank - 0.5) / (1 - 0.5) is at least `goal`.

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    `split="train"`: or "validation", "test". `reward_kind="standard"`: or "yes_no",
    "conservative". `untold=1`: kinds of things that the caption leaves out, 1 to 3; more are
    found sooner. `candidates=128`: scenes in a pool, 2 to 512. `rounds=10`: questions.
    `goal=0.5`: the share of the missing rank that ends the search. `answerer=None`: who replies,
    a callable that takes a list of questions and the list of examples they are about
    (`example.metadata["scene"]`) and returns a list of answers, for example a model's; None for
    the exact one. An answer in words of its own is shown and tells the guesser nothing.
    `dataset=None`: recorded dialogues instead of scenes, a VisDial JSON file or a Hub name with
    `caption` and `dialog`; a recorded question gets its recorded answer, any other "i can not
    tell", and candidates are neighbours in the data. `tokenizer=None`: default the words of the
    world. `prompt_length`, `max_tokens`, `max_turn_tokens`, `max_reply_tokens`: columns, by
    default as many as the world needs; what exceeds `max_tokens` ends with `"length"`.
    `truncate_prompts=False`: shorten captions that do not fit. `reward`, `reward_kwargs`,
    `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The game is Das et al., "Learning cooperative visual dialog agents with deep reinforcement
    learning", 2017, arXiv 1703.06585; its rewards follow Snell et al., "Offline RL for natural
    language generation with implicit language Q learning", 2022, arXiv 2206.11871.
    """

    multi_turn = True
    qualities = ("random", "mixed", "expert", "any", "polar")

    def __init__(
        self,
        *,
        split: str = "train",
        dataset: Any = None,
        reward_kind: str = "standard",
        untold: int = 1,
        candidates: int = 128,
        rounds: int = 10,
        goal: float = 0.5,
        answerer: Answerer | None = None,
        tokenizer: Tokenizer | None = None,
        prompt_length: int | None = None,
        max_tokens: int | None = None,
        max_turn_tokens: int | None = None,
        max_reply_tokens: int | None = None,
        truncate_prompts: bool = False,
    ) -> None:
        """Draw the scenes, or load the dialogues.

        Args:
            split: which captions.
            dataset: recorded dialogues, see `load_dialogues`.
            reward_kind: one of `REWARD_KINDS`.
            untold: kinds of things that captions of scenes leave out, 1 to 3.
            candidates: scenes in a pool, 2 to 512.
            rounds: questions in an episode, 1 to 200.
            goal: share of the missing percentile rank that ends the search, above 0, at most 1.
            answerer: who replies; None for the exact answerer.
            tokenizer: default a word tokenizer of the world's words.
            prompt_length: columns for the caption.
            max_tokens: columns for the dialogue.
            max_turn_tokens: tokens after which a question ends by itself.
            max_reply_tokens: a longer reply is cut.
            truncate_prompts: keep the last tokens of a caption that does not fit.

        Raises:
            ValueError: an argument out of range.
            DatasetError: dialogues that cannot be used.
        """
        _check(split, dataset, reward_kind, answerer)
        limits = (("untold", untold, 1, 3), ("candidates", candidates, 2, 512))
        for name, value, least, most in (*limits, ("rounds", rounds, 1, 200)):
            if not isinstance(value, int | np.integer) or not least <= value <= most:
                raise ValueError(f"{name} must be an integer from {least} to {most}, got {value!r}")
        if not 0 < goal <= 1:
            raise ValueError(f"goal must lie above 0 and be at most 1, got {goal!r}")
        self.world: Scenes | Recordings
        if dataset is None:
            self.world = load_scenes(split, int(candidates), int(untold))
        else:
            source = str(dataset) if isinstance(dataset, str | Path) else type(dataset).__name__
            self.world = Recordings(load_dialogues(dataset, split), int(candidates), source)
        words = _tokenizer(self.world) if tokenizer is None else tokenizer
        self.language = Language(words, self.world.questions, self.world.answers)
        self.rounds, self.goal, self.answerer = int(rounds), float(goal), answerer
        # A question mark and the end token may follow the words of a question.
        turn = _columns("max_turn_tokens", max_turn_tokens, self.language.longest_question + 2)
        reply = _columns("max_reply_tokens", max_reply_tokens, self.language.longest_answer)
        self.max_turn_tokens, self.max_reply_tokens = turn, reply
        captions = [words.encode_prompt(context.prompt) for context in self.world.contexts]
        whole = self.rounds * turn + (self.rounds - 1) * reply
        super().__init__(
            self.world.contexts,
            tokenizer=words,
            prompt_length=longest(captions) if prompt_length is None else prompt_length,
            max_tokens=whole if max_tokens is None else max_tokens,
            truncate_prompts=truncate_prompts,
        )
        self.reward_kind = reward_kind
        self._penalties = penalties([*self.world.answers, *self.language.others], reward_kind)

    def __len__(self) -> int:
        """Return the number of hidden scenes over all captions."""
        return len(self.world)

    def example(self, index: int) -> Example:
        """Return an example; its metadata hold the scene, or the recorded dialogue."""
        return self.world.example(index)

    def prompts(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the captions of the examples, `(B, prompt_length)`."""
        return super().prompts(self.world.context(indices))

    def memory(self, num_envs: int) -> dict[str, NDArray[Any]]:
        """Return the questions asked and, for each candidate, the answers it contradicts."""
        return {
            "asked": np.zeros(num_envs, dtype=np.int64),
            "contradicted": np.zeros((num_envs, self.world.candidates), dtype=np.uint8),
        }

    def begin(
        self,
        memory: Mapping[str, NDArray[Any]],
        rows: NDArray[np.int64],
        indices: NDArray[np.int64],
        rngs: Sequence[np.random.Generator],
    ) -> None:
        """Forget the last search."""
        memory["asked"][rows] = 0
        memory["contradicted"][rows] = 0

    def reply(self, turns: Turns) -> Replies:
        """Answer the questions and let the guesser rank."""
        memory, rows, indices = turns.memory, turns.rows, turns.example_indices
        questions = self.language.read(turns)  # (B,), -1 for what is no question
        understood = np.flatnonzero(questions >= 0)
        answers = np.full(len(rows), self.language.pardon)
        replies = self.language.replies[answers][:, : self.max_reply_tokens]
        costs = self._penalties[answers]
        if len(understood):
            asked, about = questions[understood], indices[understood]
            told, replies[understood], costs[understood] = self._ask(asked, about)
            clear = np.flatnonzero(told < len(self.world.answers))
            memory["contradicted"][rows[understood[clear]]] += self.world.contradictions(
                about[clear], asked[clear], told[clear]
            )
        rank = self.ranks(memory["contradicted"][rows], indices)
        found = (rank - 0.5) / 0.5 >= self.goal
        memory["asked"][rows] += 1
        done = found | (memory["asked"][rows] == self.rounds)
        reasons = np.where(found, "found", "rounds").tolist()
        return Replies(replies, np.where(found, 0.0, -1.0) - costs, done, reasons)

    def _ask(
        self, questions: NDArray[np.int64], indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return the numbers of the answers, their tokens and their penalties."""
        width = self.max_reply_tokens
        if self.answerer is None:
            told = self.world.answer(indices, questions)
            told = np.where(told < 0, self.language.cannot_tell, told)
            return told, self.language.replies[told][:, :width], self._penalties[told]
        asked = [self.world.questions[question] for question in questions.tolist()]
        texts = self.answerer(asked, [self.world.example(index) for index in indices.tolist()])
        if len(texts) != len(asked) or not all(isinstance(text, str) for text in texts):
            raise TypeError(
                f"answerer must return {len(asked)} texts for {len(asked)} questions, got {texts!r}"
            )
        told, tokens = self.language.hear(texts, width)
        return told, tokens, penalties(texts, self.reward_kind)

    def ranks(
        self, contradicted: NDArray[np.uint8], indices: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the percentile rank of the true candidate, `(B,)`, ties counting half.

        Args:
            contradicted: `(B, n)` answers that each candidate contradicts.
            indices: `(B,)` the examples.
        """
        own = contradicted[np.arange(len(indices)), self.world.place(indices)][:, None]
        below = (contradicted > own).sum(axis=1)
        ties = (contradicted == own).sum(axis=1) - 1
        rank: NDArray[np.float64] = (below + ties / 2) / (contradicted.shape[1] - 1)
        return rank

    # -- scripted players ----------------------------------------------------------------------

    def draw_qualities(self, quality: str, rngs: Sequence[np.random.Generator]) -> list[str]:
        """Return the player of each episode; "mixed" draws one of the three that ask."""
        if quality != "mixed":
            return [quality] * len(rngs)
        players = ("expert", "any", "polar")
        return [players[rng.integers(len(players))] for rng in rngs]

    def script(self, turns: Turns, qualities: Sequence[str]) -> Sequence[Sequence[int]]:
        """Ask: the most telling question, any one, or any one to be answered by yes or no.

        The expert knows the candidates and what the answers so far have excluded, but not which
        candidate is hidden.
        """
        fitting = turns.memory["contradicted"][turns.rows]
        asked = turns.memory["asked"][turns.rows]
        costs = self._penalties[: len(self.world.answers)]
        lines = []
        for row, (quality, rng) in enumerate(zip(qualities, turns.rngs, strict=True)):
            if quality == "expert":
                best = fitting[row] == fitting[row].min()
                index = int(turns.example_indices[row])
                question = self.world.expert(index, best, int(asked[row]), costs)
            else:
                choices = self.language.polar if quality == "polar" else self.language.askable
                question = int(rng.choice(choices))
            lines.append(self.language.write(question))
        return lines

    def __repr__(self) -> str:
        return f"VisualDialogue({len(self)} scenes, {self.reward_kind})"


def _check(split: Any, dataset: Any, reward_kind: Any, answerer: Any) -> None:
    if dataset is None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}.{suggest(str(split), SPLITS)}")
    if reward_kind not in REWARD_KINDS:
        hint = suggest(str(reward_kind), REWARD_KINDS)
        raise ValueError(f"unknown reward_kind {reward_kind!r}.{hint}")
    if answerer is not None and not callable(answerer):
        raise TypeError(f"answerer must be a callable, got {type(answerer).__name__} {answerer!r}")


def _columns(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def _tokenizer(world: Scenes | Recordings) -> WordTokenizer:
    if isinstance(world, Scenes):
        return WordTokenizer(VOCABULARY)
    captions = (context.prompt for context in world.contexts)
    extra = ["pardon . ? i can not tell"]  # first, so that they are never too rare to be kept
    return WordTokenizer.from_texts([*extra * 3, *captions, *world.questions, *world.answers], 8000)
