"""From what a user writes (a name, `hf:<model>`, `module:function`, weights) to a reward model."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from text_envs.errors import suggest
from text_envs.rewards.base import RewardModel
from text_envs.rewards.builtin import Constant, Length, WeightedSum

__all__ = ["NAMES", "resolve"]


def _lazy(module: str, name: str) -> Callable[..., RewardModel]:
    """Return a factory that imports a reward model when it is first asked for."""

    def make(*args: Any, **kwargs: Any) -> RewardModel:
        factory: Callable[..., RewardModel] = getattr(
            importlib.import_module(f"text_envs.rewards.{module}"), name
        )
        return factory(*args, **kwargs)

    return make


NAMES: dict[str, Callable[..., RewardModel]] = {
    "bleu": _lazy("overlap", "Bleu"),
    "ciderd": _lazy("ciderd", "CiderD"),
    "constant": Constant,
    "coverage": _lazy("overlap", "Coverage"),
    "length": Length,
    "preference": _lazy("preference", "Preference"),
    "rouge": _lazy("overlap", "Rouge"),
    "sentiment": _lazy("sentiment", "Sentiment"),
    "toxicity": _lazy("toxicity", "Toxicity"),
    "upvotes": _lazy("upvotes", "Upvotes"),
    "vader": _lazy("lexicon", "Vader"),
}
_classifier = _lazy("hf", "SequenceClassifier")


def resolve(spec: Any, **kwargs: Any) -> RewardModel:
    """Return the reward model that `spec` stands for.

    Args:
        spec: a callable on an `EpisodeBatch`; a built-in name; `"hf:<local path or Hub name>"`
            for any sequence-classification model; `"module:attribute"` for a callable, or a
            class of callables, of your own; or a mapping `{spec: weight}` for a weighted sum.
        **kwargs: arguments of the named reward model, for example `device="cuda"`.

    Raises:
        ValueError: an unknown name, with the nearest one.
        TypeError: something that is none of the above, or arguments where none are taken.
    """
    if isinstance(spec, str):
        return _by_name(spec, kwargs)
    if kwargs:
        raise TypeError(
            f"reward arguments {sorted(kwargs)} go with a reward given by name, got {spec!r}"
        )
    if isinstance(spec, Mapping):
        return WeightedSum({str(name): (weight, resolve(name)) for name, weight in spec.items()})
    if inspect.isclass(spec):
        raise TypeError(f"reward must be an instance, got the class {spec.__name__}; call it first")
    if callable(spec):
        model: RewardModel = spec
        return model
    raise TypeError(
        "reward must be a callable, a name, 'hf:<model>', 'module:attribute' or a mapping of "
        f"names to weights; got {type(spec).__name__} {spec!r}"
    )


def _by_name(spec: str, kwargs: dict[str, Any]) -> RewardModel:
    if spec in NAMES:
        return NAMES[spec](**kwargs)
    kind, colon, rest = spec.partition(":")
    if colon and kind == "hf":
        return _classifier(rest, **kwargs)
    if colon:
        return _imported(kind, rest, kwargs)
    raise ValueError(
        f"unknown reward {spec!r}.{suggest(spec, NAMES)} "
        "Also accepted: 'hf:<model>' and 'module:attribute'."
    )


def _imported(module_name: str, attribute: str, kwargs: dict[str, Any]) -> RewardModel:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"reward '{module_name}:{attribute}': cannot import module {module_name!r} ({error})"
        ) from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ValueError(
            f"reward '{module_name}:{attribute}': module {module_name!r} has no {attribute!r}."
            f"{suggest(attribute, public)}"
        )
    found = getattr(module, attribute)
    if inspect.isclass(found):
        found = found(**kwargs)
    elif kwargs:
        raise TypeError(f"reward {attribute!r} is a function and takes no arguments {kwargs}")
    if not callable(found):
        raise TypeError(f"reward '{module_name}:{attribute}' is {found!r}, which is not callable")
    model: RewardModel = found
    return model
