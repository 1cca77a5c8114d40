"""Saving and resuming training: safetensors and JSON, in a folder or a zip file. No pickle.

```
config.json              which algorithm, its arguments, the spaces, a checksum of every other file
policy/config.json       arguments of the policy
policy/lm/               the language model, as transformers saves it; load_lm reads it
policy/value.safetensors the value head
optimizer.safetensors    moments and step counts
reference/               a reference's model, unless it is a bundled one
state.json               counters, generators, the environment's plain values
state.safetensors        arrays: generators, the environment's arrays
```

A file is either complete or absent: everything is written beside the target and then renamed. The
checksums turn a truncated or altered file into an error that names it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

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

FORMAT = 2
_CONFIG = "config.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file."""


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
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.path, self.iterations, self._count = path, iterations, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._count and self._count % self.iterations == 0:
            self.model.save(cast(Any, self.path))
        self._count += 1

    def _on_training_end(self) -> None:
        self.model.save(cast(Any, self.path))


# -- files -------------------------------------------------------------------------------------


@contextmanager
def writing_checkpoint(path: str | os.PathLike[str], config: dict[str, Any]) -> Iterator[Path]:
    """Yield an empty folder to fill; on leaving, make it the checkpoint at `path` at once.

    Args:
        path: a folder, or a file ending in `.zip`.
        config: JSON-plain; written last, with checksums of all files.

    Raises:
        ValueError: `path` is a folder or file that is no checkpoint, and would be overwritten.
    """
    target = Path(path)
    if target.exists() and not _is_checkpoint(target):
        raise ValueError(f"{target} exists and is no checkpoint; it is not overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        yield tree
        files = sorted(p for p in tree.rglob("*") if p.is_file())
        sums = {p.relative_to(tree).as_posix(): _sha256(p.read_bytes()) for p in files}
        content = json.dumps({"format": FORMAT, **config, "files": sums}, indent=1)
        (tree / _CONFIG).write_text(content, encoding="utf-8")
        if target.suffix == ".zip":
            archive = Path(folder) / "tree.zip"
            with zipfile.ZipFile(archive, "w") as zipped:
                for file in sorted(p for p in tree.rglob("*") if p.is_file()):
                    zipped.write(file, file.relative_to(tree).as_posix())
            os.replace(archive, target)
            return
        if target.exists():  # a folder that is not empty cannot be replaced in one step
            os.replace(target, Path(folder) / "previous")
        os.replace(tree, target)


@contextmanager
def open_checkpoint(path: str | os.PathLike[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a checkpoint as a folder, checked, and its config.

    Args:
        path: what was saved to; `.zip` may be left out, and be there though a folder was saved,
            as with the `best_model.zip` of Stable-Baselines3's `EvalCallback`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        CheckpointError: a file is missing, truncated or altered; or this is no checkpoint.
    """
    source = Path(path)
    if not source.exists() and source.with_name(source.name + ".zip").exists():
        source = source.with_name(source.name + ".zip")
    elif not source.exists() and source.suffix == ".zip" and source.with_suffix("").is_dir():
        source = source.with_suffix("")
    if not source.exists():  # killed between the two renames of a folder: the old one is here
        source = max(source.parent.glob(f".{source.name}.*/previous"), default=source)
    if not source.exists():
        raise FileNotFoundError(f"no checkpoint at {source} (nor {source}.zip)")
    with tempfile.TemporaryDirectory() as folder:
        tree = source
        if source.is_file():
            tree = Path(folder)
            try:
                with zipfile.ZipFile(source) as zipped:
                    zipped.extractall(tree)
            except (zipfile.BadZipFile, EOFError, OSError) as error:
                raise CheckpointError(f"{source} is truncated or no zip file: {error}") from error
        yield tree, _checked_config(source, tree)


def _checked_config(source: Path, tree: Path) -> dict[str, Any]:
    try:
        config = json.loads((tree / _CONFIG).read_text(encoding="utf-8"))
        sums = cast(dict[str, str], config["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = " (one of Stable-Baselines3?)" if (tree / "data").exists() else ""
        raise CheckpointError(f"{source} is no checkpoint of text_envs{hint}: {error}") from error
    if config["format"] != FORMAT:
        raise CheckpointError(
            f"{source} has checkpoint format {config['format']}, this version reads {FORMAT}"
        )
    for name, expected in sums.items():
        file = tree / name
        if not file.is_file():
            raise CheckpointError(f"{source}: file {name} is missing")
        if _sha256(file.read_bytes()) != expected:
            raise CheckpointError(f"{source}: file {name} is truncated or altered")
    return cast(dict[str, Any], config)


def _is_checkpoint(path: Path) -> bool:
    if path.is_dir():
        return (path / _CONFIG).is_file() or not any(path.iterdir())
    return path.suffix == ".zip"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# -- nested values -----------------------------------------------------------------------------


def save_tree(tree: Any, folder: Path, name: str) -> None:
    """Write nested plain values, arrays and tensors as `<name>.json` and `<name>.safetensors`.

    Raises:
        TypeError: a value is neither; the message names where.
    """
    arrays: dict[str, Tensor] = {}
    plain = _split(tree, name, arrays)
    (folder / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")
    save_file(arrays, folder / f"{name}.safetensors")


def load_tree(folder: Path, name: str) -> Any:
    """Return what `save_tree` wrote; tensors on the CPU."""
    plain = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return _join(plain, load_file(folder / f"{name}.safetensors"))


def _split(value: Any, where: str, arrays: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        key, kind = str(len(arrays)), "tensor" if isinstance(value, Tensor) else "array"
        tensor = value.detach().cpu() if isinstance(value, Tensor) else _as_tensor(value, where)
        arrays[key] = tensor.clone().contiguous()
        dtype = None if isinstance(value, Tensor) else value.dtype.str
        return {f"__{kind}__": key, "dtype": dtype}
    if isinstance(value, list | tuple):
        return [_split(v, f"{where}[{i}]", arrays) for i, v in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: _split(v, f"{where}.{k}", arrays) for k, v in value.items()}
    raise TypeError(f"{where} is a {type(value).__name__}; accepted: plain values and arrays")


def _as_tensor(array: np.ndarray[Any, Any], where: str) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{where} is an array of {array.dtype}; accepted: numbers")
    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))


def _join(value: Any, arrays: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_join(v, arrays) for v in value]
    if isinstance(value, dict):
        if "__tensor__" in value:
            return arrays[value["__tensor__"]]
        if "__array__" in value:
            return arrays[value["__array__"]].numpy().astype(value["dtype"])
        return {k: _join(v, arrays) for k, v in value.items()}
    return value


# -- optimisers --------------------------------------------------------------------------------


def optimizer_tree(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state for `save_tree`: string keys, parameters by their number."""
    state = optimizer.state_dict()
    return {
        "state": {str(k): dict(v) for k, v in state["state"].items()},
        "param_groups": state["param_groups"],
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tree: dict[str, Any]) -> None:
    """Put back what `optimizer_tree` returned.

    Raises:
        CheckpointError: it belongs to another set of parameters.
    """
    state = {int(k): v for k, v in tree["state"].items()}
    try:
        optimizer.load_state_dict({"state": state, "param_groups": tree["param_groups"]})
    except ValueError as error:
        raise CheckpointError(f"the optimiser's state is of another policy: {error}") from error
