"""Where the bundled models, word lists and scores are."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ASSETS"]

ASSETS = Path(__file__).parents[1] / "assets"
