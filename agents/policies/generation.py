"""Writing texts to prompts without an environment, as `generate` of transformers does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agents.common.checks import require_whole
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.cache import KEEP_WHILE
from text_envs.lm.choosing import sampling_as
from text_envs.tokens.chat import Chat, is_messages
from text_envs.tokens.encoding import encode_prompts, prompt_ids
from text_envs.tokens.loading import load_tokenizer
from text_envs.tokens.protocol import Tokenizer, end_ids
from text_envs.tokens.stopping import stop_strings

__all__ = ["generate"]

_MOST_TOKENS = 64  # unless said otherwise


@torch.no_grad()
def generate(
    policy: Any,
    prompts: Any,
    *,
    max_tokens: int | None = None,
    n: int | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    deterministic: bool = False,
    batch_size: int = 64,
    tokenizer: Any = None,
    **sampling: Any,
) -> list[Any]:
    """Return what a policy writes to prompts.

    Tokens are drawn as in an environment, from the policy's own distribution and with its cache;
    the texts are those that `generate` of transformers samples from the same model with the same
    settings, or, if `deterministic`, the very same.

    Args:
        policy: a `CausalLMPolicy`.
        prompts: a list of texts, or of lists of messages for the tokenizer's chat template; a
            single text or list of messages is a list of one.
        max_tokens: most tokens of a text, its end included; None for 64, or for as many as the
            model has positions for.
        n: texts of each prompt; None for one, without a list around it.
        seed: of the sampling; torch's own generator is left as it was. None draws from that.
        stop: texts, or one, with which a text ends; they stay in it. An end token does not.
        deterministic: write the likeliest token each time.
        batch_size: texts at a time.
        tokenizer: reads prompts and spells texts; by default that of the policy.
        **sampling: settings in place of the policy's: `temperature`, `top_k`, `top_p`, `min_p`,
            `repetition_penalty`, `min_tokens`.

    Returns:
        A text for each prompt, or a list of `n`.

    Raises:
        ValueError: an argument that cannot work, a prompt that leaves the model no room, or
            messages without a chat template.
    """
    given = {"max_tokens": max_tokens, "batch_size": batch_size, "n": n}
    for name, value in given.items():
        if value is not None:
            require_whole(name, value)
    words = _words_of(policy, tokenizer)
    asked = _as_prompts(prompts)
    width = max((len(prompt_ids(prompt, words)) for prompt in asked), default=1)
    if max_tokens is None:
        positions = getattr(policy.actor.lm.config, "max_position_embeddings", None)
        room = (
            _MOST_TOKENS
            if positions is None
            else positions + 1 - width - getattr(policy.actor, "front", 0)
        )
        max_tokens = max(1, min(_MOST_TOKENS, room))
    least = sampling.get("min_tokens", 0)
    if isinstance(least, int) and least > max_tokens:
        raise ValueError(f"min_tokens={least} is above max_tokens={max_tokens}: no text could end")
    stops = stop_strings(words, stop, max_tokens)
    encoded = encode_prompts(asked, words, width).repeat(n or 1, axis=0)  # (M, P)
    texts: list[str] = []
    policy.set_training_mode(False)
    with _columns(policy, width, max_tokens), sampling_as(policy, **sampling), _seeded(seed):
        for start in range(0, len(encoded), batch_size):
            part = encoded[start : start + batch_size]
            tokens, lengths = _write(policy, part, max_tokens, words, stops, deterministic)
            texts += [
                words.decode(row[:length].tolist())
                for row, length in zip(tokens[:, width:], lengths, strict=True)
            ]
    return texts if n is None else [texts[i : i + n] for i in range(0, len(texts), n)]


def _words_of(policy: Any, tokenizer: Any) -> Tokenizer:
    found = policy.tokenizer if tokenizer is None else load_tokenizer(tokenizer, add_padding=True)
    if found is None:
        raise ValueError(
            f"this {type(policy).__name__} has a model without a tokenizer; pass tokenizer=..."
        )
    actor = policy.actor
    if (found.num_actions, found.pad_id) != (actor.num_actions, actor.pad_id):
        raise ValueError(
            f"{found!r} has {found.num_actions} tokens to write and pads with {found.pad_id}, the "
            f"policy {actor.num_actions} and {actor.pad_id}; pass the tokenizer that it learnt with"
        )
    return found


def _as_prompts(prompts: Any) -> list[str]:
    """Return prompts as texts and `Chat`s."""
    if isinstance(prompts, str) or is_messages(prompts):
        prompts = [prompts]
    if not isinstance(prompts, Sequence):
        raise ValueError(f"prompts must be a list of texts or of messages, got {prompts!r}")
    found: list[str] = []
    for number, prompt in enumerate(prompts):
        try:
            found.append(prompt if isinstance(prompt, str) else Chat(prompt))
        except ValueError as error:
            raise ValueError(f"prompt {number} is no text: {error}") from error
    return found


@contextmanager
def _columns(policy: nn.Module, prompt_length: int, max_tokens: int) -> Iterator[None]:
    """Let every language model of a policy read prompts of another width meanwhile."""
    actors = [m for m in policy.modules() if isinstance(m, ActionLM)]
    before = [actor.prompt_length for actor in actors]
    try:
        for actor in actors:
            # Of the attributes that are fixed this one only says where texts begin.
            vars(actor)["prompt_length"] = prompt_length
        actors[0].check_length(prompt_length + max_tokens - 1)  # the last token is never read
        yield
    finally:
        for actor, length in zip(actors, before, strict=True):
            vars(actor)["prompt_length"] = length
            actor.drop_cache()


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _write(
    policy: Any,
    prompts: NDArray[np.int64],
    max_tokens: int,
    words: Tokenizer,
    stops: Any,
    deterministic: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows `(M, P + max_tokens)` and how much of each is its text, `(M,)`."""
    count, width = prompts.shape
    tokens = np.full((count, width + max_tokens), words.pad_id, dtype=np.int64)
    tokens[:, :width] = prompts
    lengths = np.zeros(count, dtype=np.int64)
    going = np.ones(count, dtype=bool)
    batch, ends = np.arange(count), end_ids(words)
    for column in range(width, width + max_tokens):
        # `predict` knows rows by their place only, so that its rows stay.
        if not going.any() or (not deterministic and going.sum() <= KEEP_WHILE * len(batch)):
            batch = np.flatnonzero(going)
        if not len(batch):
            break
        still = going[batch]
        chosen = _next(policy, tokens[batch], batch, deterministic)[still]
        rows = batch[still]
        tokens[rows, column] = chosen
        over = np.isin(chosen, ends)
        lengths[rows] = column + 1 - width - over
        if stops is not None:
            begin = np.full(count, width)
            over |= stops.complete(tokens, begin, np.full(count, column + 1), rows)
        going[rows] = ~over
    return tokens, lengths


def _next(
    policy: Any, tokens: NDArray[np.int64], rows: NDArray[np.int64], deterministic: bool
) -> NDArray[np.int64]:
    """Return the next token of each row, `(n,)`."""
    if not deterministic:
        drawn: NDArray[np.int64] = policy.act(tokens, rows)[0]
        return drawn
    obs = torch.from_numpy(tokens).to(policy.device)
    best: NDArray[np.int64] = policy._predict(obs, deterministic=True).cpu().numpy()
    return best
