"""Any transformers sequence-classification model as a reward model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.errors import suggest
from text_envs.types import EpisodeBatch

__all__ = ["SequenceClassifier"]


class SequenceClassifier:
    """Score of a classifier on prompt and continuation, batched.

    A model with one output (a reward model in the usual sense) pays that output. A model with
    several labels pays the probability, or the logit, of one of them.
    """

    def __init__(
        self,
        model: str,
        *,
        label: str | int | None = None,
        output: str = "probability",
        device: str = "cpu",
        batch_size: int = 64,
        include_prompt: bool = True,
    ) -> None:
        """Load the model and its tokenizer.

        Args:
            model: a local path or a Hub name; safetensors weights, no remote code.
            label: the label to pay for, by name or number; default the last one, which is the
                positive class of the usual two-class models.
            output: "probability" or "logit"; logits do not saturate.
            device: where the model runs, for example "cuda".
            batch_size: texts per forward pass.
            include_prompt: score prompt and continuation together, or the continuation alone.

        Raises:
            ImportError: transformers is missing.
            ValueError: the model cannot be loaded, or an argument is not accepted.
        """
        if output not in ("probability", "logit"):
            accepted = ["probability", "logit"]
            raise ValueError(f"unknown output {output!r}.{suggest(output, accepted)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
        try:
            import torch
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
        except ImportError as error:
            raise ImportError(
                f"reward 'hf:{model}' needs torch and transformers: pip install 'text_envs[agents]'"
            ) from error
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                model, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"reward 'hf:{model}': cannot load a sequence-classification model and its "
                f"tokenizer from {model!r}: {error}"
            ) from error
        self.name = f"hf:{model}"
        self._torch = torch
        self._model = loaded.eval().to(device)
        self._device = device
        self._batch_size = batch_size
        self._include_prompt = include_prompt
        self._output = output
        self._label = self._find_label(label)
        # Some models cannot read nothing at all; an empty text is shown as a special token.
        special = (self._tokenizer.eos_token, self._tokenizer.sep_token, self._tokenizer.pad_token)
        self._empty: str = next((token for token in special if token), " ")
        if self._tokenizer.pad_token_id is None and batch_size > 1:
            raise ValueError(
                f"reward {self.name!r}: its tokenizer has no pad token, so texts cannot be batched;"
                " pass batch_size=1 or save the tokenizer with a pad token"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> SequenceClassifier:
        """Return self: the weights are frozen, and reading a spec copies its arguments."""
        return self

    def _find_label(self, label: str | int | None) -> int:
        labels: dict[int, str] = {int(k): str(v) for k, v in self._model.config.id2label.items()}
        count = len(labels)
        if label is None:
            return count - 1
        if isinstance(label, int):
            if not 0 <= label < count:
                raise ValueError(f"label {label} of {self.name!r}; accepted: 0..{count - 1}")
            return label
        by_name = {name: index for index, name in labels.items()}
        if label not in by_name:
            raise ValueError(f"unknown label {label!r} of {self.name!r}.{suggest(label, by_name)}")
        return by_name[label]

    def score_texts(self, texts: list[str]) -> NDArray[np.float64]:
        """Return the score of each text, `(B,)`."""
        scores = np.empty(len(texts))
        # Similar lengths share a batch, so that little padding is computed.
        order = np.argsort([len(text) for text in texts], kind="stable")
        for begin in range(0, len(texts), self._batch_size):
            chosen = order[begin : begin + self._batch_size]
            scores[chosen] = self._forward([texts[i] or self._empty for i in chosen.tolist()])
        return scores

    def _forward(self, texts: list[str]) -> NDArray[np.float64]:
        inputs = self._tokenizer(
            texts, return_tensors="pt", padding=len(texts) > 1, truncation=True
        ).to(self._device)
        with self._torch.inference_mode():
            logits = self._model(**inputs).logits.float()  # (B, labels)
            if logits.shape[-1] > 1 and self._output == "probability":
                logits = logits.softmax(dim=-1)
        column: NDArray[np.float64] = logits[:, self._label].double().cpu().numpy()
        return column

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B,)`."""
        if not self._include_prompt:
            return self.score_texts(episodes.texts)
        pairs = zip(episodes.prompts, episodes.texts, strict=True)
        return self.score_texts([f"{prompt} {text}".strip() for prompt, text in pairs])
