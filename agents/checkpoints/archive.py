"""Opening a checkpoint: found, unpacked within limits, and every file compared with its checksum.

Nothing is read but files that `config.json` lists, and these only after their checksums were found
to fit. Of an archive nothing else is unpacked; in a folder nothing else may lie, because
transformers would read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from agents.checkpoints.errors import CheckpointError, reading
from text_envs.episodes.drafts import drafts_of

__all__ = ["CONFIG", "FORMAT", "open_checkpoint", "save_number", "sha256", "survivors"]

FORMAT = 2
CONFIG = "config.json"

# An archive is written without compression; one that was packed again by hand may shrink by this.
_RATIO, _SLACK = 8, 2**20
_MOST_CONFIG = 2**26


@contextmanager
def open_checkpoint(path: str | os.PathLike[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a checkpoint as a folder, checked, and its config.

    Args:
        path: what was saved to; `.zip` may be left out, and be there though a folder was saved,
            as with the `best_model.zip` of Stable-Baselines3's `EvalCallback`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        CheckpointError: a file is missing, truncated, altered or not listed; or this is no
            checkpoint. What cannot be used in a file is a CheckpointError too, which names it.
        TypeError: `path` is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a folder or a .zip file, got {type(path).__name__}")
    source = _found(Path(path))
    with tempfile.TemporaryDirectory() as folder:
        if source.is_file():
            tree = Path(folder)
            config = _unpack(source, tree)
        else:
            tree, config = source, _config(source, _content(source / CONFIG, source))
            _refuse_unlisted(source, config)
        _check_sums(source, tree, config)
        yield tree, config


def _found(source: Path) -> Path:
    """Return where the checkpoint of that name is."""
    choices = [source, source.with_name(source.name + ".zip")]
    if source.suffix == ".zip":
        choices.append(source.with_suffix(""))
    for choice in choices:
        if choice.is_file() or choice.is_dir():
            return choice
    # Killed between the two renames of a folder: the newest that is complete lies beside.
    for _, tree in sorted(survivors(source), reverse=True):
        try:
            config = _config(tree, _content(tree / CONFIG, tree))
            _check_sums(tree, tree, config)
        except CheckpointError:
            continue
        return tree
    if source.exists():
        raise CheckpointError(f"{source} is neither a folder nor a file")
    raise FileNotFoundError(f"no checkpoint at {source} (nor {source}.zip)")


def survivors(target: Path) -> list[tuple[tuple[int, bool], Path]]:
    """Return folders that killed saves to a folder left, with their order: the newest is last."""
    return [
        ((save_number(draft / part), part == "tree"), draft / part)
        for draft in drafts_of(target)
        for part in ("previous", "tree")
        if (draft / part / CONFIG).is_file()
    ]


def save_number(path: Path) -> int:
    """Return the how manieth save to its path a checkpoint is; 0 where nobody knows."""
    try:
        if path.is_dir():
            content = (path / CONFIG).read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                content = archive.read(CONFIG)
        number = json.loads(content).get("save", 0)
    except Exception:  # whatever lies there is no checkpoint, and is going to be replaced
        return 0
    return number if isinstance(number, int) else 0


# -- what config.json says ---------------------------------------------------------------------


def _content(file: Path, source: Path) -> bytes:
    hint = " (one of Stable-Baselines3?)" if (source / "data").exists() else ""
    try:
        if file.stat().st_size > _MOST_CONFIG:
            raise OSError(f"{CONFIG} is larger than {_MOST_CONFIG} bytes")
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{source} is no checkpoint of text_envs{hint}: {error}") from error


def _config(source: Path, content: bytes) -> dict[str, Any]:
    """Return what `config.json` holds, its own fields checked."""
    try:
        config = json.loads(content)
        sums, known = config["files"], config["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{source} is no checkpoint of text_envs: {error!r}") from error
    if known != FORMAT or isinstance(known, bool):
        raise CheckpointError(
            f"{source} has checkpoint format {known!r}, this version reads {FORMAT}"
        )
    where = f"{source}: {CONFIG}"
    if not isinstance(sums, dict) or not sums:
        raise CheckpointError(f"{where}: files must name every file with its checksum")
    for name, expected in sums.items():
        parts = PurePosixPath(name).parts
        plain = "/".join(parts) == name and not {"..", ".", "/"} & set(parts) and "\\" not in name
        if not plain or name == CONFIG or ":" in name or "\0" in name:
            raise CheckpointError(f"{where}: files names {name!r}, which is no file inside of it")
        if not isinstance(expected, str):
            raise CheckpointError(f"{where}: files[{name!r}] must be a checksum, got {expected!r}")
    return dict(config)


def _refuse_unlisted(source: Path, config: dict[str, Any]) -> None:
    for file in source.rglob("*"):
        name = file.relative_to(source).as_posix()
        hidden = file.name.startswith(".")  # a file system's or an editor's; nobody reads it
        if not file.is_dir() and not hidden and name != CONFIG and name not in config["files"]:
            raise CheckpointError(
                f"{source}: file {name} is not of this checkpoint, whose config.json does not list "
                "it; move it elsewhere"
            )


def _check_sums(source: Path, tree: Path, config: dict[str, Any]) -> None:
    for name, expected in config["files"].items():
        file = tree / name
        if not file.is_file():
            raise CheckpointError(f"{source}: file {name} is missing")
        if sha256(file) != expected:
            raise CheckpointError(f"{source}: file {name} is truncated or altered")


def sha256(file: Path) -> str:
    """Return the checksum of a file of any size."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


# -- archives ------------------------------------------------------------------------------------


def _unpack(source: Path, tree: Path) -> dict[str, Any]:
    """Unpack the files that an archive lists, and return its config."""
    try:
        with zipfile.ZipFile(source) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if CONFIG not in members:
                hint = " (one of Stable-Baselines3?)" if "data" in members else ""
                raise CheckpointError(f"{source} is no checkpoint of text_envs{hint}: no {CONFIG}")
            if members[CONFIG].file_size > _MOST_CONFIG:
                raise CheckpointError(f"{source}: {CONFIG} is larger than {_MOST_CONFIG} bytes")
            config = _config(source, archive.read(CONFIG))
            listed = [members[name] for name in config["files"] if name in members]
            total, size = sum(info.file_size for info in listed), source.stat().st_size
            if total > _RATIO * size + _SLACK:
                raise CheckpointError(
                    f"{source}: {size} bytes would unpack to {total}; a checkpoint is not packed "
                    "that tightly"
                )
            for info in listed:
                with reading(f"{source}: file {info.filename}"):
                    _write(archive, info, tree / info.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise CheckpointError(f"{source} is truncated or no zip file: {error}") from error
    return config


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as packed, file.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
