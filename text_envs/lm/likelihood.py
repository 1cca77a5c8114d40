"""Log-probabilities, entropies and samples over large vocabularies.

The output layer is most of the work of a small language model: a batch of 3,000 tokens over 4,000
words is 12 million logits. `linear_log_probs` walks over the tokens in chunks and computes the
gradient in closed form from the probabilities, which takes less time than the textbook graph and
never holds the scores of all tokens. It keeps the probabilities of the first tokens, as far as a
fixed amount of memory goes, and computes the others again in the backward pass. `sample` draws by
inverting the cumulative distribution.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from text_envs.lm.precision import exactly, in_one_dtype

__all__ = ["entropy", "linear_log_probs", "linear_scores", "sample", "token_log_probs"]

# Logits per chunk: a chunk of 2**19 float32 takes 2 MiB, about a core's share of the cache.
_CHUNK_LOGITS = 2**19
# An output layer of more weights than this is in no cache. Every chunk then reads all of it from
# memory, which only a chunk of many rows makes up for.
_CACHED_WEIGHTS = 2**21
_ROWS, _ROWS_OF_LARGE = 16, 256
# Probabilities kept for the backward pass at most; 2**25 float32 take 128 MiB.
_KEPT_PROBABILITIES = 2**25
# Words per block of the two-level search in `sample`.
_BLOCK = 64


def token_log_probs(logits: Tensor, actions: Tensor) -> Tensor:
    r"""Return $\log \pi(a_m | s_m) = z_{m, a_m} - \log \sum_v \exp z_{m, v}$ in float32.

    Args:
        logits: `(..., V)` the scores $z$ before the softmax.
        actions: `(...)` int64, the ids $a$.

    Raises:
        ValueError: the shapes do not fit.
    """
    if logits.shape[:-1] != actions.shape:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} need actions of shape "
            f"{tuple(logits.shape[:-1])}, got {tuple(actions.shape)}"
        )
    flat = logits.float().reshape(-1, logits.shape[-1])  # (M, V)
    loss = functional.cross_entropy(flat, actions.reshape(-1), reduction="none")  # (M,)
    return -loss.reshape(actions.shape)


def entropy(logits: Tensor) -> Tensor:
    r"""Return $H = -\sum_v p_v \log p_v$ with $p = \mathrm{softmax}(z)$, in nats.

    A logit of minus infinity (a forbidden word) adds nothing to the sum and has no gradient.

    Args:
        logits: `(..., V)` the scores $z$.

    Returns:
        `(...)` float32.
    """
    log_p = functional.log_softmax(logits.float(), dim=-1)  # (..., V)
    finite = torch.where(torch.isfinite(log_p), log_p, torch.zeros_like(log_p))
    return -(finite.exp() * finite).masked_fill(log_p.isneginf(), 0.0).sum(dim=-1)


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    actions: Tensor,
    *,
    with_entropy: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    r"""Return `token_log_probs` and `entropy` of $z = h W^\top + b$, chunk by chunk.

    The gradients are closed forms, with $g$ and $g^H$ those of the two outputs and $e_a$ the unit
    vector of the action:
    $\partial z = g\,(e_a - p) - g^H p \circ (\log p + H)$, then $\partial h = \partial z\, W$ and
    $\partial W = \partial z^\top h$.

    Args:
        hidden: `(M, d)` the last hidden states $h$.
        weight: `(V, d)` the rows $W$ of the output layer that are actions.
        bias: `(V,)` added to the scores, minus infinity where a word is forbidden; or None.
        actions: `(M,)` int64.
        with_entropy: also return the entropies.
        chunk: rows worked on at a time; None chooses by vocabulary and width.

    Returns:
        `(M,)` log-probabilities and `(M,)` entropies (None unless asked for), float32.

    Raises:
        ValueError: `hidden` is not a matrix or the lengths differ.
    """
    log_probs, entropies, _ = _in_chunks(hidden, weight, bias, actions, with_entropy, chunk)
    return log_probs, entropies if with_entropy else None


def linear_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    actions: Tensor,
    *,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return the scores $z_a$ and the log-probabilities of the actions, from one pass.

    With $g^z$ the gradient of the scores, $\partial z$ of `linear_log_probs` is
    $g\,(e_a - p) + g^z e_a$.

    Args:
        hidden: `(M, d)`.
        weight: `(V, d)`.
        bias: `(V,)` or None.
        actions: `(M,)` int64.
        chunk: see `linear_log_probs`.

    Returns:
        `(M,)` each, float32.

    Raises:
        ValueError: `hidden` is not a matrix or the lengths differ.
    """
    log_probs, _, scores = _in_chunks(hidden, weight, bias, actions, False, chunk)
    return scores, log_probs


