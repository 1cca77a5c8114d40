"""Whether a model decodes with a cache as it does without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from text_envs.lm.cache import CachedDecoder

__all__ = ["probe_decoder"]


def probe_decoder(
    decoder: CachedDecoder,
    plain_of: Callable[[NDArray[np.int64], torch.device], tuple[Tensor, Any]],
    ids: tuple[int, int, int],
    device: torch.device,
) -> str:
    """Return how a decoder differs from the plain forward pass, "" where it does not.

    Args:
        decoder: the one with a cache.
        plain_of: the other one; returns the states at the last tokens of observations.
        ids: padding, and two tokens that the model knows.
        device: where the model is.
    """
    pad, a, b = ids
    rows = np.array([[pad, a, b, a, pad], [a, b, b, pad, pad]], dtype=np.int64)
    try:
        for tokens in (np.where(np.arange(5) < 3, rows, pad), rows):
            hidden, _ = decoder.last_hidden(tokens, np.arange(2), device)
        plain, _ = plain_of(rows, device)
        error = float((hidden - plain).abs().max())
        limit = 1e-3 if plain.dtype == torch.float32 else 0.1
        close = error <= limit * max(1.0, float(plain.abs().max()))
    except Exception as problem:  # whatever an unknown architecture raises
        return f"{type(problem).__name__}: {problem}"
    return "" if close else f"cached and plain states differ by {error:.2g}"
