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
from text_envs.rewards.batches import whole_texts
from text_envs.rewards.heads import ClassifierHead
from text_envs.rewards.hf import Template, follow
from text_envs.rewards.words import references

__all__ = ["PreferenceModel"]

_HEADS = ("scalar", "pairwise")
_OUTPUTS = ("logit", "probability")

_Read = tuple[str, str, str]  # a prompt, a text, and both as one


class PreferenceModel:
    """Log-odds, or probability, that a text is preferred to its references.

    | head | the model reads | its output |
    |---|---|---|
    | "scalar" | prompt and one text, put together by `template` | one number, `num_labels=1` |
    | "pairwise" | the tokenizer's pair (prompt and first text, second text) | one log-odds that \
the first is better, or labels of which `label` says so |

    The agent's text is read with its prompt as it was written, see `SequenceClassifier`; another
    text, of which there are no tokens, follows the prompt after a space, and as the agent's own
    where it is equal. A text longer than the model reads loses its beginning. A text earns the
    same alone and in any batch.

    A deep copy is the object itself, as nothing in it changes; a pickle holds the weights.

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
            device: where the model runs: "cpu", "cuda", or "auto" for the GPU where there is one.
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
        wholes: Sequence[str] | None = None,
    ) -> NDArray[np.float64]:
        """Return the reward of each text against its own other texts, `(B,)`.

        Args:
            prompts: B prompts.
            texts: B texts.
            of_each: the other texts of each, at least one.
            wholes: each prompt and its text as one; None puts a space between them.
        """
        if not len(texts):
            return np.zeros(0)
        if wholes is None:
            wholes = [follow(*pair) for pair in zip(prompts, texts, strict=True)]
        row = np.repeat(np.arange(len(texts)), [len(others) for others in of_each])  # (M,)
        y = [(prompts[i], texts[i], wholes[i]) for i in row.tolist()]
        others = [other for others in of_each for other in others]
        z = [_instead(one, other) for one, other in zip(y, others, strict=True)]
        logits = self._scalar(y, z) if self.head == "scalar" else self._pairwise(y, z)
        if self.output == "probability":
            logits = (1 + np.tanh(logits / 2)) / 2  # a sigmoid that cannot overflow
        count = np.bincount(row, minlength=len(texts))
        means: NDArray[np.float64] = np.bincount(row, logits, minlength=len(texts)) / count
        return means

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the rewards, `(B,)`."""
        return self.score_texts(
            episodes.prompts, episodes.texts, self._others(episodes), whole_texts(episodes)
        )

    def _scalar(self, y: list[_Read], z: list[_Read]) -> NDArray[np.float64]:
        place = {read: number for number, read in enumerate(dict.fromkeys([*y, *z]))}
        prompts, texts, wholes = zip(*place, strict=True)
        scores = self.template.logits(self._head, prompts, texts, wholes)[:, 0]
        each = scores[[place[read] for read in [*y, *z]]]  # an equal text is read once
        return each[: len(y)] - each[len(y) :]

    def _pairwise(self, y: list[_Read], z: list[_Read]) -> NDArray[np.float64]:
        def odds(first: list[_Read], second: list[_Read]) -> NDArray[np.float64]:
            logits = self._head.logits(
                [whole for *_, whole in first], [text for _, text, _ in second]
            )
            if logits.shape[1] == 1:
                return logits[:, 0]
            rest = np.logaddexp.reduce(np.delete(logits, self._label, axis=1), axis=1)
            return np.asarray(logits[:, self._label] - rest)

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


def _instead(read: _Read, other: str) -> _Read:
    """Return what is read if another text follows the prompt."""
    prompt, text, _ = read
    return read if other == text else (prompt, other, follow(prompt, other))
