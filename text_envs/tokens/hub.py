"""Where the files of a model lie that a user names, and whether they are safe to read.

A folder is looked into before anything of it is loaded: weights are read from safetensors only, as
pickles run code, and an index of weights may name files of its own folder only. A name of the Hub
is asked for once, for at most two seconds (or the seconds of the variable HF_HUB_ETAG_TIMEOUT):
where nobody answers, what was downloaded before is used, and a name that never was fails at once
instead of after minutes of retries.
"""

from __future__ import annotations

import functools
import json
import os
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

__all__ = ["check_weights", "find_model", "find_name"]

_PATIENCE = 2.0  # seconds
_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def find_model(name: str | os.PathLike[str]) -> str:
    """Return from where transformers shall load a model: a folder, or a name of the Hub.

    Args:
        name: a folder, or a name of the Hub.

    Raises:
        ValueError: it is neither, the folder holds unsafe weights, or the Hub cannot be reached
            and has not been asked for this model before.
    """
    name = os.fspath(name)
    if Path(name).exists() and not Path(name).is_dir():
        raise ValueError(f"{name!r} is a file; accepted: the folder of a model, a name of the Hub")
    found = find_name(name, "config.json")
    if Path(found).is_dir():
        check_weights(Path(found))
    else:
        _check_remote_index(found)
    return found


def find_name(name: str, file: str) -> str:
    """Return a folder as it is, and of a name of the Hub whether it can be asked for.

    Args:
        name: a folder, or a name of the Hub.
        file: what shows that it was downloaded before.

    Returns:
        the name, or the folder of an earlier download.

    Raises:
        ValueError: it is neither, or the Hub cannot be reached and was not asked for it before.
    """
    if Path(name).is_dir():
        return name
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError(
            f"there is no folder {name!r}, and it cannot be a name of the Hub (owner/model)"
        ) from None
    cached = try_to_load_from_cache(name, file)
    offline = bool(constants.HF_HUB_OFFLINE)
    if not offline and _answers(constants.ENDPOINT):
        return name
    if isinstance(cached, str):
        return str(Path(cached).parent)
    why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} cannot be reached"
    raise ValueError(
        f"there is no folder {name!r}, and the Hub cannot be asked for it: {why} and the model was "
        "not downloaded before"
    )


def check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are pickles, or whose index names files outside of it.

    The folders inside are looked into as well: embedding models keep some of their parts there.

    Raises:
        ValueError: the folder is not safe to load from; the message says why.
    """
    for inside in (folder, *sorted(path for path in folder.glob("*/") if path.is_dir())):
        names = sorted(path.name for path in inside.iterdir() if path.is_file())
        for index in (name for name in names if name.endswith(".safetensors.index.json")):
            _check_index(inside / index)
        pickles = [n for n in names if n.endswith(_PICKLES) and "model" in n]
        if pickles and not any(name.endswith(".safetensors") for name in names):
            raise ValueError(
                f"{str(inside)!r} holds its weights as a pickle, {pickles[0]!r}, which may run any "
                "code when it is read; accepted: safetensors, as save_pretrained writes them"
            )


def _check_index(file: Path) -> None:
    """Refuse an index of weights that leads out of its folder or to anything but safetensors."""
    try:
        content = json.loads(file.read_bytes())
        shards = set(content["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(file)!r} is no index of weights: {error!r}") from None
    for shard in sorted(shards, key=str):
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or _leads_away(shard):
            raise ValueError(
                f"{str(file)!r} names {shard!r} as a file of weights; accepted: safetensors in its "
                "own folder"
            )


def _leads_away(name: str) -> bool:
    return "/" in name or "\\" in name or ":" in name or name.startswith(".")


def _check_remote_index(name: str) -> None:
    """Check the index of weights of a model of the Hub, which is downloaded for it."""
    from transformers.utils.hub import cached_file

    found: Any = cached_file(
        name, _INDEX,
        _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    if found is not None:
        _check_index(Path(found))


def _answers(address: str) -> bool:
    """Return whether anybody answers at an address, refusals included, within the patience."""
    patience = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or _PATIENCE)
    answered = threading.Event()
    # Aside, because finding the address of a name has no limit of its own.
    asking = threading.Thread(
        target=functools.partial(_ask, address, patience, answered), daemon=True
    )
    asking.start()
    asking.join(patience)
    return answered.is_set()


def _ask(address: str, patience: float, answered: threading.Event) -> None:
    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=patience).close()
    except urllib.error.HTTPError:
        pass  # an answer
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # whose certificates are not ours to judge
            return
    except (OSError, ValueError):
        return
    answered.set()
