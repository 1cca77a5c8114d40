"""A text earns the same alone, in any batch and in any order, whatever network reads it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, KINDS, POSITIONS, TEXTS, Kind, make_tokenizer, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reward_batches import batch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from text_envs.rewards import resolve
from text_envs.tokenizers import HFTokenizer

MANY = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = "never " * 60 + "warm"
DRAWN = st.lists(st.sampled_from([*TEXTS, LONG]), min_size=2, max_size=9)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    @functools.cache
    def make(kind: Kind, head: str = "classifier") -> Path:
        return save(kind, tmp_path_factory.mktemp(f"{head}-{kind}"), head)

    return make


def check(score: Callable[[list[str]], Any], texts: list[str], close: float = 2e-4) -> None:
    together = np.asarray(score(texts))
    assert np.isfinite(together).all()
    alone = np.array([score([text])[0] for text in texts])
    assert together == pytest.approx(alone, abs=close, rel=close)
    assert score(texts[::-1]) == pytest.approx(together[::-1], abs=close, rel=close)
    assert score([*texts, LONG, "a"])[: len(texts)] == pytest.approx(together, abs=close, rel=close)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_classifiers(kind: Kind, saved: Callable[..., Path]) -> None:
    model = resolve(f"hf:{saved(kind)}", batch_size=5)
    spread = np.ptp(model.score_texts(TEXTS[:5]))
    assert spread > 1e-2  # or the comparison would say nothing

    @MANY
    @given(texts=DRAWN)
    def holds(texts: list[str]) -> None:
        check(model.score_texts, texts)

    holds()


@pytest.mark.parametrize("kind", [k for k in KINDS if k.stated is None], ids=str)
def test_a_text_alone_gets_what_the_network_says(kind: Kind, saved: Callable[..., Path]) -> None:
    import torch

    folder = saved(kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = ["a", "the film is a quiet triumph", "sharp sharp sharp"]
    expected = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            expected.append(network(input_ids=ids).logits[0, 0].item())
    assert resolve(f"hf:{folder}").score_texts(texts) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_preferences(kind: Kind, saved: Callable[..., Path]) -> None:
    for head in ("scalar", "pairwise"):
        model = resolve(f"hf-preference:{saved(kind)}", batch_size=5, head=head)

        def score(texts: list[str], model: Any = model) -> Any:
            return model.score_texts(
                ["the"] * len(texts), texts, [["film"], *[["a"]] * 20][:1] * len(texts)
            )

        check(score, [*TEXTS, LONG], close=5e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_too_long_keeps_its_end(kind: Kind, saved: Callable[..., Path]) -> None:
    model = resolve(f"hf:{saved(kind)}")
    for template in ("plain", "pair", "Q: {prompt} A: {text}"):
        told = resolve(f"hf:{saved(kind)}", template=template)
        one, other = told.score_texts(["is warm", "is a mess"], [LONG, LONG])
        assert np.isfinite([one, other]).all() and one != other
    if kind.family not in ("t5", "xlnet"):  # which read any length
        longer = model.score_texts([LONG, "the film " * 40 + LONG])
        assert longer[0] == pytest.approx(longer[1], abs=1e-4)
        assert model._head._longest == {"roberta": POSITIONS - 2}.get(
            kind.family, min(POSITIONS, kind.stated or POSITIONS)
        )


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "t5", "bart", "gpt2", "llama"])
@pytest.mark.parametrize("pad", ["own", "none"])
def test_bert_scores(family: str, pad: str, saved: Callable[..., Path]) -> None:
    pytest.importorskip("bert_score")
    if (family, pad) == ("bart", "none"):
        pytest.skip("the family wants a padding token")
    model = resolve("bertscore", model=str(saved(Kind(family, "left", pad), "encoder")), layer=1)

    def score(texts: list[str]) -> Any:
        return model.score_texts(texts, [["the film is warm", LONG]] * len(texts))

    check(score, [*TEXTS, LONG])


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_one_pair_gets_what_the_package_says(family: str, saved: Callable[..., Path]) -> None:
    scorer = pytest.importorskip("bert_score")
    folder = str(saved(Kind(family, "right", "own", 20), "encoder"))
    package = scorer.BERTScorer(
        model_type=folder, num_layers=1, device="cpu", use_fast_tokenizer=True
    )
    ours = resolve("bertscore", model=folder, layer=1)
    for text, other in (("a", "the film"), ("a quiet triumph", "sharp"), (LONG, "never warm")):
        theirs = package.score([text], [other])[2].item()
        assert ours.score_texts([text], [[other]])[0] == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("stated", [None, 12])
def test_embeddings(
    family: str, side: str, stated: int | None, saved: Callable[..., Path], tmp_path: Path
) -> None:
    package = pytest.importorskip("sentence_transformers")
    folder = saved(Kind(family, side, "own", stated), "encoder")
    package.SentenceTransformer(str(folder), device="cpu").save_pretrained(str(tmp_path))
    model = resolve("embedding", model=str(tmp_path), batch_size=5)

    def score(texts: list[str]) -> Any:
        return model.score_texts(texts, [["the film is warm", LONG]] * len(texts))

    check(score, [text for text in TEXTS if text.strip()] + [LONG])


@pytest.mark.parametrize("kind", [k for k in KINDS if k.family in ("gpt2", "llama")], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_likelihoods(kind: Kind, dtype: str, saved: Callable[..., Path]) -> None:
    model = resolve("likelihood", model=str(saved(kind, "lm")), batch_size=5, dtype=dtype)
    close = 1e-4 if dtype == "float32" else 1e-8
    for tokenizer in (model.tokenizer, HFTokenizer(make_tokenizer(Kind("t5")))):

        def score(texts: list[str], tokenizer: Any = tokenizer) -> Any:
            prompts = ["the", "a loud film", "", "is"]
            shown = batch(
                texts, prompts=[prompts[len(text) % 4] for text in texts], tokenizer=tokenizer
            )
            return model(shown)

        texts = ["a", "is warm", "?", "sharp sharp", " film"]
        together = score(texts)
        assert score(texts[::-1])[::-1] == pytest.approx(together, abs=close)
        for text, expected in zip(texts, together, strict=True):
            assert score([text])[0] == pytest.approx(expected, abs=close)


# -- prompt and text are read as they were written -------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_text_are_decoded_together(family: str, saved: Callable[..., Path]) -> None:
    kind = Kind(family, "left")
    model = resolve(f"hf:{saved(kind)}")
    tokenizer = HFTokenizer(make_tokenizer(Kind("gpt2")))
    prompts = ["wonder", "a film", "a film", "", "so"]
    texts = ["ful film", " is warm", ", warm", "alone", ""]
    wholes = ["wonderful film", "a film is warm", "a film, warm", "alone", "so"]
    shown = batch(texts, prompts=prompts, tokenizer=tokenizer)
    assert model(shown) == pytest.approx(model.score_texts(wholes), abs=1e-4)
    both = resolve(f"hf:{saved(kind)}", template="Q: {prompt}{text}.")
    expected = model.score_texts([f"Q: {whole}." for whole in wholes])
    assert both(shown) == pytest.approx(expected, abs=1e-4)
    alone = resolve(f"hf:{saved(kind)}", include_prompt=False)
    assert alone(shown) == pytest.approx(model.score_texts(texts), abs=1e-4)


@pytest.mark.parametrize("head", ["scalar", "pairwise"])
def test_a_text_against_itself_earns_nothing(head: str, saved: Callable[..., Path]) -> None:
    model = resolve(f"hf-preference:{saved(Kind('gpt2'))}", head=head)
    tokenizer = HFTokenizer(make_tokenizer(Kind("gpt2")))
    texts, prompts = ["ful film", " is warm"], ["wonder", "a film"]
    shown = batch(texts, [[text] for text in texts], prompts=prompts, tokenizer=tokenizer)
    assert model(shown) == pytest.approx([0, 0], abs=1e-6)


def test_a_dialogue_is_read_without_replies(saved: Callable[..., Path]) -> None:
    from text_envs import EpisodeBatch, Role

    tokenizer = HFTokenizer(make_tokenizer(Kind("gpt2")))
    parts = [("a", Role.PROMPT), (" film", Role.ACTION), (" never", Role.REPLY),
             (" is warm", Role.ACTION)]  # fmt: skip
    ids = [(token, role) for text, role in parts for token in tokenizer.encode(text)]
    first = len(tokenizer.encode("a"))
    shown = EpisodeBatch(
        np.array([[token for token, _ in ids]]), np.array([[role for _, role in ids]], np.int8),
        prompt_length=first, tokenizer=tokenizer, example_indices=np.zeros(1, np.int64),
        finish_reasons=["stop"], get_example=lambda index: None,
    )  # fmt: skip
    model = resolve(f"hf:{saved(Kind('bert'))}")
    assert model(shown) == pytest.approx(model.score_texts(["a film is warm"]), abs=1e-5)


def test_a_likelihood_of_another_vocabulary_reads_across_the_prompt() -> None:
    """A space between prompt and text is found, or its absence is."""
    likelihood = resolve("likelihood", dtype="float32")
    tokenizer = HFTokenizer(make_tokenizer(Kind("gpt2")))
    shown = batch([" good film", "ful film"], prompts=["a", "a wonder"], tokenizer=tokenizer)
    tokens, written = likelihood._encode_again(shown)
    own = likelihood.tokenizer
    assert own.decode(tokens[0].tolist()) == "a good film"
    assert own.decode(tokens[1].tolist()) == "a wonderful film"
    assert own.decode(tokens[1][written[1]].tolist()) == "wonderful film"
