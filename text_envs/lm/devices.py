"""Which device a model is put on."""

from __future__ import annotations

import torch

__all__ = ["pick_device"]


def pick_device(device: torch.device | str) -> torch.device:
    """Return the device meant; "auto" is the GPU where CUDA finds one, and the CPU elsewhere.

    Raises:
        ValueError: there is no such device here.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    accepted = "'auto', 'cpu', 'cuda', 'cuda:<number>', 'mps'"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"unknown device {device!r}; accepted: {accepted}") from error
    count = torch.cuda.device_count() if found.type == "cuda" else None
    if count is not None and (found.index or 0) >= count:
        raise ValueError(
            f"device {device!r} is not here: PyTorch finds {count} CUDA devices; accepted: 'auto', "
            "'cpu', or one that is there"
        )
    return found
