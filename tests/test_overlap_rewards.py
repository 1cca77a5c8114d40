"""CIDEr-D by hand and by properties; coverage, BLEU and ROUGE against the packages they wrap."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_envs import EpisodeBatch, Example, Role
from text_envs.rewards.ciderd import CiderD, _bundled, count_documents
from text_envs.rewards.overlap import Bleu, Coverage, Rouge, _porter, stem
from text_envs.rewards.words import count_words, encode_texts, response_words, weigh
from text_envs.tasks.concepts import grammar
from text_envs.tokenizers import Tokenizer, WordTokenizer

WORDS = WordTokenizer("a the dog dogs cat runs run park in . ,".split())


def batch(texts: list[str], examples: list[Example], tokenizer: Tokenizer = WORDS) -> EpisodeBatch:
    """Finished episodes with these texts."""
    rows = [tokenizer.encode(text) for text in texts]
    tokens = np.full((len(rows), 1 + max(map(len, rows)) + 1), tokenizer.pad_id)
    roles = np.zeros(tokens.shape, dtype=np.int8)
    for row, ids in enumerate(rows):
        tokens[row, 1 : 1 + len(ids)] = ids
        roles[row, 1 : 1 + len(ids)] = Role.ACTION
    return EpisodeBatch(
        tokens,
        roles,
        prompt_length=1,
        tokenizer=tokenizer,
        example_indices=np.arange(len(rows)),
        finish_reasons=["stop"] * len(rows),
        get_example=lambda index: examples[index],
    )


# -- CIDEr-D -----------------------------------------------------------------------------------


def test_cider_d_by_hand() -> None:
    # Two documents: "dog" is in one (weight log 2), "the" in both (weight 0).
    cider = CiderD([["the dog"], ["the cat"]])
    # Orders 1 and 2 agree fully, orders 3 and 4 do not exist: 10 * (1 + 1) / 4.
    assert cider.score_texts(["the dog"], [["the dog"]]) == pytest.approx([5.0])
    # "dog" alone: order 1 agrees, and one word less is the factor exp(-1 / 72).
    expected = 10 / 4 * math.exp(-1 / 72)
    assert cider.score_texts(["dog"], [["the dog"]]) == pytest.approx([expected])
    # Three dogs: clipped to one, so the cosine is 1/3; the pair "dog dog" matches nothing.
    expected = 10 / 4 / 3 * math.exp(-1 / 72)
    assert cider.score_texts(["dog dog dog"], [["the dog"]]) == pytest.approx([expected])
    # Two references: the mean of both.
    assert cider.score_texts(["the dog"], [["the dog", "the cat"]]) == pytest.approx([2.5])
    assert cider.score_texts(["", "the", "cat"], [["the dog"]] * 3).tolist() == [0, 0, 0]


def test_words_unknown_in_training_are_the_rarest() -> None:
    cider = CiderD([["the dog"], ["the cat"]])
    # "bird" is in no training reference: df counts as 1, like "dog".
    assert cider.score_texts(["the bird"], [["the bird"]]) == pytest.approx([5.0])


def test_cider_d_ignores_case_and_punctuation() -> None:
    cider = CiderD([["The dog."], ["the cat"]])
    assert cider.score_texts(["the, DOG"], [["the dog ."]]) == pytest.approx([5.0])


def dense_cider_d(text: str, references: list[str], documents: list[list[str]]) -> float:
    """The formula again, with dense vectors over all n-grams."""

    def grams(sentence: str, n: int) -> list[tuple[str, ...]]:
        words = sentence.split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    total = 0.0
    for n in range(1, 5):
        every = sorted({g for s in [text, *references, *sum(documents, [])] for g in grams(s, n)})
        df = np.array([sum(any(g in grams(s, n) for s in d) for d in documents) for g in every])
        idf = np.log(len(documents)) - np.log(np.maximum(df, 1))
        vector = {
            s: np.array([grams(s, n).count(g) for g in every]) * idf for s in [text, *references]
        }
        for reference in references:
            c, r = vector[text], vector[reference]
            norms = np.linalg.norm(c) * np.linalg.norm(r)
            difference = len(text.split()) - len(reference.split())
            if norms > 0:
                total += math.exp(-(difference**2) / 72) * np.minimum(c, r) @ r / norms
    return 10 * total / 4 / len(references)


SENTENCE = st.lists(st.sampled_from("a b c d e".split()), min_size=1, max_size=7).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(
    text=SENTENCE,
    references=st.lists(SENTENCE, min_size=1, max_size=3),
    documents=st.lists(st.lists(SENTENCE, min_size=1, max_size=2), min_size=2, max_size=4),
)
def test_cider_d_equals_the_dense_formula(
    text: str, references: list[str], documents: list[list[str]]
) -> None:
    score = CiderD(documents).score_texts([text], [references])[0]
    assert score == pytest.approx(dense_cider_d(text, references, documents), abs=1e-9)
    assert -1e-9 <= score <= 10 + 1e-9


def test_a_reward_does_not_depend_on_its_batch() -> None:
    examples = [Example("", ("a dog runs in the park",)), Example("", ("the cat runs", "a cat"))]
    cider = CiderD([e.references for e in examples])
    texts = ["the dog runs", "a cat runs in the park"]
    together = cider(batch(texts, examples))
    alone = [cider(batch([text], [e]))[0] for text, e in zip(texts, examples, strict=True)]
    assert together.tolist() == alone and min(alone) > 0


def test_default_training_references_are_those_of_the_task() -> None:
    cider = CiderD()
    scene = grammar.draw_scenes("test", 1, 0)[0]
    scores = cider.score_texts(list(scene.references), [scene.references] * 4)
    assert cider.documents == 2048 and (scores > 10 / 4).all()
    with pytest.raises(ValueError, match="at least two documents with references, got 1"):
        CiderD([["a dog"], []])


# -- coverage, BLEU, ROUGE ---------------------------------------------------------------------


def test_coverage_counts_inflections_and_repeated_words_once() -> None:
    example = Example("", (), {"concepts": ("dog", "run", "park")})
    covered = Coverage()(batch(["the dogs runs .", "dog dog dog", ". ,"], [example] * 3))
    assert covered == pytest.approx([2 / 3, 1 / 3, 0])


def test_the_bundled_stems_are_those_of_the_package() -> None:
    words = [word for word in grammar.tokenizer().words if word.isalpha()]
    assert [stem(word) for word in words] == [_porter().stem(word) for word in words]
    assert stem("generously") == _porter().stem("generously")


def test_bleu_and_rouge_are_those_of_their_packages() -> None:
    import sacrebleu
    from rouge_score import rouge_scorer

    references = ("the dog runs in the park", "a dog in a park")
    texts = ["the dog runs", "a cat", "the dog runs in the park"]
    episodes = batch(texts, [Example("", references)] * 3)
    bleu = [sacrebleu.sentence_bleu(t, list(references)).score / 100 for t in texts]
    assert Bleu()(episodes) == pytest.approx(bleu) and bleu[2] == pytest.approx(1)
    scorer = rouge_scorer.RougeScorer(["rouge2"], use_stemmer=True)
    rouge = [max(scorer.score(r, t)["rouge2"].fmeasure for r in references) for t in texts]
    assert Rouge("rouge2")(episodes) == pytest.approx(rouge)
    assert Rouge()(episodes)[2] == 1
    with pytest.raises(ValueError, match="unknown kind 'rougeLsum'.*'rougeL'"):
        Rouge("rougeLsum")


@pytest.mark.parametrize("reward", [Bleu(), Rouge(), CiderD([["a"], ["the"]])])
def test_missing_references_are_named(reward: Any) -> None:
    examples = [Example("", ("a dog",)), Example("")]
    with pytest.raises(ValueError, match="example 1 has no references"):
        reward(batch(["dog", "dog"], examples))


def test_missing_concepts_are_named() -> None:
    with pytest.raises(ValueError, match="example 0 has no 'concepts'"):
        Coverage()(batch(["dog"], [Example("")]))


@pytest.mark.parametrize(
    ("module", "make"),
    [("sacrebleu.metrics.bleu", Bleu), ("rouge_score.rouge_scorer", Rouge)],
)
def test_missing_packages_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Any
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"text_envs\[metrics\]"):
        make()


# -- words -------------------------------------------------------------------------------------


def test_counts_and_words() -> None:
    ids = encode_texts(["the dog , the cat", "", "bird"], WORDS)
    counts = count_words(ids, len(WORDS.words))
    assert counts.shape == (3, len(WORDS.words)) and counts.sum(axis=1).tolist() == [5, 0, 0]
    assert counts[0, WORDS.encode("the")[0]] == 2
    episodes = batch(["the dog , runs .", "cat"], [Example("")] * 2)
    assert response_words(episodes) == [["the", "dog", "runs"], ["cat"]]


def test_weighing_gives_a_row_the_same_bits_in_any_batch() -> None:
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(257, 213)), rng.normal(size=213)
    alone = np.array([weigh(row[None], weights)[0] for row in rows])
    assert np.array_equal(weigh(rows, weights), alone)


def test_bundled_counts_are_those_of_the_grammar() -> None:
    assert count_documents(grammar.training_references()) == _bundled()
