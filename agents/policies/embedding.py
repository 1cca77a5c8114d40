r"""A features extractor that reads token ids as ids, for the stock algorithms of other libraries.

`MlpPolicy` of Stable-Baselines3 takes an observation for numbers, to which id 7 lies between 6 and
8. Here every id has a vector of its own:

$$x_t = m_t (E_{o_t} + P_t), \quad m_t = [o_t \ne \mathrm{pad}]$$

with $E$ one row an id, $P$ one row a column. The features are either one linear layer of all
columns, or the last state of a GRU over the columns that are not padding.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agents.common.checks import require, require_whole
from agents.common.envs import tokenizer_of

__all__ = ["IdEmbedding"]


class IdEmbedding(BaseFeaturesExtractor):
    """Features of token ids, for `policy_kwargs` of Stable-Baselines3 and sb3-contrib.

    ```python
    venv = text_envs.make_sb3("text_envs/TargetWords-v0", num_envs=8)
    kwargs = agents.IdEmbedding.policy_kwargs(venv)
    stable_baselines3.DQN("MlpPolicy", venv, policy_kwargs=kwargs)
    ```

    Of a dictionary, as goal-conditioned ids have (`"MultiInputPolicy"`), every flat array of
    integers is embedded and the rest is joined on as Stable-Baselines3 prepares it, a goal as a
    one-hot vector.

    Args:
        observation_space: a flat `Box` of ids `(L,)`, or a `Dict` that has one.
        pad_id: marks empty columns; they count as zeros.
        width: of the vector of an id.
        features_dim: of the result, without what is joined on.
        network: "flatten", which knows every column's place; or "gru", which reads in order and
            skips padding, so that a text means the same wherever it stands.

    Raises:
        ValueError: a space without ids, or an argument that cannot be used.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        pad_id: int,
        width: int = 32,
        features_dim: int = 128,
        network: str = "flatten",
    ) -> None:
        require("network", network, network in ("flatten", "gru"), "'flatten' or 'gru'")
        for name, size in (("width", width), ("features_dim", features_dim)):
            require_whole(name, size)
        require_whole("pad_id", pad_id, 0)
        parts = _parts(observation_space)
        texts = {key: box for key, box in parts.items() if _has_ids(box)}
        accepted = "a flat Box of ids, or a Dict that has one"
        require("observation_space", observation_space, bool(texts), accepted)
        rest = [key for key in parts if key not in texts]
        joined = sum(get_flattened_obs_dim(parts[key]) for key in rest)
        super().__init__(observation_space, features_dim * len(texts) + joined)
        self._texts, self._rest = [*texts], rest
        self.networks = nn.ModuleList(
            _NETWORKS[network](cast(spaces.Box, box), int(pad_id), width, features_dim)
            for box in texts.values()
        )

    @staticmethod
    def policy_kwargs(env: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the `policy_kwargs` that make a stock policy read an environment's ids.

        Args:
            env: a text environment: single, Gymnasium vector or Stable-Baselines3 `VecEnv`.
            **kwargs: arguments of this class.

        Raises:
            ValueError: the environment has no tokenizer.
        """
        tokenizer = tokenizer_of(env)
        if tokenizer is None:
            raise ValueError(
                f"{type(env).__name__} has no tokenizer; accepted: environments of text_envs, or "
                "features_extractor_kwargs={'pad_id': ...} written by hand"
            )
        return {
            "features_extractor_class": IdEmbedding,
            "features_extractor_kwargs": {"pad_id": int(tokenizer.pad_id)} | kwargs,
        }

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Return the features `(N, F)` of ids `(N, L)`, which Stable-Baselines3 makes floats.

        Raises:
            ValueError: the ids have become fractions, as `VecNormalize` makes them.
        """
        parts = observations if isinstance(observations, dict) else {_WHOLE: observations}
        pairs = zip(self._texts, self.networks, strict=True)
        features = [network(_as_ids(parts[key])) for key, network in pairs]
        return torch.cat([*features, *(parts[key].flatten(1) for key in self._rest)], dim=1)


_WHOLE = "observation"  # the key of an observation that is no dictionary


def _parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {_WHOLE: space}


def _has_ids(space: spaces.Space[Any]) -> bool:
    """Return whether a space holds rows of token ids: integers, flat, from 0 on."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 1
        and np.issubdtype(cast(type, space.dtype), np.integer)
        and int(space.low.min()) == 0
    )


def _as_ids(values: Tensor) -> Tensor:
    """Return ids that were made floats as ids again.

    Raises:
        ValueError: they are no whole numbers any more.
    """
    ids = values.long()
    if values.is_floating_point() and not torch.equal(ids.to(values.dtype), values):
        raise ValueError(
            "observations must be token ids, got fractions; accepted: environments whose "
            "observations are not scaled, such as VecNormalize(venv, norm_obs=False)"
        )
    return ids


class _Flat(nn.Module):
    """A linear layer over the vectors of all columns, each with its place."""

    def __init__(self, box: spaces.Box, pad_id: int, width: int, features_dim: int) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.ids = _embedding(box, pad_id, width)
        self.places = nn.Parameter(torch.zeros(box.shape[0], width))
        self.last = nn.Linear(box.shape[0] * width, features_dim)

    def forward(self, ids: Tensor) -> Tensor:
        real = (ids != self.pad_id).unsqueeze(2)  # (N, L, 1)
        vectors = self.ids(ids) + self.places * real  # (N, L, D)
        return torch.relu(self.last(vectors.flatten(1)))  # (N, F)


class _Recurrent(nn.Module):
    """The last state of a GRU over the columns that are not padding, wherever they stand."""

    def __init__(self, box: spaces.Box, pad_id: int, width: int, features_dim: int) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.ids = _embedding(box, pad_id, width)
        self.gru = nn.GRU(width, features_dim, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        real = ids != self.pad_id  # (N, L)
        lengths = real.sum(dim=1)  # (N,)
        longest = max(int(lengths.max()), 1)
        order = (~real).int().argsort(dim=1, stable=True)[:, :longest]  # real columns first
        states, _ = self.gru(self.ids(ids.gather(1, order)))  # (N, longest, F)
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
        final = states.gather(1, last).squeeze(1)  # (N, F)
        return cast(Tensor, final * (lengths > 0).unsqueeze(1))


_NETWORKS: dict[str, type[_Flat] | type[_Recurrent]] = {"flatten": _Flat, "gru": _Recurrent}


def _embedding(box: spaces.Box, pad_id: int, width: int) -> nn.Embedding:
    """Return a vector an id; that of padding is 0 and stays it."""
    return nn.Embedding(max(int(box.high.max()), pad_id) + 1, width, padding_idx=pad_id)
