"""Any transformers sequence-classification or scalar reward model as a reward model."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.batches import whole_texts
from text_envs.rewards.heads import ClassifierHead

__all__ = ["SequenceClassifier", "Template", "follow"]

_OUTPUTS = ("probability", "logit")
_TEMPLATES = ("plain", "pair", "chat")


class SequenceClassifier:
    """Score of a classifier, or of a scalar reward model, on prompt and continuation; batched.

    A model with one output (a reward model in the usual sense) pays that output. A model with
    several labels pays the probability, or the logit, of one of them. A text longer than the model
    reads loses its beginning. A text earns the same alone and in any batch.

    Prompt and continuation are read as they were written: their tokens are decoded together, once,
    without padding and special tokens, so that "wonder" and "ful" are read as "wonderful". Of a
    dialogue these are the prompt and the agent's own words, in their order, without the
    environment's replies between them.

    A deep copy is the object itself, as nothing in it changes; a pickle holds the weights.

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
            device: where the model runs: "cpu", "cuda", or "auto" for the GPU where there is one.
            batch_size: texts per forward pass.
            include_prompt: score prompt and continuation together, or the continuation alone.
            template: how prompt and continuation are put together: "plain", as they were written;
                "pair", as the tokenizer's pair of texts; "chat", as the tokenizer's chat template
                for a question and its answer; or a text with `{prompt}` and `{text}`, of which
                `{prompt}{text}` stands for both as they were written.

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
        """Return the score of each text, `(B,)`, continuing a prompt if there are any.

        A text follows its prompt after a space, unless it begins with white space.
        """
        if prompts is None:
            logits = self._head.logits(texts)
        else:
            logits = self.template.logits(self._head, prompts, texts)
        return self._pay(logits)

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B,)`."""
        if not self._include_prompt:
            return self.score_texts(episodes.texts)
        return self._pay(self.template.logits_of(self._head, episodes))

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
        self,
        head: ClassifierHead,
        prompts: Sequence[str],
        texts: Sequence[str],
        wholes: Sequence[str] | None = None,
    ) -> NDArray[np.float64]:
        """Return the logits of each text after its prompt, `(B, labels)`.

        Args:
            head: the model.
            prompts: the prompts.
            texts: what follows each.
            wholes: each prompt and its text as one; None for `follow`.
        """
        if self.form == "pair":
            return head.logits(prompts, texts)
        if self.form == "chat":
            pairs = zip(prompts, texts, strict=True)
            return head.logits([_chat(head, *pair) for pair in pairs], special=False)
        if wholes is None:
            wholes = [follow(*pair) for pair in zip(prompts, texts, strict=True)]
        if self.form == "plain":
            return head.logits(wholes)
        form = self.form.replace("{prompt}{text}", "{whole}")
        rows = zip(prompts, texts, wholes, strict=True)
        return head.logits([form.format(prompt=p, text=t, whole=w).strip() for p, t, w in rows])

    def logits_of(self, head: ClassifierHead, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the logits of each episode, `(B, labels)`."""
        wholes = whole_texts(episodes)
        if self.form == "plain":
            return head.logits(wholes)
        return self.logits(head, episodes.prompts, episodes.texts, wholes)


def follow(prompt: str, text: str) -> str:
    """Return a prompt and a text of which nobody knows the tokens as one text.

    >>> follow("a film", "about love"), follow("a film", " about love"), follow("", "love")
    ('a film about love', 'a film about love', 'love')
    """
    return (prompt + text if text[:1].isspace() else f"{prompt} {text}").strip()


def _chat(head: ClassifierHead, prompt: str, text: str) -> str:
    if not head.tokenizer.chat_template:
        raise ValueError(f"reward {head.spec!r}: its tokenizer has no chat template")
    spoken = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    return str(head.tokenizer.apply_chat_template(spoken, tokenize=False))
