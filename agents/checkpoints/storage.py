"""Saving and resuming training: safetensors and JSON, in a folder or a zip file. No pickle.

```
config.json              which algorithm, its arguments, the spaces, a checksum of every other file
policy/policy.json       arguments of the policy
policy/lm/               the language model and its tokenizer, as transformers saves them; or its
                         adapters as peft does, with the name of their base, or the base itself
policy/value.safetensors the value head
optimizer.safetensors    moments and step counts
reference/               a reference's model, unless it is a bundled one or the policy's base
reference.safetensors    of one that shares the policy's base: what it has of its own
state.json               counters, generators, the environment's plain values
state.safetensors        arrays: generators, the environment's arrays
```

A file is either complete or absent: everything is written beside the target, to the disk, and then
renamed. The checksums turn a truncated or altered file into an error that names it. A folder cannot
be exchanged in one step: killed between its two renames, both versions lie beside the target, and
loading takes the newer one, by the number of the save; the next save removes what was left.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from stable_baselines3.common.callbacks import BaseCallback

from agents.checkpoints.archive import (
    CONFIG,
    FORMAT,
    open_checkpoint,
    save_number,
    sha256,
    survivors,
)
from agents.checkpoints.errors import CheckpointError
from agents.checkpoints.trees import load_optimizer, load_tree, optimizer_tree, save_tree
from agents.common.checks import require_whole
from text_envs.episodes.drafts import drafting, sync, sync_tree

__all__ = [
    "CheckpointError",
    "SaveEvery",
    "load_optimizer",
    "load_tree",
    "open_checkpoint",
    "optimizer_tree",
    "save_tree",
    "writing_checkpoint",
]


class SaveEvery(BaseCallback):
    """Save between iterations, from where training resumes exactly.

    Stable-Baselines3's own `CheckpointCallback` saves in the middle of a roll-out, whose episodes
    a resumed run would have to play again, differently.

    Args:
        path: folder or `.zip` to write, replaced each time.
        iterations: iterations between two saves.
    """

    def __init__(self, path: str | os.PathLike[str], iterations: int = 1) -> None:
        super().__init__()
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be a folder or a .zip file, got {type(path).__name__}")
        require_whole("iterations", iterations)
        self.path, self.iterations, self._count = path, iterations, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._count and self._count % self.iterations == 0:
            self.model.save(cast(Any, self.path))
        self._count += 1

    def _on_training_end(self) -> None:
        self.model.save(cast(Any, self.path))


@contextmanager
def writing_checkpoint(path: str | os.PathLike[str], config: dict[str, Any]) -> Iterator[Path]:
    """Yield an empty folder to fill; on leaving, make it the checkpoint at `path` at once.

    Args:
        path: a folder, or a file ending in `.zip`.
        config: JSON-plain; written last, with checksums of all files.

    Raises:
        ValueError: `path` is a folder or file that is no checkpoint, and would be overwritten.
        TypeError: `path` is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a folder or a .zip file, got {type(path).__name__}")
    target = Path(path)
    if target.exists() and not _is_checkpoint(target):
        raise ValueError(f"{target} exists and is no checkpoint; it is not overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    with drafting(target) as folder:
        tree = folder / "tree"
        tree.mkdir()
        yield tree
        files = sorted(p for p in tree.rglob("*") if p.is_file())
        before = [number for (number, _), _ in survivors(target)]
        before.append(save_number(target) if target.exists() else 0)
        facts = {
            "format": FORMAT,
            "save": max(before) + 1,
            **config,
            "files": {p.relative_to(tree).as_posix(): sha256(p) for p in files},
        }
        # Under another name first: a tree with its config is a complete one, wherever it is found.
        draft = tree / f"{CONFIG}.draft"
        draft.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        sync_tree(tree)
        os.replace(draft, tree / CONFIG)
        sync(tree)
        if target.suffix == ".zip":
            archive = folder / "tree.zip"
            with zipfile.ZipFile(archive, "w") as zipped:
                for file in sorted(p for p in tree.rglob("*") if p.is_file()):
                    zipped.write(file, file.relative_to(tree).as_posix())
            sync(archive)
            os.replace(archive, target)
        else:
            _exchange(tree, target, folder / "previous")
        sync(target.parent)


def _exchange(tree: Path, target: Path, previous: Path) -> None:
    """Put a folder to where another one may be, which cannot be replaced in one step."""
    existed = target.exists()
    try:
        if existed:
            os.replace(target, previous)
        os.replace(tree, target)
    except BaseException:
        if existed and not target.exists():
            os.replace(previous, target)
        raise


def _is_checkpoint(path: Path) -> bool:
    if path.is_dir():
        return path.suffix != ".zip" and ((path / CONFIG).is_file() or not any(path.iterdir()))
    return path.suffix == ".zip" and _is_archive(path)


def _is_archive(path: Path) -> bool:
    """Return whether a file is an archive of ours, whole or what is left of one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return CONFIG in archive.namelist() or "data" in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return True
