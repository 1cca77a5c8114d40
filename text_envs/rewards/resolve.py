"""From what a user writes (a name, `hf:<model>`, `module:function`, weights) to a reward model.

| form | stands for |
|---|---|
| a callable on an `EpisodeBatch` | itself |
| `"sentiment"` | a built-in name, see `NAMES` |
| `"hf:<folder or Hub name>"` | a sequence-classification or scalar reward model |
| `"hf-preference:<folder or Hub name>"` | a preference over another text, scalar or pairwise head |
| `"module:attribute"` | a callable, or a class of callables, of your own |
| `{"reward": form, "reward_kwargs": {...}}` | a name with arguments, where forms are nested |
| `{form: weight}`, `{part: [weight, form]}` | a weighted sum |

All but callables are plain JSON, and none may hold a key: they are written to files.

>>> resolve({"length": 1.0, "short": [-0.5, {"reward": "length", "reward_kwargs": {"target": 3}}]})
WeightedSum({'length': (1.0, Length(target=None, scale=1.0)), \
'short': (-0.5, Length(target=3, scale=1.0))})
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from text_envs.core.reward import RewardModel
from text_envs.episodes.errors import suggest
from text_envs.rewards.builtin import Constant, Length, WeightedSum
from text_envs.rewards.secrets import refuse_secrets

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
    "bertscore": _lazy("similarity", "BertScore"),
    "bleu": _lazy("overlap", "Bleu"),
    "cache": _lazy("cache", "Cache"),
    "calibrated": _lazy("calibrated", "Calibrated"),
    "ciderd": _lazy("ciderd", "CiderD"),
    "clip": _lazy("decorators", "Clip"),
    "constant": Constant,
    "coverage": _lazy("overlap", "Coverage"),
    "distinct": _lazy("diversity", "Distinct"),
    "embedding": _lazy("similarity", "EmbeddingSimilarity"),
    "exact_match": _lazy("matching", "ExactMatch"),
    "judge": _lazy("judge", "Judge"),
    "ledger": _lazy("decorators", "Ledger"),
    "length": Length,
    "likelihood": _lazy("likelihood", "Likelihood"),
    "meteor": _lazy("meteor", "Meteor"),
    "preference": _lazy("preference", "Preference"),
    "regex": _lazy("matching", "Regex"),
    "remote": _lazy("remote", "Remote"),
    "repetition": _lazy("diversity", "Repetition"),
    "rouge": _lazy("overlap", "Rouge"),
    "scale": _lazy("decorators", "Scale"),
    "sentiment": _lazy("sentiment", "Sentiment"),
    "toxicity": _lazy("toxicity", "Toxicity"),
    "upvotes": _lazy("upvotes", "Upvotes"),
    "vader": _lazy("lexicon", "Vader"),
}
_PREFIXES: dict[str, Callable[..., RewardModel]] = {
    "hf": _lazy("hf", "SequenceClassifier"),
    "hf-preference": _lazy("hf_preference", "PreferenceModel"),
}


def resolve(spec: Any, **kwargs: Any) -> RewardModel:
    """Return the reward model that `spec` stands for.

    Args:
        spec: a form of the table above.
        **kwargs: arguments of the named reward model, for example `device="cuda"`.

    Raises:
        ValueError: an unknown name, with the nearest one; a mapping of another form; or an argument
            that holds a key, which belongs into an environment variable.
        TypeError: something that is none of the above, or arguments where none are taken.
    """
    refuse_secrets(kwargs)  # before any message can quote what was given
    if isinstance(spec, str | Mapping):
        refuse_secrets(spec)
    if isinstance(spec, str):
        return _by_name(spec, kwargs)
    if kwargs:
        raise TypeError(
            f"reward arguments {sorted(kwargs)} go with a reward given by name, got {spec!r}"
        )
    if isinstance(spec, Mapping):
        return _by_mapping(spec)
    if inspect.isclass(spec):
        raise TypeError(f"reward must be an instance, got the class {spec.__name__}; call it first")
    if callable(spec):
        model: RewardModel = spec
        return model
    raise TypeError(
        "reward must be a callable, a name, 'hf:<model>', 'hf-preference:<model>', "
        f"'module:attribute' or a mapping of names to weights; got {type(spec).__name__} {spec!r}"
    )


def _by_mapping(spec: Mapping[Any, Any]) -> RewardModel:
    if "reward" in spec:
        unknown = sorted(map(str, set(spec) - {"reward", "reward_kwargs"}))
        if unknown:
            raise ValueError(
                f"a nested reward has the keys 'reward' and 'reward_kwargs', got also {unknown}"
            )
        return resolve(spec["reward"], **dict(spec.get("reward_kwargs") or {}))
    parts = {}
    for name, entry in spec.items():
        pair = isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 2
        weight, inner = entry if pair else (entry, name)
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise ValueError(
                f"reward {name!r} of a weighted sum needs a weight or [weight, reward], "
                f"got {entry!r}"
            )
        parts[str(name)] = (float(weight), resolve(inner))
    return WeightedSum(parts)


def _by_name(spec: str, kwargs: dict[str, Any]) -> RewardModel:
    if spec in NAMES:
        return NAMES[spec](**kwargs)
    kind, colon, rest = spec.partition(":")
    if colon and kind in _PREFIXES:
        return _PREFIXES[kind](rest, **kwargs)
    if colon:
        return _imported(kind, rest, kwargs)
    raise ValueError(
        f"unknown reward {spec!r}.{suggest(spec, NAMES)} "
        "Also accepted: 'hf:<model>', 'hf-preference:<model>' and 'module:attribute'."
    )


def _imported(module_name: str, attribute: str, kwargs: dict[str, Any]) -> RewardModel:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"reward '{module_name}:{attribute}': cannot import module {module_name!r} ({error})."
            f"{suggest(module_name, _PREFIXES)} Also accepted: any module that can be imported."
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
        raise TypeError(
            f"reward {attribute!r} is a function and takes no arguments {sorted(kwargs)}"
        )
    if not callable(found):
        raise TypeError(f"reward '{module_name}:{attribute}' is {found!r}, which is not callable")
    model: RewardModel = found
    return model
