"""The bundled sentiment model: what it scores, and that tokens and texts score alike."""

from __future__ import annotations

import numpy as np
import pytest

from text_envs.episodes.types import EpisodeBatch, Example, Role
from text_envs.rewards.sentiment import Sentiment
from text_envs.tokenizers import CharTokenizer, load_tokenizer

GOOD = "a moving, wonderful film with a superb cast."
BAD = "a dull, lifeless mess without a single laugh."


def test_praise_beats_blame() -> None:
    good, bad, nothing = Sentiment().score_texts([GOOD, BAD, ""])
    assert 0 < bad < 0.2 < nothing < 0.8 < good < 1


def test_outputs_are_one_number_in_three_scales() -> None:
    texts = [GOOD, BAD, ""]
    logit = Sentiment("logit").score_texts(texts)
    np.testing.assert_allclose(Sentiment().score_texts(texts), 1 / (1 + np.exp(-logit)))
    signed = Sentiment("signed").score_texts(texts)
    np.testing.assert_allclose(signed, 2 * Sentiment().score_texts(texts) - 1)
    with pytest.raises(ValueError, match=r"'logits'.*Did you mean 'logit'"):
        Sentiment("logits")  # type: ignore[arg-type]


def test_token_scores_add_up_to_the_logit() -> None:
    model = Sentiment("logit")
    ids = np.random.default_rng(0).integers(0, model.tokenizer.vocab_size, (40, 30))
    total = model.token_scores(ids).sum(axis=1) + model.bias
    np.testing.assert_allclose(model.score_tokens(ids), total)


@pytest.mark.parametrize("clip", [1, 2, 3])
def test_repetition_counts_up_to_the_clip(clip: int) -> None:
    model = Sentiment()
    model.clip = clip
    ids = np.random.default_rng(clip).integers(0, 5, (30, 20))
    for row, scores in zip(ids, model.token_scores(ids), strict=True):
        seen = [0] * 5
        for word, score in zip(row, scores, strict=True):
            assert score == (model.weights[word] if seen[word] < clip else 0.0)
            seen[word] += 1


def test_special_and_unknown_tokens_weigh_nothing() -> None:
    model = Sentiment()
    tokenizer = model.tokenizer
    special = [tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id]
    assert not model.token_scores(special).any()
    with pytest.raises(ValueError, match=r"token ids must lie in 0\.\."):
        model.token_scores([tokenizer.vocab_size])


def episodes(tokenizer: object, prompt: str, response: str) -> EpisodeBatch:
    """One finished episode, without an environment."""
    tokens = load_tokenizer(tokenizer)
    before, after = tokens.encode_prompt(prompt), [*tokens.encode(response), tokens.eos_id]
    roles = [Role.PROMPT] * len(before) + [Role.ACTION] * len(after)
    return EpisodeBatch(
        np.array([[*before, *after]]),
        np.array([roles], dtype=np.int8),
        prompt_length=len(before),
        tokenizer=tokens,
        example_indices=np.zeros(1, dtype=np.int64),
        finish_reasons=["stop"],
        get_example=lambda index: Example(prompt),
    )


def test_only_the_response_is_scored() -> None:
    model = Sentiment()
    blamed = model(episodes("reviews", BAD, "wonderful"))
    praised = model(episodes("reviews", GOOD, "wonderful"))
    assert blamed == praised == model.score_texts(["wonderful"])


def test_other_tokenizers_are_scored_through_their_text() -> None:
    characters = CharTokenizer("abcdefghijklmnopqrstuvwxyz .,'")
    model = Sentiment()
    np.testing.assert_allclose(
        model(episodes(characters, "the film", GOOD)), model(episodes("reviews", "the film", GOOD))
    )


def test_weights_cover_the_vocabulary() -> None:
    model = Sentiment()
    assert model.weights.shape == (model.tokenizer.vocab_size,)
    assert not model.weights.flags.writeable
