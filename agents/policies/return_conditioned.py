"""A language model that is told which return to play for, in one token before the text.

The token is one of K that are appended to the model's vocabulary, one for each level of return; a
column for it is put in front of the observation. Everything else is a text like any other, so that
cached decoding works as it is: rows whose wanted return changes differ in their first token, and
are computed anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from agents.common.settings import is_number
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.vocabulary import append_tokens
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.checks import check_rows
from text_envs.lm.loading import adapted
from text_envs.lm.rows import count_rows
from text_envs.lm.sharing import shared_copy
from text_envs.lm.transfers import on_host

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ReturnConditionedLM", "ReturnConditionedPolicy", "return_levels"]


def return_levels(returns: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Return up to `most` levels, ascending, that stand for the returns `(B,)` of a data set.

    Where there are no more different returns, they are the levels; otherwise the sorted returns
    are cut into `most` parts of equal size, and each part gives its mean.

    >>> return_levels(np.array([1.0, 0.0, 1.0, -2.0]), 3)
    array([-2.,  0.,  1.])
    >>> return_levels(np.array([1.0, 0.0, 1.0, -2.0]), 2)
    array([-1.,  1.])
    """
    rounded = np.sort(returns.round(6))  # sums of the same rewards in another order are the same
    if len(np.unique(rounded)) > most:
        rounded = np.array([part.mean() for part in np.array_split(rounded, most)])
    return np.unique(rounded)


