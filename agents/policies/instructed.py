r"""Policies that read an instruction in front of the prompt, one for each goal.

The environment's observation never holds the instruction; the policy writes it in front of the
prompt, behind the begin token if the prompt has one. There is one constant for each goal, and
sampling, training and `predict` use the same:

- real text where the tokenizer can encode it, such as "give a correct answer:";
- learnt tokens, one a goal, appended to the model's vocabulary, where the vocabulary is closed.

In a goal-conditioned environment `predict` obeys `desired_goal`; elsewhere, and where rows of
tokens come alone, the policy's attribute `goal`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.seq2seq import Seq2SeqLM, Seq2SeqPolicy
from agents.policies.vocabulary import append_tokens
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.loading import adapted
from text_envs.lm.sharing import shared_copy
from text_envs.lm.transfers import last_columns, on_host
from text_envs.tokens.hf import HFTokenizer
from text_envs.tokens.protocol import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "WORDINGS",
    "Instructed",
    "InstructedLM",
    "InstructedPolicy",
    "InstructedSeq2SeqLM",
    "InstructedSeq2SeqPolicy",
    "encode_instructions",
]

WORDINGS = ("give a wrong answer:", "give a correct answer:")
"""What the two goals of a goal-conditioned environment are called, unless said otherwise."""


def encode_instructions(
    wording: str | Sequence[str], tokenizer: Tokenizer, num_goals: int = 2
) -> int | list[list[int]]:
    """Return the token ids of each instruction, or how many tokens are to be learnt.

    Args:
        wording: "auto", "learnt", or a text for each goal, from the worst to the best. "auto" is
            `WORDINGS` with a tokenizer of transformers and two goals, else "learnt".
        tokenizer: of the environment.
        num_goals: K.

    Returns:
        K for "learnt", else K lists of ids.

    Raises:
        ValueError: another number of texts, two equal ones, or words that the tokenizer lacks.
    """
    if wording == "auto":
        known = isinstance(tokenizer, HFTokenizer) and num_goals == len(WORDINGS)
        wording = WORDINGS if known else "learnt"
    if wording == "learnt":
        return num_goals
    if isinstance(wording, str) or len(wording) != num_goals:
        raise ValueError(
            f"instructions must be 'auto', 'learnt' or {num_goals} texts, worst goal first; "
            f"got {wording!r}"
        )
    encoded = [tokenizer.encode(text) for text in wording]
    for text, ids in zip(wording, encoded, strict=True):
        if not ids or (tokenizer.unk_id is not None and tokenizer.unk_id in ids):
            raise ValueError(
                f"instruction {text!r} has words that {tokenizer!r} does not know; choose others, "
                "or instructions='learnt'"
            )
    if len({tuple(ids) for ids in encoded}) < num_goals:
        raise ValueError(f"instructions must differ from each other, got {list(wording)!r}")
    return encoded


class Instructed(ActionLM):
    """An `ActionLM` that reads an instruction before each text; call `instruct` once.

    Attributes:
        instructions: the ids of each goal's instruction.
        front: columns that instructions take, as many as the longest has tokens.
        goal: which instruction is given where nothing else is said.
    """

    front: int = 0
    instructions: list[list[int]]
    goal: int

    def instruct(self, instructions: Sequence[Sequence[int]], goal: int) -> None:
        """Take over the instructions and the default goal.

        Raises:
            ValueError: an instruction is empty or holds an id that the model does not know.
        """
        for ids in instructions:
            if not ids or not all(0 <= i < self.num_tokens and i != self.pad_id for i in ids):
                raise ValueError(
                    f"an instruction must be one or more ids of the model's {self.num_tokens} "
                    f"tokens, padding ({self.pad_id}) not among them; got {list(ids)}"
                )
        self.instructions = [[int(i) for i in ids] for ids in instructions]
        self.front, self.goal = max(map(len, instructions)), goal
        # Two blocks a goal, as wide as the longest and one more: before a first token, and behind.
        self._before = np.full((len(instructions), self.front + 1), self.pad_id, dtype=np.int64)
        self._behind = self._before.copy()
        for number, ids in enumerate(self.instructions):
            self._before[number, -1 - len(ids) : -1] = ids
            self._behind[number, -len(ids) :] = ids
            if self.bos_id is not None:
                self._behind[number, -1 - len(ids)] = self.bos_id

    def like(self, lm: PreTrainedModel) -> ActionLM:
        """Return the same restriction and instructions of another language model."""
        other = type(self)(
            lm,
            num_actions=self.num_actions,
            pad_id=self.pad_id,
            bos_id=self.bos_id,
            prompt_length=self.prompt_length,
            forbidden=self.forbidden_ids,
        )
        other.choose_like(self)
        other.instruct(self.instructions, self.goal)
        return other

    def adopt(self, other: ActionLM) -> None:
        """Take over what may be changed of another one, the default goal included."""
        super().adopt(other)
        self.goal = getattr(other, "goal", self.goal)

    def put(self, tokens: NDArray[np.int64], goals: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Return observations `(n, front + L)` with the instructions for `goals` `(n,)`.

        Args:
            tokens: `(n, L)` observations as the environment shows them.
            goals: one for each row; None for `goal` in all of them.

        Raises:
            ValueError: a goal is outside the set.
        """
        chosen = np.full(len(tokens), self.goal) if goals is None else np.asarray(goals)
        wrong = (chosen < 0) | (chosen >= len(self.instructions))
        if wrong.any():
            raise ValueError(
                f"goal {chosen[wrong][0]} of row {int(wrong.argmax())} has no instruction; "
                f"accepted: 0..{len(self.instructions) - 1}"
            )
        tokens = self.complete(tokens)
        longer = np.pad(tokens, ((0, 0), (self.front, 0)), constant_values=self.pad_id)
        rows = np.arange(len(longer))
        start = (longer != self.pad_id).argmax(axis=1)  # (n,) column of the first token
        first = longer[rows, start]
        block = self._before[chosen]
        block[:, -1] = first
        if self.bos_id is not None:
            behind = first == self.bos_id
            block[behind] = self._behind[chosen[behind]]
        longer[rows[:, None], start[:, None] + np.arange(-self.front, 1)] = block
        return longer

    def encode(
        self, tokens: Tensor, columns: Tensor, mask: Tensor, goals: Tensor | None = None
    ) -> Tensor:
        """Return the hidden states `(M, d)` at chosen columns; see `ActionLM.encode`."""
        shown, at, wanted, *given = on_host(
            tokens, columns, mask, *(() if goals is None else (goals,))
        )
        longer = self.put(shown, given[0] if given else None)
        return self._encode(longer, at + self.front, wanted)

    def decode(
        self,
        tokens: NDArray[np.int64],
        rows: NDArray[np.int64] | None = None,
        goals: NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the state at each row's last token and its column; see `ActionLM.decode`."""
        hidden, last = self._decode(self.put(tokens, goals), rows)
        return hidden, last - self.front


class InstructedLM(Instructed):
    """A causal language model that reads instructions."""

    def check_length(self, columns: int) -> None:
        """Raise a ValueError if the model is too short; the last action is never fed."""
        super().check_length(columns + max(self.front - 1, 0))


class InstructedSeq2SeqLM(Instructed, Seq2SeqLM):
    """An encoder-decoder language model whose encoder reads instructions."""


class InstructedPolicy(CausalLMPolicy):
    """A `CausalLMPolicy` that is told a goal in front of each prompt.

    Args:
        observation_space: flat `Box` of token ids, or a `Dict` of a goal-conditioned environment,
            whose `observation` is one.
        action_space: `Discrete(num_actions)`.
        lr_schedule: learning rate as a function of the remaining progress.
        instructions: token ids for each goal, from the worst to the best; or a number of goals, to
            append that many tokens to the model and learn them.
        goal: what to play for where the observation does not say; None for the best.
        model: see `CausalLMPolicy`; a model given as an object is copied if tokens are appended.
        pad_id: see `CausalLMPolicy`.
        **kwargs: see `CausalLMPolicy`.

    Raises:
        ValueError: fewer than two goals, a goal outside the set, or a model too short for the
            instruction, the prompt and the text.
    """

    actor_class: ClassVar[type[ActionLM]] = InstructedLM
    fixed = frozenset({"instructions"})

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        instructions: int | Sequence[Sequence[int]] = 2,
        goal: int | None = None,
        model: str | os.PathLike[str] | PreTrainedModel = "reviews",
        pad_id: int,
        **kwargs: Any,
    ) -> None:
        count = instructions if isinstance(instructions, int) else len(instructions)
        if count < 2:
            raise ValueError(f"there must be at least 2 instructions, got {instructions!r}")
        tokens = observation_space
        if isinstance(observation_space, spaces.Dict):
            tokens = observation_space.spaces.get("observation", observation_space)
        given = model
        lm, tokenizer = self.load_model(model, kwargs.get("dtype"))
        lora = kwargs.pop("lora", None)
        if isinstance(instructions, int):
            lm = shared_copy(lm) if isinstance(model, nn.Module) else lm
            lm = lm if lora is None else adapted(lm, lora, model)
            first = append_tokens(lm, instructions, tokens, pad_id)
            ids = [[first + number] for number in range(instructions)]
        else:
            lm = lm if lora is None else adapted(lm, lora, model)
            ids = [list(given_ids) for given_ids in instructions]
        super().__init__(tokens, action_space, lr_schedule, model=lm, pad_id=pad_id, **kwargs)
        self.observation_space, self.tokenizer = observation_space, tokenizer
        self.arguments["model"], self.arguments["lora"] = given, lora
        self.arguments["instructions"] = ids
        self._instructed.instruct(ids, 0)
        self._instructed.check_length(cast(tuple[int], tokens.shape)[0])
        self.goal = count - 1 if goal is None else goal

    @property
    def goal(self) -> int:
        """The goal to play for where the observation does not say."""
        return self._instructed.goal

    @goal.setter
    def goal(self, value: int) -> None:
        most = len(self._instructed.instructions) - 1
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or not 0 <= value <= most:
            raise ValueError(f"goal must be an integer in 0..{most}, got {value!r}")
        self._instructed.goal = self.arguments["goal"] = int(value)

    @property
    def num_goals(self) -> int:
        """The number of goals K."""
        return len(self._instructed.instructions)

    @property
    def _instructed(self) -> Instructed:
        return cast(Instructed, self.actor)

    def obs_to_tensor(self, observation: Any) -> tuple[PyTorchObs, bool]:
        """Return an observation as tensors, and whether it is a batch; tokens may come alone."""
        space = self.observation_space
        if not isinstance(space, spaces.Dict) or isinstance(observation, Mapping):
            return super().obs_to_tensor(observation)
        tokens = np.asarray(observation)
        shape = cast(tuple[int], space["observation"].shape)
        if tokens.shape[-1:] != shape or tokens.ndim not in (1, 2):
            raise ValueError(
                f"tokens must have shape {shape} or (n, {shape[0]}), got {tokens.shape}; accepted "
                "too: dictionaries as a goal-conditioned environment shows them"
            )
        return torch.as_tensor(np.atleast_2d(tokens), device=self.device), tokens.ndim == 2

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values `(n, 1)`, log-probabilities and entropies `(n,)`; encodes every row."""
        hidden = self._encode_given(*_split(obs))
        log_probs, entropies = self.actor.sampling_log_probs(
            hidden, actions.long(), self.actor.seen(_split(obs)[0]), with_entropy=True
        )
        return self._values(hidden)[:, None], log_probs, entropies

    def _last_hidden(self, obs: PyTorchObs) -> Tensor:
        tokens, goals = _split(obs)
        if torch.is_grad_enabled():
            return self._encode_given(tokens, goals)
        shown, *given = on_host(tokens, *(() if goals is None else (goals,)))
        return self._instructed.decode(shown, None, given[0] if given else None)[0]

    def _next_logits(self, hidden: Tensor, obs: PyTorchObs) -> Tensor:
        return super()._next_logits(hidden, _split(obs)[0])

    def _encode_given(self, tokens: Tensor, goals: Tensor | None) -> Tensor:
        return self._instructed.encode(*last_columns(self.actor, tokens), goals)


class InstructedSeq2SeqPolicy(InstructedPolicy):
    """An `InstructedPolicy` over an encoder-decoder model."""

    actor_class: ClassVar[type[ActionLM]] = InstructedSeq2SeqLM
    load_model = Seq2SeqPolicy.load_model


def _split(obs: PyTorchObs) -> tuple[Tensor, Tensor | None]:
    """Return the tokens `(n, L)` and, of a dictionary, the desired goals `(n,)`."""
    if isinstance(obs, dict):
        return obs["observation"].long(), obs["desired_goal"].long().flatten()
    return obs.long(), None
