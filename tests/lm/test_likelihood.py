"""Log-probabilities, entropies and samples over vocabularies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from text_envs.lm.likelihood import (
    entropy,
    linear_log_probs,
    linear_scores,
    sample,
    token_log_probs,
)
from text_envs.lm.smoothing import linear_smoothed_log_probs, smoothed_log_probs


def test_token_log_probs_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]], [[1.0, 1.0]]])
    actions = torch.tensor([[1], [0]])
    expected = torch.tensor([[math.log(0.75)], [math.log(0.5)]])
    torch.testing.assert_close(token_log_probs(logits, actions), expected)
    with pytest.raises(ValueError, match="need actions of shape"):
        token_log_probs(logits, actions[:1])


def test_entropy_ignores_forbidden_words() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    value = entropy(logits)
    torch.testing.assert_close(value, torch.tensor([math.log(2)]))
    value.sum().backward()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def output_layer(forbid: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states `(7, 4)`, weight `(5, 4)` and bias `(5,)`, all with gradient."""
    torch.manual_seed(0)
    hidden = torch.randn(7, 4, requires_grad=True)
    weight = torch.randn(5, 4, requires_grad=True)
    bias = torch.randn(5)
    if forbid:
        bias[2] = -math.inf
    return hidden, weight, bias.requires_grad_()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("forbid", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_linear_log_probs_equal_the_textbook(
    forbid: bool, chunk: int, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and all gradients, with and without entropy, for any chunk, kept or recomputed."""
    if not keep:
        monkeypatch.setattr("text_envs.lm.likelihood._KEPT_PROBABILITIES", 0)
    hidden, weight, bias = output_layer(forbid)
    actions = torch.tensor([0, 1, 3, 4, 0, 1, 3])
    inputs = (hidden, weight, bias)
    g, h = torch.randn(7), torch.randn(7)
    for with_entropy in (False, True):
        log_probs, entropies = linear_log_probs(
            *inputs, actions, with_entropy=with_entropy, chunk=chunk
        )
        logits = hidden @ weight.T + bias
        expected, expected_entropy = token_log_probs(logits, actions), entropy(logits)
        torch.testing.assert_close(log_probs, expected)
        loss, expected_loss = (log_probs * g).sum(), (expected * g).sum()
        if with_entropy:
            assert entropies is not None
            torch.testing.assert_close(entropies, expected_entropy)
            loss = loss + (entropies * h).sum()
            expected_loss = expected_loss + (expected_entropy * h).sum()
        else:
            assert entropies is None
        found = torch.autograd.grad(loss, inputs)
        wanted = torch.autograd.grad(expected_loss, inputs)
        for one, other in zip(found, wanted, strict=True):
            keep = torch.isfinite(bias.detach()) if one.ndim == 1 else slice(None)
            torch.testing.assert_close(one[keep], other[keep], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("room", [0, 11, 10**6])  # nothing kept, the first two chunks, all
@pytest.mark.parametrize("forbid", [False, True])
def test_scores_and_smoothing_equal_the_textbook(
    forbid: bool, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_envs.lm.likelihood._KEPT_PROBABILITIES", room)
    hidden, weight, bias = output_layer(forbid)
    actions, g, h = torch.tensor([0, 1, 3, 4, 0, 1, 3]), torch.randn(7), torch.randn(7)
    inputs = (hidden, weight, bias)
    scores, log_probs = linear_scores(*inputs, actions, chunk=2)
    smoothed = linear_smoothed_log_probs(*inputs, actions, 0.3, chunk=2)
    logits = hidden @ weight.T + bias
    chosen = logits.gather(1, actions[:, None]).squeeze(1)
    expected = token_log_probs(logits, actions)
    expected_smoothed = smoothed_log_probs(logits, actions, 0.3)
    pairs = [
        (scores, chosen, (scores * g).sum() + (log_probs * h).sum(),
         (chosen * g).sum() + (expected * h).sum()),
        (smoothed, expected_smoothed, (smoothed * g).sum(), (expected_smoothed * g).sum()),
    ]  # fmt: skip
    for found, wanted, loss, expected_loss in pairs:
        torch.testing.assert_close(found, wanted)
        ours = torch.autograd.grad(loss, inputs)
        theirs = torch.autograd.grad(expected_loss, inputs, retain_graph=True)
        for one, other in zip(ours, theirs, strict=True):
            keep = torch.isfinite(bias.detach()) if one.ndim == 1 else slice(None)
            torch.testing.assert_close(one[keep], other[keep], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothed", [False, True])
def test_scores_of_all_words_are_never_held(
    smoothed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1,000 tokens over 2,000 words only what is allowed is kept, and few are made at a time."""
    monkeypatch.setattr("text_envs.lm.likelihood._KEPT_PROBABILITIES", 200_000)
    largest: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest.append(out.untyped_storage().nbytes() // 4)
            return out

    hidden = torch.randn(1000, 8, requires_grad=True)
    weight = torch.randn(2000, 8, requires_grad=True)
    actions, kept = torch.randint(2000, (1000,)), {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with Watch(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        if smoothed:
            found = linear_smoothed_log_probs(hidden, weight, None, actions, 0.1, chunk=50)
        else:
            found, _ = linear_log_probs(hidden, weight, None, actions, chunk=50)
        found.sum().backward()
    assert max(largest) <= 50 * 2000
    assert sum(kept.values()) <= 200_000 + 4 * 10_000 + 2 * 16_000


def test_chunks_go_by_vocabulary_and_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output layer that is in no cache is read once for many rows."""
    rows: list[int] = []
    real = torch.nn.functional.linear

    def linear(h: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(h))
        return real(h, *rest)

    monkeypatch.setattr("text_envs.lm.likelihood.functional.linear", linear)
    for words, width, wanted in ((4000, 128, 131), (60_000, 8, 16), (60_000, 64, 256)):
        rows.clear()
        actions = torch.zeros(300).long()
        linear_log_probs(torch.zeros(300, width), torch.zeros(words, width), None, actions)
        assert rows[0] == wanted, (words, width)


def test_linear_log_probs_of_the_improbable() -> None:
    """No underflow: a word of probability e^-200 has that log-probability."""
    hidden, weight = torch.tensor([[100.0]]), torch.tensor([[1.0], [-1.0]])
    log_probs, _ = linear_log_probs(hidden, weight, None, torch.tensor([1]))
    torch.testing.assert_close(log_probs, torch.tensor([-200.0]))


def test_linear_log_probs_of_nothing() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    log_probs, _ = linear_log_probs(hidden, torch.ones(3, 4), None, torch.zeros(0).long())
    log_probs.sum().backward()
    assert hidden.grad is not None and hidden.grad.shape == (0, 4)


@pytest.mark.parametrize("words", [3, 64, 200])
def test_sample_follows_the_distribution(words: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(words)
    n = 50_000
    ids, log_probs = sample(logits.expand(n, words))
    p = logits.softmax(0)
    counts = torch.bincount(ids, minlength=words)
    chi2 = ((counts - n * p).square() / (n * p)).sum()
    # 5 standard deviations of a chi-square with words - 1 degrees of freedom
    assert chi2 < (words - 1) + 5 * math.sqrt(2 * (words - 1))
    torch.testing.assert_close(log_probs, logits.log_softmax(0)[ids])


def test_sample_never_returns_a_forbidden_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where rounding puts the uniform number at an edge of the cumulative sum."""
    torch.manual_seed(0)
    logits = torch.randn(64, 130)
    logits[:, ::2] = -math.inf
    logits[:, 64:128] = -math.inf
    edges = [0.0, 1 - 2**-53, 0.5, 1.0]
    real = torch.rand
    for u in [None, *edges]:
        if u is not None:
            monkeypatch.setattr(torch, "rand", lambda *s, u=u, **k: torch.full(s, u, **k))
        for _ in range(20 if u is None else 1):
            ids, log_probs = sample(logits)
            assert torch.isfinite(log_probs).all()
            assert torch.isfinite(logits.gather(1, ids[:, None])).all()
    monkeypatch.setattr(torch, "rand", real)


def test_sample_is_seeded_and_survives_nan() -> None:
    logits = torch.randn(8, 100)
    torch.manual_seed(3)
    first = sample(logits)[0]
    torch.manual_seed(3)
    assert torch.equal(first, sample(logits)[0])
    ids, log_probs = sample(torch.full((2, 5), math.nan))
    assert torch.isnan(log_probs).all() and ((ids >= 0) & (ids < 5)).all()