def _in_chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    actions: Tensor,
    with_entropy: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if hidden.ndim != 2 or actions.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden must be (M, d) and actions (M,), got {tuple(hidden.shape)} and "
            f"{tuple(actions.shape)}"
        )
    if chunk is None:
        least = _ROWS if weight.numel() <= _CACHED_WEIGHTS else _ROWS_OF_LARGE
        chunk = max(least, _CHUNK_LOGITS // weight.shape[0])
        if hidden.device.type != "cpu":  # launching kernels costs more than memory traffic
            chunk = max(chunk, 64 * _CHUNK_LOGITS // weight.shape[0])
    hidden, weight, bias = in_one_dtype(hidden, weight, bias)
    with exactly(hidden.device.type):
        return cast(
            tuple[Tensor, Tensor, Tensor],
            _LinearLogProbs.apply(  # type: ignore[no-untyped-call]
                hidden, weight, bias, actions, with_entropy, chunk
            ),
        )


class _LinearLogProbs(torch.autograd.Function):
    """See `linear_log_probs` and `linear_scores`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        actions: Tensor,
        with_entropy: bool,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        room = _KEPT_PROBABILITIES if any(ctx.needs_input_grad) else 0
        log_probs, entropies, scores, kept = [], [], [], []
        for h, a in zip(hidden.split(chunk), actions.split(chunk), strict=True):
            logits = functional.linear(h, weight, bias).float()  # (m, V)
            chosen = logits.gather(1, a[:, None]).squeeze(1)
            scores.append(chosen)
            if with_entropy:
                found = logits.log_softmax(dim=-1)
                log_probs.append(found.gather(1, a[:, None]).squeeze(1))
                entropies.append(_entropy_of(found))
            elif room < logits.numel():
                log_probs.append(chosen - logits.logsumexp(dim=-1))
                continue
            else:
                found = logits.softmax(dim=-1)
                # log sum exp z = max z - log max p, without another pass of exponentials.
                log_probs.append(chosen - (logits.amax(dim=-1) - found.amax(dim=-1).log()))
            if room >= logits.numel():
                kept.append(found)
                room -= logits.numel()
        ctx.save_for_backward(hidden, weight, bias, actions, *kept)
        ctx.with_entropy, ctx.chunk = with_entropy, chunk
        none = hidden.new_zeros(0, dtype=torch.float32)
        out, picked = torch.cat([none, *log_probs]), torch.cat([none, *scores])
        return out, torch.cat(entropies) if entropies else torch.zeros_like(out), picked

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_log_probs: Tensor, grad_entropies: Tensor, grad_scores: Tensor
    ) -> tuple[Tensor | None, ...]:
        with exactly(grad_log_probs.device.type):
            return _LinearLogProbs._gradients(ctx, grad_log_probs, grad_entropies, grad_scores)

    @staticmethod
    def _gradients(
        ctx: Any, grad_log_probs: Tensor, grad_entropies: Tensor, grad_scores: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, actions, *kept = ctx.saved_tensors
        chunk = ctx.chunk
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Sums over chunks in float32: in bfloat16 each addition would drop what is small.
        exact = torch.promote_types(weight.dtype, torch.float32)
        d_weight = torch.zeros_like(weight, dtype=exact) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=exact) if ctx.needs_input_grad[2] else None
        for number, start in enumerate(range(0, len(hidden), chunk)):
            rows = slice(start, start + chunk)
            h, a, g = hidden[rows], actions[rows, None], grad_log_probs[rows, None]
            found = kept[number] if number < len(kept) else None
            if found is None:
                logits = functional.linear(h, weight, bias).float()  # (m, V)
                found = logits.log_softmax(-1) if ctx.with_entropy else logits.softmax(-1)
                del logits
            if ctx.with_entropy:
                surprise = found.masked_fill(found.isneginf(), 0.0)
                surprise += _entropy_of(found)[:, None]
                d_logits = found.exp().mul_(surprise.mul_(-grad_entropies[rows, None]).sub_(g))
            else:  # what is kept may be asked for again
                d_logits = found * -g if number < len(kept) else found.mul_(-g)
            d_logits.scatter_add_(1, a, g + grad_scores[rows, None])
            d_logits = d_logits.to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(d_logits, weight, out=d_hidden[rows])
            if d_weight is not None and d_weight.dtype == weight.dtype:
                d_weight.addmm_(d_logits.T, h)
            elif d_weight is not None:
                d_weight += d_logits.T @ h
            if d_bias is not None:
                d_bias += d_logits.sum(dim=0)
        d_weight = None if d_weight is None else d_weight.to(weight.dtype)
        d_bias = None if d_bias is None else d_bias.to(bias.dtype)
        return d_hidden, d_weight, d_bias, None, None, None


def _entropy_of(log_p: Tensor) -> Tensor:
    """Return the entropy `(M,)` of log-probabilities `(M, V)`; 0 log 0 = 0."""
    return -(log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0.0)).sum(dim=-1)


def sample(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one id a row from softmax(logits), by inverting the cumulative distribution.

    One uniform number a row (float64, from torch's global generator of the device) falls into the
    cumulative sum of the probabilities. The sum is searched in two levels, over blocks of words
    and inside the chosen block, which skips nearly all of the sequential additions. A word of
    probability 0 is never returned, whatever the rounding.

    Args:
        logits: `(B, V)`; minus infinity forbids a word.

    Returns:
        `(B,)` int64 ids and `(B,)` float32 log-probabilities of those ids.
    """
    p = logits.float().softmax(dim=-1)  # (B, V)
    rows, words = p.shape
    blocks = words // _BLOCK
    whole = p[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK)).sum(dim=-1)  # (B, blocks)
    rest = p[:, blocks * _BLOCK :].sum(dim=-1, keepdim=True)
    precision = torch.float32 if p.device.type == "mps" else torch.float64
    mass = torch.cat([whole, rest], dim=1).to(precision)  # (B, blocks + 1)
    u = torch.rand(rows, 1, dtype=precision, device=p.device)
    block, left = _first_above(mass, u * mass.sum(dim=1, keepdim=True))
    words_in_block = block * _BLOCK + torch.arange(_BLOCK, device=p.device)  # (B, 64)
    beyond = words_in_block >= words
    inside = p.gather(1, words_in_block.clamp_(max=words - 1)).masked_fill_(beyond, 0.0)
    word, _ = _first_above(inside.to(precision), left)
    ids = words_in_block.gather(1, word)
    return ids.squeeze(1), p.gather(1, ids).log().squeeze(1)


def _first_above(mass: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first cell whose cumulative mass exceeds `threshold`, and what is left of it.

    The threshold is kept below the total, so that the cell exists; as the cumulative sum rises at
    it, its own mass is positive.

    Args:
        mass: `(B, K)` non-negative.
        threshold: `(B, 1)`.

    Returns:
        `(B, 1)` cell, `(B, 1)` threshold minus the mass of all cells before.
    """
    cumulative = mass.cumsum(dim=1)
    total = cumulative[:, -1:]
    threshold = torch.minimum(threshold, torch.nextafter(total, torch.zeros_like(total)))
    # The clamp is for rows that are not numbers: their log-probability comes out as NaN too.
    cell = torch.searchsorted(cumulative, threshold, right=True).clamp_(max=mass.shape[1] - 1)
    before = (cumulative.gather(1, cell) - mass.gather(1, cell)).clamp_(min=0.0)
    return cell, (threshold - before).clamp_(min=0.0)
