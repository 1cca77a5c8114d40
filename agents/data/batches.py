r"""Recorded episodes as tensors: the token-level decision process that offline algorithms see.

A row of a data set is a text of several writers. Only what the agent wrote are actions:

```
column    0    1    2    3    4    5    6    7
writer   task task agent agent env  agent agent  -      (n = 4 actions)
token     p    q    a    b    x    c    d    pad
action              u_1  u_2       u_3  u_4
state          s_1  s_2       s_3  s_4  s_5
```

State $s_k$ is the text up to the column before action $u_k$; it is read at that column. Tokens of
the environment are neither states nor actions, so the successor of $s_2$ is $s_3$, across the
reply, and a discount counts agent tokens only. One more state $s_{n+1}$ stands at the last token of
the row; it ends the episode if that terminated, and has a value of its own if it was cut off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.store import EpisodeDataset
from text_envs.episodes.types import Role
from text_envs.lm.transfers import on_host, remember, to_device

__all__ = ["OfflineBatch", "offline_batch"]


@dataclass(frozen=True, repr=False)
class OfflineBatch:
    """B recorded episodes of up to T actions, right-padded; `mask` says which actions exist.

    Attributes:
        tokens: `(B, L)` int64, what was written: prompt, actions, replies, padding.
        columns: `(B, T)` int64, the column at which state $s_k$ is read: that before action k.
        last_column: `(B,)` int64, the column of the final state $s_{n+1}$, the last token.
        actions: `(B, T)` int64.
        rewards: `(B, T)` float32.
        mask: `(B, T)` bool.
        turn_ends: `(B, T)` bool, the action was the last of its turn (utterance).
        terminated: `(B,)` bool, the episode came to its own end; False where it was cut off.
        returns: `(B,)` float32, the sum of `rewards`.
    """

    tokens: Tensor
    columns: Tensor
    last_column: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor
    turn_ends: Tensor
    terminated: Tensor
    returns: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        shapes = [f"{f.name}={tuple(getattr(self, f.name).shape)}" for f in fields(self)]
        return f"OfflineBatch({len(self)} episodes, {self.num_steps} actions: {', '.join(shapes)})"

    @property
    def lengths(self) -> Tensor:
        """Number of actions of each episode, `(B,)` int64."""
        return self.mask.sum(dim=1)

    @property
    def num_steps(self) -> int:
        """Number of actions of all episodes."""
        return int(on_host(self.mask)[0].sum())

    @property
    def state_columns(self) -> Tensor:
        """Columns `(B, T + 1)` of $s_1 .. s_{n+1}$, the final state right after the others."""
        columns = torch.cat([self.columns, torch.zeros_like(self.columns[:, :1])], dim=1)
        return columns.scatter(1, self.lengths[:, None], self.last_column[:, None])

    @property
    def state_mask(self) -> Tensor:
        """Which entries of `state_columns` are states: one more a row than there are actions."""
        return torch.cat([torch.ones_like(self.mask[:, :1]), self.mask], dim=1)

    @property
    def next_terminal(self) -> Tensor:
        """Whether the successor of $s_k$ ends a terminated episode: $d_{k+1}$, `(B, T)` bool."""
        steps = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (steps == self.lengths[:, None] - 1) & self.terminated[:, None]

    def select(self, index: NDArray[np.int64] | Tensor) -> OfflineBatch:
        """Return the episodes `index`, in that order, cut to the longest of them."""
        at = torch.as_tensor(index, device=self.tokens.device)
        chosen = {f.name: getattr(self, f.name)[at] for f in fields(self)}
        rows, mask, last = on_host(at, self.mask, self.last_column)
        longest = int(mask[rows].sum(axis=1).max(initial=0))
        width = int(last[rows].max()) + 1 if len(at) else self.tokens.shape[1]
        chosen["tokens"] = chosen["tokens"][:, :width]
        for name in ("columns", "actions", "rewards", "mask", "turn_ends"):
            chosen[name] = chosen[name][:, :longest]
        if at.device.type != "cpu":  # what a pass asks for on the host
            for name in ("tokens", "columns", "mask"):
                whole = on_host(getattr(self, name))[0][rows]
                remember(chosen[name], whole[:, : chosen[name].shape[1]])
        return OfflineBatch(**chosen)

    def to(self, device: torch.device | str) -> OfflineBatch:
        """Return the batch with its tensors on `device`."""
        moved = {f.name: to_device(getattr(self, f.name), device) for f in fields(self)}
        return replace(self, **moved)


def offline_batch(
    dataset: EpisodeDataset,
    *,
    pad_id: int,
    eos_id: int | Collection[int] = (),
    num_actions: int | None = None,
    forbidden: Iterable[int] = (),
    include_prefix: bool = False,
) -> OfflineBatch:
    """Return a whole data set as tensors; its own fields have been checked when it was made.

    Args:
        dataset: the episodes.
        pad_id: marks empty columns.
        eos_id: what ends a turn even if no reply follows it; one id or several.
        num_actions: ids below it are actions; None for no check.
        forbidden: ids that a policy never writes; its log-probability of them is minus infinity.
        include_prefix: also learn from what a guide wrote in the agent's place (`Role.PREFIX`).

    Raises:
        DatasetError: the data do not fit these ids; the message names the episode and the column.
    """
    if not len(dataset):
        raise DatasetError(f"{_name(dataset)} has no episodes; at least one is needed")
    tokens, roles = dataset.tokens, dataset.roles
    empty = tokens == pad_id
    if (empty != (roles == int(Role.PAD))).any():
        row, column = np.argwhere(empty != (roles == int(Role.PAD)))[0].tolist()
        raise DatasetError(
            f"{_name(dataset)}: episode {row}, column {column}: token {tokens[row, column]} has the"
            f" role {Role(roles[row, column]).name}, and this policy's padding is {pad_id}; the "
            "data are of another tokenizer"
        )
    large = np.abs(dataset.rewards) > np.finfo(np.float32).max
    if large.any():
        row, column = np.argwhere(large)[0].tolist()
        raise DatasetError(
            f"{_name(dataset)}: episode {row}, column {column}: rewards is "
            f"{dataset.rewards[row, column]:g}, which a float32 cannot hold"
        )
    mask = roles == int(Role.ACTION)
    if include_prefix:
        mask |= roles == int(Role.PREFIX)
    row, column = mask.nonzero()
    actions = tokens[row, column]
    _check_actions(dataset, row, column, actions, num_actions, forbidden)
    counts = mask.sum(axis=1)
    shape = (len(tokens), int(counts.max()))
    t = (mask.cumsum(axis=1) - 1)[row, column]
    exists = np.arange(shape[1]) < counts[:, None]
    at_columns = np.zeros(shape, dtype=np.int64)
    at_columns[row, t] = column - 1
    at_actions = np.zeros(shape, dtype=np.int64)
    at_actions[row, t] = actions
    rewards = np.zeros(shape, dtype=np.float32)
    rewards[row, t] = dataset.rewards[row, column]
    followed = np.zeros(shape, dtype=bool)  # by an action of the same turn
    followed[:, :-1] = exists[:, 1:] & (at_columns[:, 1:] == at_columns[:, :-1] + 1)
    followed &= ~np.isin(at_actions, np.array(eos_id, dtype=np.int64))
    arrays = {
        "tokens": tokens,
        "columns": at_columns,
        "last_column": tokens.shape[1] - 1 - (~empty)[:, ::-1].argmax(axis=1),
        "actions": at_actions,
        "rewards": rewards,
        "mask": exists,
        "turn_ends": exists & ~followed,
        "terminated": dataset.terminated,
        "returns": dataset.returns.astype(np.float32),
    }
    return OfflineBatch(
        **{k: torch.from_numpy(np.require(v, None, ["C", "W"])) for k, v in arrays.items()}
    )


def _check_actions(
    dataset: EpisodeDataset,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    actions: NDArray[np.int64],
    num_actions: int | None,
    forbidden: Iterable[int],
) -> None:
    """Raise a DatasetError for the first action that the policy could not write."""
    outside = np.zeros(len(actions), dtype=bool) if num_actions is None else actions >= num_actions
    banned = np.isin(actions, np.fromiter(forbidden, dtype=np.int64))
    wrong = np.flatnonzero(outside | banned)
    if len(wrong):
        i = int(wrong[0])
        why = "is forbidden" if banned[i] else f"is no action; actions are below {num_actions}"
        raise DatasetError(
            f"{_name(dataset)}: episode {row[i]}, column {column[i]}: token {actions[i]} {why}. Are"
            " the data of another tokenizer or environment?"
        )


def _name(dataset: EpisodeDataset) -> str:
    return dataset.source or "data set"
