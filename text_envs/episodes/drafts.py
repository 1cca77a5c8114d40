"""Folders beside a file that is being written, and what killed writers leave of them.

A writer fills a folder `.<name>.<random>` and renames what is complete. It holds a lock meanwhile,
so that whoever writes next can tell what a killed writer left, and removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows, where nobody is known to be alive: drafts there are left alone
    fcntl = None  # type: ignore[assignment]

__all__ = ["drafting", "drafts_of", "sync", "sync_tree"]

_LOCK = "lock"
_PARTS = {_LOCK, "tree", "tree.zip", "previous", "draft"}
_TRIES = 100


@contextmanager
def drafting(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to write to; on leaving it is removed.

    If all went well, what killed writers of the same target left is removed too.
    """
    folder, lock = _begin(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
    for left in drafts_of(target):
        if fcntl is not None and not _is_alive(left):
            shutil.rmtree(left, ignore_errors=True)


def drafts_of(target: Path) -> list[Path]:
    """Return the folders of writers of `target`, alive or killed."""
    suffix = re.compile(re.escape(f".{target.name}.") + r"\w+")  # no dot: those are of other names
    found = []
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        if suffix.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            try:
                inside = {part.name for part in path.iterdir()}
            except FileNotFoundError:  # its writer has just finished
                continue
            if inside <= _PARTS:
                found.append(path)
    return sorted(found)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before what follows."""
    if os.name == "nt" and path.is_dir():
        return  # cannot be opened there
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(tree: Path) -> None:
    """Have everything below a folder on the disk."""
    for path in tree.rglob("*"):
        sync(path)
    sync(tree)


def _begin(target: Path) -> tuple[Path, IO[Any]]:
    """Return a new folder and its lock, held."""
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            lock = (folder / _LOCK).open("w")
        except FileNotFoundError:  # another writer cleaned up just now
            continue
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / _LOCK).exists():
            return folder, lock
        lock.close()
    raise OSError(f"no folder could be made beside {target}: others remove it at once")


def _is_alive(folder: Path) -> bool:
    """Return whether the writer of a folder still holds its lock."""
    try:
        with (folder / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
