"""Recorded episodes: collecting, storing, filtering, scoring again, exchanging with Minari.

Also what scripted players write (`demonstrations`) and what they earn (`reference_scores`). Imports
`envs`, `policies`, `rewards` and what stands below them; the episodes themselves and their file
live in `text_envs.episodes`.

```python
from text_envs import datasets

data = datasets.recipe("wordle-mixed", 10_000, seed=0)  # or collect(env, policy, n_episodes)
data.filter(top=0.1).save("best.npz")
best = datasets.load("best.npz")
datasets.check_compatible(best, "text_envs/Wordle-v0")
datasets.to_minari(data, "wordle/mixed-v0")  # and datasets.load("wordle/mixed-v0")
```
"""

from __future__ import annotations

from text_envs.core.facts import check_compatible, describe
from text_envs.datasets.collecting import collect
from text_envs.datasets.demonstrations import demonstrate
from text_envs.datasets.minari_io import from_minari, to_minari
from text_envs.datasets.recipes import RECIPES, recipe
from text_envs.datasets.rescoring import rescore
from text_envs.episodes.files import load, save
from text_envs.episodes.merging import merge
from text_envs.episodes.store import EpisodeDataset

__all__ = [
    "RECIPES",
    "EpisodeDataset",
    "check_compatible",
    "collect",
    "demonstrate",
    "describe",
    "from_minari",
    "load",
    "merge",
    "recipe",
    "rescore",
    "save",
    "to_minari",
]
