r"""Preference models: how much better a text is than another one, a reference for example.

Idea: Bradley and Terry's odds that y is preferred to z as continuation of x,
    logit P(y over z) = s(x, y) - s(x, z)              head="scalar": a model with one output s
    logit P(y over z) = (f(x, y, z) - f(x, z, y)) / 2  head="pairwise": a model that reads both
where f is the model's own log-odds that the first text is the better one. Reading each pair in both
orders takes out the model's liking for a place: the reward of a text against itself is 0 (its
probability 1/2), and swapping the two changes the sign. Over several references the mean is paid,
of logits or of probabilities.

Unlike a raw score, a preference over each prompt's own reference can be compared between prompts,
and the probability is bounded.

Reference: R. Bradley and M. Terry, "Rank analysis of incomplete block designs", Biometrika 39,
1952.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.hf import ClassifierHead, Template
from text_envs.rewards.words import references

__all__ = ["PreferenceModel"]

_HEADS = ("scalar", "pairwise")
_OUTPUTS = ("logit", "probability")


class PreferenceModel:
    """Log-odds, or probability, that a text is preferred to its references.

    | head | the model reads | its output |
    |---|---|---|
    | "scalar" | prompt and one text, put together by `template` | one number, `num_labels=1` |
    | "pairwise" | the tokenizer's pair (prompt and first text, second text) | one log-odds that \
the first is better, or labels of which `label` says so |

    Here `folder` holds a small scalar model; it can be a Hub name as well:

    >>> from text_envs.rewards import resolve
    >>> model = resolve(f"hf-preference:{folder}", output="probability")
    >>> same, other = model.score_texts(["a film about"] * 2, ["love", "war"], [["love"], ["love"]])
    >>> float(same), bool(0 < other < 1)
    (0.5, True)
    """

    def __init__(
        self,
        model: str,
        *,
        head: Literal["scalar", "pairwise"] = "scalar",
        against: str = "references",
        baseline: str | None = None,
        output: Literal["logit", "probability"] = "logit",
        label: str | int | None = None,
        template: str = "plain",
        both_orders: bool = True,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        """Load the model and its tokenizer.

        Args:
            model: a local path or a Hub name; safetensors weights, no remote code.
            head: "scalar" or "pairwise", see above.
            against: "references", or the key of an example's metadata that holds the other text, or
                a sequence of other texts.
            baseline: one text that all are compared with, instead of `against`.
            output: "logit" or "probability".
            label: of a pairwise model with several labels, the one that says that the first text
                is better; it is never guessed.
            template: of a scalar model, see `SequenceClassifier`.
            both_orders: False reads each pair once, the agent's text first.
            device: where the model runs, for example "cuda".
            batch_size: texts, or pairs, per forward pass.

        Raises:
            ImportError: transformers is missing.
            ValueError: the model cannot be loaded, has another head, or an argument is not
                accepted.
        """
        for name, value, accepted in (("head", head, _HEADS), ("output", output, _OUTPUTS)):
            if value not in accepted:
                raise ValueError(f"unknown {name} {value!r}.{suggest(str(value), accepted)}")
        self.name = f"hf-preference:{model}"
        self.head, self.output = head, output
        self.against, self.baseline = against, baseline
        self.template, self.both_orders = Template(template), both_orders
        self._head = ClassifierHead(self.name, model, device=device, batch_size=batch_size)
        self._label = self._find_label(label)

    def __deepcopy__(self, memo: dict[int, Any]) -> PreferenceModel:
        """Return self: the weights are frozen, and reading a spec copies its arguments."""
        return self

    def _find_label(self, label: str | int | None) -> int:
        names = list(self._head.labels.values())
        if len(names) == 1:
            return 0
        if self.head == "scalar":
            raise ValueError(
                f"reward {self.name!r}: head='scalar' needs a model with one output, this one has "
                f"the labels {names}"
            )
        if label is None:
            raise ValueError(
                f"reward {self.name!r}: which of the labels {names} says that the first text is "
                "better? Pass label=..."
            )
        return self._head.find_label(label)

    def score_texts(
        self,
        prompts: Sequence[str],
        texts: Sequence[str],
        of_each: Sequence[Sequence[str]],
    ) -> NDArray[np.float64]:
        """Return the reward of each text against its own other texts, `(B,)`."""
        row = np.repeat(np.arange(len(texts)), [len(others) for others in of_each])  # (M,)
        x = [prompts[i] for i in row.tolist()]
        y = [texts[i] for i in row.tolist()]
        z = [other for others in of_each for other in others]
        logits = self._scalar(x, y, z) if self.head == "scalar" else self._pairwise(x, y, z)
        if self.output == "probability":
            logits = (1 + np.tanh(logits / 2)) / 2  # a sigmoid that cannot overflow
        count = np.bincount(row, minlength=len(texts))
        means: NDArray[np.float64] = np.bincount(row, logits, minlength=len(texts)) / count
        return means

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the rewards, `(B,)`."""
        return self.score_texts(episodes.prompts, episodes.texts, self._others(episodes))

    def _scalar(self, x: list[str], y: list[str], z: list[str]) -> NDArray[np.float64]:
        pairs = [*zip(x, y, strict=True), *zip(x, z, strict=True)]
        place = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        prompts, texts = zip(*place, strict=True)
        scores = self.template.logits(self._head, prompts, texts)[:, 0]
        each = scores[[place[pair] for pair in pairs]]  # an equal pair is read once
        return each[: len(x)] - each[len(x) :]

    def _pairwise(self, x: list[str], y: list[str], z: list[str]) -> NDArray[np.float64]:
        def odds(first: list[str], second: list[str]) -> NDArray[np.float64]:
            begun = [f"{prompt} {text}".strip() for prompt, text in zip(x, first, strict=True)]
            logits = self._head.logits(begun, second)
            if logits.shape[1] == 1:
                return logits[:, 0]
            others = np.logaddexp.reduce(np.delete(logits, self._label, axis=1), axis=1)
            return np.asarray(logits[:, self._label] - others)

        return (odds(y, z) - odds(z, y)) / 2 if self.both_orders else odds(y, z)

    def _others(self, episodes: EpisodeBatch) -> Sequence[Sequence[str]]:
        if self.baseline is not None:
            return [(self.baseline,)] * len(episodes)
        if self.against == "references":
            return references(episodes)
        found = []
        for row, example in enumerate(episodes.examples):
            other = example.metadata.get(self.against, ())
            found.append((other,) if isinstance(other, str) else tuple(other))
            if not found[-1]:
                raise ValueError(
                    f"example {int(episodes.example_indices[row])} has no {self.against!r} in its "
                    "metadata, and this reward compares the text with it"
                )
        return found

    def __repr__(self) -> str:
        return f"PreferenceModel({self.name!r}, head={self.head!r})"