class ReturnConditionedLM(ActionLM):
    """An `ActionLM` that reads a token for the wanted return before each text.

    Attributes:
        first_id: id of the token of the lowest return; those of the others follow it.
        level: which of the returns is played for, where nothing else is said.

    Args:
        actor: the restriction to take over; its model knows the tokens.
        first_id: see above.
        level: see above.
    """

    def __init__(self, actor: ActionLM, first_id: int, level: int) -> None:
        super().__init__(
            actor.lm,
            num_actions=actor.num_actions,
            pad_id=actor.pad_id,
            bos_id=actor.bos_id,
            prompt_length=actor.prompt_length,
            forbidden=actor.forbidden_ids,
        )
        self.choose_like(actor)
        self.first_id, self.level = first_id, level

    def like(self, lm: PreTrainedModel) -> ActionLM:
        """Return the same restriction, told the same returns, of another language model.

        Raises:
            ValueError: it lacks the tokens of the returns.
        """
        rows = count_rows(lm)
        if rows < self.num_tokens:
            raise ValueError(
                f"{type(lm).__name__} knows {rows} tokens, and {self.num_tokens} with those of the "
                "returns are needed; accepted: a model that was saved with such a policy"
            )
        return type(self)(super().like(lm), self.first_id, self.level)

    def adopt(self, other: ActionLM) -> None:
        """Take over what may be changed of another one, the wanted return included."""
        super().adopt(other)
        self.level = getattr(other, "level", self.level)

    def complete(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return observations `(n, L + 1)` with a begin token if needed and the wanted return."""
        if self._is_conditioned(tokens):
            return tokens
        return self.conditioned(tokens, np.full(len(tokens), self.level))

    def conditioned(
        self, tokens: NDArray[np.int64], levels: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return observations `(n, L + 1)` that begin with the tokens of `levels` `(n,)`."""
        tokens = super().complete(tokens)
        longer = np.pad(tokens, ((0, 0), (1, 0)), constant_values=self.pad_id)
        start = (longer != self.pad_id).argmax(axis=1)
        longer[np.arange(len(longer)), start - 1] = self.first_id + levels
        return longer

    def encode(self, tokens: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states `(M, d)` at chosen columns; see `ActionLM.encode`."""
        shown, at, wanted = on_host(tokens, columns, mask)
        longer = self.complete(shown)
        shift = longer.shape[1] - shown.shape[1]  # 0 where the wanted return was there already
        return self._encode(longer, at + shift, wanted)

    def decode(
        self, tokens: NDArray[np.int64], rows: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the state at each row's last token and its column; see `ActionLM.decode`."""
        longer = self.complete(tokens)
        hidden, last = super().decode(longer, rows)
        return hidden, last - (longer.shape[1] - tokens.shape[1])

    def _is_conditioned(self, tokens: NDArray[np.int64]) -> bool:
        return bool((tokens >= self.first_id).any())


class ReturnConditionedPolicy(CausalLMPolicy):
    """A `CausalLMPolicy` that plays for a wanted return.

    Args:
        observation_space: flat `Box` of token ids.
        action_space: `Discrete(num_actions)`.
        lr_schedule: learning rate as a function of the remaining progress.
        returns: the K levels of return, ascending.
        target_return: what to play for, the nearest level of it; None for the highest.
        model: see `CausalLMPolicy`; a model given as an object is copied, because its vocabulary
            is extended.
        first_id: id of the lowest return's token; None to append K tokens to the model.
        pad_id: see `CausalLMPolicy`.
        **kwargs: see `CausalLMPolicy`.

    Raises:
        ValueError: `returns` are none, not finite or not ascending.
    """

    fixed = frozenset({"returns", "first_id"})

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        returns: Sequence[float],
        target_return: float | None = None,
        model: str | os.PathLike[str] | PreTrainedModel = "reviews",
        first_id: int | None = None,
        pad_id: int,
        **kwargs: Any,
    ) -> None:
        levels = np.asarray(returns, dtype=np.float64)  # (K,)
        rising = levels.ndim == 1 and bool((np.diff(levels) > 0).all())
        if not rising or not len(levels) or not np.isfinite(levels).all():
            raise ValueError(f"returns must be ascending finite numbers, got {returns!r}")
        lm, tokenizer = self.load_model(model, kwargs.get("dtype"))
        lm = shared_copy(lm) if isinstance(model, nn.Module) else lm
        lora = kwargs.pop("lora", None)
        lm = lm if lora is None else adapted(lm, lora, model)
        if first_id is None:
            check_rows(lm, count_rows(lm), int(cast(spaces.Discrete, action_space).n))
            first_id = append_tokens(lm, len(levels), observation_space, pad_id)
        super().__init__(
            observation_space, action_space, lr_schedule, model=lm, pad_id=pad_id, **kwargs
        )
        self.tokenizer, self.returns = tokenizer, levels
        self.actor = ReturnConditionedLM(self.actor, first_id, 0)
        self.arguments["model"], self.arguments["lora"] = model, lora
        self.arguments["returns"] = levels.tolist()
        self.arguments["first_id"] = first_id
        self.target_return = float(levels[-1]) if target_return is None else target_return

    @property
    def target_return(self) -> float:
        """The return to play for; it may be set, to what the data hardly reached as well."""
        return cast(float, self.arguments["target_return"])

    @target_return.setter
    def target_return(self, value: float) -> None:
        if not is_number(value):
            raise ValueError(f"target_return must be finite, got {value!r}")
        self.arguments["target_return"] = float(value)
        self._conditioned.level = int(self.levels(np.array([value]))[0])

    @property
    def _conditioned(self) -> ReturnConditionedLM:
        return cast(ReturnConditionedLM, self.actor)

    def levels(self, returns: NDArray[Any]) -> NDArray[np.int64]:
        """Return which of the K returns is nearest to each of `(B,)`."""
        between = (self.returns[1:] + self.returns[:-1]) / 2
        return np.searchsorted(between, returns).astype(np.int64)

    def encode_given(
        self, tokens: Tensor, columns: Tensor, mask: Tensor, returns: Tensor
    ) -> Tensor:
        """Return hidden states `(M, d)` of texts that were told the `returns` `(B,)`."""
        shown, at, wanted = on_host(tokens, columns, mask)
        levels = self.levels(returns.double().cpu().numpy())
        longer = self._conditioned.conditioned(shown, levels)
        return self.actor.encode(*(torch.from_numpy(x) for x in (longer, at + 1, wanted)))
