"""A transformers model that maps texts to logits, the same for a text alone and in any batch."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.rewards.reading import batches, longest_input

__all__ = ["ClassifierHead"]

_Row = dict[str, list[int]]  # what a tokenizer makes of one text: ids, mask, types

# Texts of two lengths by which it is seen whether padding changes anything, and how close counts
# as the same; a network that rounds more coarsely reads rows of one length only.
_SHORT, _LONG = "a text", "another text, which is longer by some words than the one before."
_SAME = 2e-5


class ClassifierHead:
    """A transformers model that maps a text, or a pair of texts, to logits; batched, frozen.

    Texts too long for the model lose their beginning: the end is what the agent wrote. Weights are
    held in float32, whatever they were saved in, so that no batch rounds a score differently by
    more than float32 does.

    A deep copy is the object itself, as nothing in it changes.

    Args:
        spec: how messages call the model.
        model: a local path or a Hub name; safetensors weights, no remote code.
        device: where the model runs.
        batch_size: texts per forward pass.

    Raises:
        ImportError: transformers is missing.
        ValueError: the model cannot be loaded.
    """

    def __init__(self, spec: str, model: str, *, device: str, batch_size: int) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
        self.spec = spec
        self.tokenizer, loaded = _load(spec, model)
        from text_envs.lm.devices import pick_device  # torch is known to be there by now

        self._device = pick_device(device)
        self._model = loaded.eval().requires_grad_(False).to(self._device)
        self._batch_size = batch_size
        self.labels: dict[int, str] = {
            int(number): str(name) for number, name in loaded.config.id2label.items()
        }
        self._longest = longest_input(loaded, self.tokenizer)
        self._inputs = _inputs_of(loaded)
        # Some models cannot read nothing at all; an empty text is shown as a special token.
        special = (self.tokenizer.eos_token, self.tokenizer.sep_token, self.tokenizer.pad_token)
        self._empty: str = next((token for token in special if token), " ")
        pad = self.tokenizer.pad_token_id
        text_config = loaded.config.get_text_config()
        if text_config.pad_token_id is None:
            # By it some models find the last token of a row; -1 is no token, so none is passed by.
            text_config.pad_token_id = -1 if pad is None else pad
        self._pad = pad if pad is None else int(pad)
        self._pads = self._pad is not None and self._sees_through_padding()

    def __deepcopy__(self, memo: dict[int, Any]) -> ClassifierHead:
        return self

    def find_label(self, label: str | int) -> int:
        """Return the number of a label given by number or name."""
        count = len(self.labels)
        if isinstance(label, int):
            if not 0 <= label < count:
                raise ValueError(f"label {label} of {self.spec!r}; accepted: 0..{count - 1}")
            return label
        by_name = {name: number for number, name in self.labels.items()}
        if label not in by_name:
            raise ValueError(f"unknown label {label!r} of {self.spec!r}.{suggest(label, by_name)}")
        return by_name[label]

    def logits(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, special: bool = True
    ) -> NDArray[np.float64]:
        """Return the logits of each text, or pair of texts, `(B, labels)`.

        Args:
            texts: the first text of each row.
            pairs: the second, or None.
            special: let the tokenizer add its special tokens.
        """
        result = np.zeros((len(texts), len(self.labels)))
        if not len(texts):
            return result
        rows = self._encode(texts, pairs, special)
        lengths = np.array([len(row["input_ids"]) for row in rows])
        # Similar lengths share a batch, so that little padding is computed; or equal ones.
        order = np.argsort(lengths, kind="stable").tolist()
        keys = [(0 if self._pads else lengths[i], self._ends(rows[i])) for i in order]
        for places in batches(keys, self._batch_size):
            chosen = [order[place] for place in places]
            result[chosen] = self._forward([rows[i] for i in chosen])
        return result

    def _encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None, special: bool
    ) -> list[_Row]:
        first = [text or self._empty for text in texts]
        second = None if pairs is None else [text or self._empty for text in pairs]
        columns = self.tokenizer(
            first, second, padding=False, add_special_tokens=special,
            truncation=self._longest is not None, max_length=self._longest,
        )  # fmt: skip
        names = [name for name in self._inputs if name in columns]
        rows = [{name: list(columns[name][i]) for name in names} for i in range(len(first))]
        types = getattr(self._model.config, "type_vocab_size", None)
        for row in rows:
            if not row["input_ids"]:  # nothing but what the tokenizer leaves out
                token = self.tokenizer.convert_tokens_to_ids(self._empty) or 0
                row.update({name: [1 if name == "attention_mask" else 0] for name in names})
                row["input_ids"] = [token]
            if types is not None and max(row.get("token_type_ids", [0])) >= types:
                row["token_type_ids"] = [0] * len(row["input_ids"])
        return rows

    def _ends(self, row: _Row) -> int:
        """Return how many end tokens a row has: encoder-decoders want as many in all of a batch."""
        config = self._model.config
        if not getattr(config, "is_encoder_decoder", False):
            return 0
        return row["input_ids"].count(config.eos_token_id)

    def _forward(self, rows: list[_Row]) -> NDArray[np.float64]:
        import torch

        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self._pad or 0}
        inputs = {
            name: torch.tensor(
                [row[name] + [fill.get(name, 0)] * (width - len(row[name])) for row in rows],
                device=self._device,
            )
            for name in rows[0]
        }
        with torch.inference_mode():
            logits: NDArray[np.float64] = self._model(**inputs).logits.double().cpu().numpy()
        return logits

    def _sees_through_padding(self) -> bool:
        """Return whether a text gets the same logits with padding behind it as alone."""
        rows = self._encode([_SHORT, _LONG], None, True)
        if len(rows[0]["input_ids"]) == len(rows[1]["input_ids"]):
            return False
        alone = [self._forward([row])[0] for row in rows]
        try:
            together = self._forward(rows)
        except Exception:  # whatever a family raises that knows no padding
            return False
        scale = max(1.0, float(np.abs(alone).max()))
        # Small weights hide what padding does: a difference counts beside that of the texts.
        apart = float(np.abs(alone[0] - alone[1]).max())
        return bool(np.abs(together - alone).max() <= min(_SAME * scale, 1e-3 * apart))


def _load(spec: str, model: str) -> tuple[Any, Any]:
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from text_envs.lm.loading import quietly
        from text_envs.tokens.hub import find_model
    except ImportError as error:
        raise ImportError(
            f"reward {spec!r} needs torch and transformers: pip install 'text_envs[agents]'"
        ) from error
    try:
        with quietly():
            source = find_model(model)
            tokenizer = AutoTokenizer.from_pretrained(
                source, truncation_side="left", trust_remote_code=False
            )
            loaded = AutoModelForSequenceClassification.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"reward {spec!r}: cannot load a sequence-classification model and its "
            f"tokenizer from {model!r}: {error}"
        ) from error
    return tokenizer, loaded


def _inputs_of(model: Any) -> list[str]:
    """Return which of a tokenizer's columns a model reads."""
    known = inspect.signature(model.forward).parameters
    return [n for n in ("input_ids", "attention_mask", "token_type_ids") if n in known]
