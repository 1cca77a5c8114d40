r"""One optimiser step in several passes: a minibatch that does not fit is computed in parts.

Each part of a minibatch, a micro-batch, goes forward and backward by itself, and the gradients add
up. They are those of the whole minibatch, up to rounding, because what is averaged over a minibatch
is averaged over all of it: a loss divides by the number of places in the `whole`, not by those of
its part, so that the losses and metrics of the parts are shares that add up,

$$\frac1N \sum_{i=1}^N x_i = \sum_{parts} \frac1N \sum_{i \in part} x_i$$

where a mean of the parts' means would weigh a token of a short part more. What couples rows
(whitening, baselines, weights against other texts) is computed before, over the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from agents.common.packing import packed
from text_envs.lm.checkpointing import is_checkpointing
from text_envs.lm.transfers import on_host, to_device

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Loss", "Part", "check_micro_batch", "micro_batches", "most_sequences"]

# Activations of a micro-batch, in bytes, if nobody says how many sequences it has; on a GPU, a
# share of its memory.
_ACTIVATIONS = 2**30
_SHARE_OF_GPU = 0.25
# What a layer keeps of a token for the backward pass, in states of the model's width: 20 in a
# Llama, 16 in a GPT-2.
_KEPT_STATES = 20
# Of a model whose configuration does not say how many it has.
_LAYERS = 24


class Batch(Protocol):
    """What can be cut into parts: `tokens` `(B, L)` and whatever belongs to their rows."""

    @property
    def tokens(self) -> Tensor:
        """Ids, `(B, L)`."""
        ...

    def __len__(self) -> int:
        """Return B."""
        ...

    def select(self, index: Tensor) -> Self:
        """Return the rows `index`."""
        ...


BatchT = TypeVar("BatchT", bound=Batch)


@dataclass(frozen=True)
class Part(Generic[BatchT]):
    """A micro-batch of a minibatch.

    Attributes:
        batch: its b rows.
        whole: the minibatch.
        index: `(b,)` int64, the places of the rows in the minibatch.
    """

    batch: BatchT
    whole: BatchT
    index: Tensor

    @classmethod
    def of(cls, batch: BatchT) -> Part[BatchT]:
        """Return a whole minibatch as its only part."""
        return cls(batch, batch, torch.arange(len(batch), device=batch.tokens.device))

    @classmethod
    def cut(cls, batch: BatchT, index: Tensor) -> Part[BatchT]:
        """Return the rows `index` of a minibatch."""
        return cls(batch.select(index), batch, index)


Loss = Callable[[Part[Any]], tuple[Tensor, dict[str, Tensor]]]
"""Returns a part's share of the loss, with gradient, and its shares of the metrics."""


def micro_batches(
    batch: Batch, policy: Any, size: int | None, passes: int = 1
) -> list[Tensor] | None:
    """Return the places of the rows of each micro-batch, or None where one takes them all.

    Args:
        batch: a minibatch of B rows.
        policy: a `CausalLMPolicy`, whose model's width and depth say what a token takes.
        size: most sequences of a pass; None for as many as about 1 GiB of activations holds, on a
            GPU a quarter of its memory.
        passes: sequences that each row is scored in.
    """
    lengths = _lengths(batch, policy) * passes  # (B,)
    if size is None:
        packs = packed(lengths, _tokens_that_fit(policy))
    else:
        packs = packed(lengths, None, max(1, size // passes))
    device = batch.tokens.device
    return None if len(packs) <= 1 else [to_device(pack, device) for pack in packs]


def most_sequences(batch: Batch, policy: Any, size: int | None) -> int:
    """Return how many sequences, as long as the longest of a minibatch, a pass may hold."""
    if size is not None:
        return size
    longest = int(_lengths(batch, policy).max())
    return max(1, int(_tokens_that_fit(policy) // longest))


def _lengths(batch: Batch, policy: Any) -> Tensor:
    """Return how many tokens each row has, `(B,)` on the host."""
    (tokens,) = on_host(batch.tokens)
    return torch.from_numpy((tokens != policy.actor.pad_id).sum(axis=1))


def check_micro_batch(size: Any, batch_size: int | None, n_episodes: int | None) -> None:
    """Raise a ValueError if a micro-batch is to hold more sequences than a minibatch has."""
    name, whole = ("batch_size", batch_size) if batch_size else ("n_episodes", n_episodes)
    if size is not None and whole is not None and size > whole:
        raise ValueError(
            f"micro_batch_size={size} is a part of a minibatch, which has {name}={whole} "
            f"sequences; accepted: None or 1..{whole}"
        )


def _tokens_that_fit(policy: Any) -> float:
    lm, device = policy.actor.lm, policy.device
    layers = getattr(lm.config.get_text_config(), "num_hidden_layers", _LAYERS)
    width = policy.actor.hidden_size
    states = layers + _KEPT_STATES if is_checkpointing(lm) else layers * _KEPT_STATES
    room: float = _ACTIVATIONS
    if device.type == "cuda":
        room = _SHARE_OF_GPU * torch.cuda.get_device_properties(device).total_memory
    itemsize: int = next(lm.parameters()).element_size()
    return float(room / (states * width * itemsize))
