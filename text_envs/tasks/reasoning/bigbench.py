"""Questions in the format of BIG-bench: a `task.json`, or the same rows from the Hub.

    {"examples": [{"input": "...", "target": "..."},
                  {"input": "...", "target_scores": {"one": 0, "two": 1}}, ...], ...}

Nothing but `examples` is read; the other keys, the canary string among them, are ignored.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example
from text_envs.tasks.reasoning.checker import normalise
from text_envs.tasks.reasoning.items import Item, as_example, split_of
from text_envs.tasks.shared import conversation
from text_envs.tasks.shared.data import read_lines
from text_envs.tasks.shared.sources import listed

__all__ = ["load_bigbench"]

# Where a question stands, a text or messages; the last two are TRL's names for messages.
_INPUTS = ("input", "inputs", "prompt", "messages")
_SCORES = ("target_scores", "multiple_choice_targets")
# The last question and what follows it, such as "A:"; what stands before is the context.
_QUESTION = re.compile(r"[^.!?\n]*\?[^.!?]*$")


def load_bigbench(
    dataset: Any, *, split: str = "train", seed: int = 0, name: str = ""
) -> tuple[list[Example], list[Example]]:
    """Return the examples of a split and those of all splits.

    The files have no splits of their own, and their contexts repeat. An example's split follows
    from its input without the last question, so that no context stands in two splits; about a
    tenth goes to "validation" and to "test".

    Args:
        dataset: a `.json` file, a folder that holds `task.json`, the Hub name of a collection
            with one configuration a task, or a sequence of mappings. Accepted fields: `input`
            with `target` (a text, or several that are all accepted) or `target_scores` (every
            option with its score; those with the highest score are right); or the Hub's
            spellings `inputs`, `targets`, `multiple_choice_targets`, `multiple_choice_scores`. A
            question may be a list of messages, there or in `prompt` or `messages`, see
            `text_envs.tasks.shared.data.load_examples`.
        split: "train", "validation", "test" or "all".
        seed: of the order of options.
        name: configuration of a Hub collection.

    Raises:
        DatasetError: names the file, the example and the field.
    """
    rows, source = _rows(dataset, name)
    if len(rows) == 0:
        raise DatasetError(f"{source}: field 'examples' is empty")
    items = [_as_item(row, f"{source}, example {number}") for number, row in enumerate(rows, 1)]
    items = _with_wrong_answers(items)
    examples = [
        as_example(item, np.random.default_rng([seed, index]), index, compact=False)
        for index, item in enumerate(items)
    ]
    chosen = [
        example
        for item, example in zip(items, examples, strict=True)
        if split in ("all", split_of(item.key))
    ]
    if not chosen:
        contexts = len({item.key for item in items})
        raise DatasetError(
            f"{source}: no example in split {split!r}; examples with one context stay together, "
            f"and there are only {contexts} contexts in {len(items)} examples. "
            "split='all' takes every example"
        )
    return chosen, examples


def _rows(dataset: Any, name: str) -> tuple[Sequence[Any], str]:
    if isinstance(dataset, str | Path):
        path = Path(dataset)
        if (path / "task.json").is_file():
            path = path / "task.json"
        if path.suffix == ".json" or path.is_file():
            return _read_json(path), str(path)
        return _read_hub(str(dataset), name), f"{dataset} ({name})"
    source = type(dataset).__name__
    if isinstance(dataset, Mapping):  # as with the Hub's, splits of their own are put together
        return [row for key in sorted(dataset) for row in listed(dataset[key])], source
    if hasattr(dataset, "__iter__"):
        return listed(dataset), source
    raise DatasetError(
        "dataset must be a task.json, a folder with one, a Hub name or a list of examples; got "
        f"{type(dataset).__name__}"
    )


def _read_json(path: Path) -> Sequence[Any]:
    try:
        content = json.loads("\n".join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}, line {error.lineno}: not JSON ({error.msg} at column {error.colno})"
        ) from error
    if not isinstance(content, dict) or "examples" not in content:
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise DatasetError(f"{path}: expected an object with a field 'examples', got {found}")
    examples = content["examples"]
    if not isinstance(examples, list):
        raise DatasetError(
            f"{path}: field 'examples' must be a list, got {type(examples).__name__}"
        )
    return examples


def _read_hub(dataset: str, name: str) -> Sequence[Any]:
    try:
        import datasets
    except ImportError as error:
        raise DatasetError(
            f"dataset {dataset!r} is no local file; data sets of the Hub need the package "
            "datasets: pip install 'text_envs[data]'"
        ) from error
    try:
        if (Path(dataset) / "dataset_info.json").exists():
            loaded: Any = datasets.load_from_disk(dataset)
        else:
            loaded = datasets.load_dataset(dataset, name or None, trust_remote_code=False)
        if isinstance(loaded, Mapping):  # the Hub's splits repeat contexts; ours do not
            loaded = datasets.concatenate_datasets([loaded[key] for key in sorted(loaded)])
    except Exception as error:  # every failure of another library becomes one that names the data
        raise DatasetError(
            f"dataset {dataset!r} ({name!r}): neither a local task.json nor a data set that "
            f"`datasets` can load ({type(error).__name__}: {error})"
        ) from error
    rows: Sequence[Any] = loaded
    return [rows[i] for i in range(len(rows))]


def _as_item(row: Any, where: str) -> Item:
    if not isinstance(row, Mapping):
        raise DatasetError(f"{where}: expected a mapping, got {type(row).__name__}")
    field = next((name for name in _INPUTS if row.get(name) is not None), None)
    if field is None:
        raise DatasetError(f"{where}: no field 'input'; it has {', '.join(map(repr, row))}")
    text: str = row[field]
    if conversation.is_messages(text):
        text, said = conversation.read(row, field, where)
        if said and not any(name in row for name in ("target", "targets", *_SCORES)):
            row = {**row, "target": list(said)}
    elif isinstance(text, str):
        text = text.strip()
    if not isinstance(text, str) or not text.strip():
        raise DatasetError(f"{where}: field 'input' must be a text, got {text!r}")
    context = _QUESTION.sub("", text.strip()).strip() or text.strip()
    key = ("bigbench", " ".join(context.split()))
    scores = _scores(row, where)
    if scores:
        best = max(scores.values())
        right = tuple(option for option, score in scores.items() if score == best)
        return Item(key, text, right, tuple(scores))
    return Item(key, text, _targets(row, where))


def _with_wrong_answers(items: list[Item]) -> list[Item]:
    """Give each item without options an answer of another one that is not right for it."""
    free = list(dict.fromkeys(item.gold[0] for item in items if not item.options))
    given = []
    for index, item in enumerate(items):
        if not item.options:
            right = set(map(normalise, item.gold))
            others = (free[(index + k) % len(free)] for k in range(len(free)))
            wrong = next((text for text in others if normalise(text) not in right), None)
            item = dataclasses.replace(item, wrong=() if wrong is None else (wrong,))
        given.append(item)
    return given


def _scores(row: Mapping[str, Any], where: str) -> dict[str, float]:
    """Return the options with their scores, or nothing where the answer is free text."""
    scores, field = row.get("target_scores"), "target_scores"
    if scores is None and row.get("multiple_choice_targets"):
        field = "multiple_choice_scores"
        options, values = row["multiple_choice_targets"], row.get(field)
        if not isinstance(values, Sequence) or len(values) != len(options):
            raise DatasetError(
                f"{where}: field {field!r} must hold {len(options)} numbers, got {values!r}"
            )
        scores = dict(zip(options, values, strict=True))
    if scores is None:
        return {}
    if not isinstance(scores, Mapping) or len(scores) < 2:
        raise DatasetError(f"{where}: field {field!r} must map two options or more to scores, "
                           f"got {scores!r}")  # fmt: skip
    for option, score in scores.items():
        number = isinstance(score, int | float) and np.isfinite(score)
        if not isinstance(option, str) or not number:
            raise DatasetError(f"{where}: field {field!r}: {option!r} has the score {score!r}")
    if max(scores.values()) <= 0:
        raise DatasetError(f"{where}: field {field!r}: no option has a score above 0")
    return dict(scores)


def _targets(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    field = "targets" if "targets" in row and "target" not in row else "target"
    if field not in row:
        raise DatasetError(
            f"{where}: no field 'target' or 'target_scores'; it has {', '.join(map(repr, row))}"
        )
    target = row[field]
    targets = [target] if isinstance(target, str) else target
    texts = isinstance(targets, Sequence) and all(isinstance(t, str) for t in targets)
    if not texts or not targets or not all(normalise(t) for t in targets):
        raise DatasetError(
            f"{where}: field {field!r} must be a text or a list of texts, not empty; got {target!r}"
        )
    return tuple(dict.fromkeys(targets))
