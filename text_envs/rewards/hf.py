"""Any transformers sequence-classification or scalar reward model as a reward model."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch

__all__ = ["ClassifierHead", "SequenceClassifier"]

_OUTPUTS = ("probability", "logit")
_TEMPLATES = ("plain", "pair", "chat")
_ABSURD = 10**9  # tokenizers without a limit of their own state a huge one


class ClassifierHead:
    """A transformers model that maps a text, or a pair of texts, to logits; batched, frozen.

    Texts too long for the model lose their beginning: the end is what the agent wrote.

    Args:
        spec: how messages call the model.
        model: a local path or a Hub name; safetensors weights, no remote code.
        device: where the model runs.
        batch_size: texts per forward pass.

    Raises:
        ImportError: transformers is missing.
        ValueError: the model cannot be loaded, or the texts cannot be batched.
    """

    def __init__(self, spec: str, model: str, *, device: str, batch_size: int) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
        try:
            import torch
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            from text_envs.lm.loading import quietly
        except ImportError as error:
            raise ImportError(
                f"reward {spec!r} needs torch and transformers: pip install 'text_envs[agents]'"
            ) from error
        try:
            with quietly():
                tokenizer: Any = AutoTokenizer.from_pretrained(model, truncation_side="left")
                loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                    model, use_safetensors=True
                )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"reward {spec!r}: cannot load a sequence-classification model and its "
                f"tokenizer from {model!r}: {error}"
            ) from error
        self.spec = spec
        self.tokenizer = tokenizer
        self._torch = torch
        self._model = loaded.eval().requires_grad_(False).to(device)
        self._device = device
        self._batch_size = batch_size
        self.labels: dict[int, str] = {
            int(number): str(name) for number, name in loaded.config.id2label.items()
        }
        self._longest = tokenizer.model_max_length
        if self._longest > _ABSURD:
            self._longest = getattr(loaded.config, "max_position_embeddings", None)
        # Some models cannot read nothing at all; an empty text is shown as a special token.
        special = (tokenizer.eos_token, tokenizer.sep_token, tokenizer.pad_token)
        self._empty: str = next((token for token in special if token), " ")
        if tokenizer.pad_token_id is None and batch_size > 1:
            raise ValueError(
                f"reward {spec!r}: its tokenizer has no pad token, so texts cannot be batched;"
                " pass batch_size=1 or save the tokenizer with a pad token"
            )
        if loaded.config.pad_token_id is None:  # by it the model finds the last token of a row
            loaded.config.pad_token_id = tokenizer.pad_token_id

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
        rows = np.zeros((len(texts), len(self.labels)))
        seconds = [""] * len(texts) if pairs is None else pairs
        lengths = [len(a) + len(b) for a, b in zip(texts, seconds, strict=True)]
        # Similar lengths share a batch, so that little padding is computed.
        order = np.argsort(lengths, kind="stable")
        for begin in range(0, len(texts), self._batch_size):
            chosen = order[begin : begin + self._batch_size].tolist()
            first = [texts[i] or self._empty for i in chosen]
            second = None if pairs is None else [pairs[i] or self._empty for i in chosen]
            rows[chosen] = self._forward(first, second, special)
        return rows

    def _forward(
        self, texts: list[str], pairs: list[str] | None, special: bool
    ) -> NDArray[np.float64]:
        inputs = self.tokenizer(
            texts, pairs, return_tensors="pt", padding=len(texts) > 1, add_special_tokens=special,
            truncation=self._longest is not None, max_length=self._longest,
        ).to(self._device)  # fmt: skip
        with self._torch.inference_mode():
            logits: NDArray[np.float64] = self._model(**inputs).logits.double().cpu().numpy()
        return logits


class SequenceClassifier:
    """Score of a classifier, or of a scalar reward model, on prompt and continuation; batched.

    A model with one output (a reward model in the usual sense) pays that output. A model with
    several labels pays the probability, or the logit, of one of them.

    Here `folder` holds a small classifier; it can be a Hub name as well:

    >>> from text_envs.rewards import resolve
    >>> model = resolve(f"hf:{folder}", label="POSITIVE", output="probability")
    >>> scores = model.score_texts(["a warm film", "a loud mess"])
    >>> scores.shape, bool((0 < scores).all() and (scores < 1).all())
    ((2,), True)

    As JSON: `reward="hf:lvwerra/distilbert-imdb", reward_kwargs={"label": "POSITIVE"}`.
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
        template: str = "plain",
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
            template: how prompt and continuation are put together: "plain", one after the other;
                "pair", as the tokenizer's pair of texts; "chat", as the tokenizer's chat template
                for a question and its answer; or a text with `{prompt}` and `{text}`.

        Raises:
            ImportError: transformers is missing.
            ValueError: the model cannot be loaded, or an argument is not accepted.
        """
        if output not in _OUTPUTS:
            raise ValueError(f"unknown output {output!r}.{suggest(output, _OUTPUTS)}")
        self.name = f"hf:{model}"
        self.template = Template(template)
        self._head = ClassifierHead(self.name, model, device=device, batch_size=batch_size)
        self._include_prompt = include_prompt
        self._output = output
        self._label = len(self._head.labels) - 1 if label is None else self._head.find_label(label)

    def __deepcopy__(self, memo: dict[int, Any]) -> SequenceClassifier:
        """Return self: the weights are frozen, and reading a spec copies its arguments."""
        return self

    def score_texts(
        self, texts: Sequence[str], prompts: Sequence[str] | None = None
    ) -> NDArray[np.float64]:
        """Return the score of each text, `(B,)`, continuing a prompt if there are any."""
        if prompts is None:
            logits = self._head.logits(texts)
        else:
            logits = self.template.logits(self._head, prompts, texts)
        return self._pay(logits)

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B,)`."""
        prompts = episodes.prompts if self._include_prompt else None
        return self.score_texts(episodes.texts, prompts)

    def _pay(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        if logits.shape[1] > 1 and self._output == "probability":
            logits = np.exp(logits - logits.max(axis=1, keepdims=True))
            logits /= logits.sum(axis=1, keepdims=True)
        return logits[:, self._label]

    def __repr__(self) -> str:
        return f"SequenceClassifier({self.name!r})"


class Template:
    """How a prompt and its continuation are shown to a model, see `SequenceClassifier`.

    Args:
        form: "plain", "pair", "chat", or a text with the fields `{prompt}` and `{text}`.

    Raises:
        ValueError: neither.
    """

    def __init__(self, form: str) -> None:
        if form not in _TEMPLATES:
            fields = {name for _, name, *_ in string.Formatter().parse(form) if name is not None}
            if "text" not in fields or not fields <= {"prompt", "text"}:
                raise ValueError(
                    f"unknown template {form!r}.{suggest(form, _TEMPLATES)} Also accepted: a text "
                    "with the field {text}, and {prompt} if wanted"
                )
        self.form = form

    def logits(
        self, head: ClassifierHead, prompts: Sequence[str], texts: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return the logits of each text after its prompt, `(B, labels)`."""
        if self.form == "pair":
            return head.logits(prompts, texts)
        pairs = zip(prompts, texts, strict=True)
        if self.form == "chat":
            return head.logits([_chat(head, *pair) for pair in pairs], special=False)
        form = "{prompt} {text}" if self.form == "plain" else self.form
        return head.logits([form.format(prompt=p, text=t).strip() for p, t in pairs])


def _chat(head: ClassifierHead, prompt: str, text: str) -> str:
    if not head.tokenizer.chat_template:
        raise ValueError(f"reward {head.spec!r}: its tokenizer has no chat template")
    spoken = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    return str(head.tokenizer.apply_chat_template(spoken, tokenize=False))
