"""Recorded episodes: collecting, storing, filtering, scoring again, exchanging with Minari."""

from __future__ import annotations

from text_envs.datasets.store import EpisodeDataset

__all__ = ["EpisodeDataset"]
