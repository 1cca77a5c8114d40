"""The likelihood of a text under a frozen language model, as a reward.

    r(x, y) = 1 / |y| * sum_t log pi0(y_t | x, y_<t)

The y_t are the agent's tokens, the end of the text among them where the agent wrote it, and pi0
is the model restricted to what may be written: forbidden ids (padding, special tokens) get
probability 0 and the rest is scaled up, which is the distribution that policies sample from.

A model is least surprised by its own repetitions, so the most likely texts are not ordinary ones:
the reward is there to be over-optimised, or to be calibrated by demonstrations.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.episodes.errors import suggest
from text_envs.episodes.types import EpisodeBatch, Role
from text_envs.rewards.batches import whole_texts
from text_envs.rewards.reading import longest_positions
from text_envs.tokens.loading import load_tokenizer
from text_envs.tokens.protocol import Tokenizer

__all__ = ["Likelihood"]

_DTYPES = ("float32", "float64")
_DECIMALS = 9


class Likelihood:
    """Mean log-likelihood per token of what the agent wrote, in nats; at most 0.

    Text of another tokenizer is encoded again, prompt and continuation in one go; the tokens that
    the prompt alone does not have are those that are paid for. A text earns the same alone and in
    any batch. One of more tokens than the model has positions is an error.

    A deep copy is the object itself, as nothing in it changes; a pickle holds the weights.

    >>> import gymnasium as gym, text_envs
    >>> env = gym.make("text_envs/Reviews-v0", reward="likelihood", max_tokens=3)
    >>> rewards = []
    >>> for text in ("a film .", "film a ."):
    ...     observation, info = env.reset(seed=0, options={"index": 0})
    ...     for token in env.unwrapped.tokenizer.encode(text):
    ...         observation, reward, *_ = env.step(token)
    ...     rewards.append(float(reward))
    >>> 0 > rewards[0] > rewards[1]
    True
    """

    def __init__(
        self,
        model: Any = "reviews",
        *,
        tokenizer: Any = None,
        device: str = "cpu",
        dtype: str = "float64",
        batch_size: int = 64,
    ) -> None:
        """Load the model and freeze it.

        Args:
            model: "reviews" for the bundled one, a folder or Hub name of any causal language
                model, or a transformers model, of which a frozen copy is kept.
            tokenizer: what the model was trained with; default the one that comes with it.
            device: where the model runs: "cpu", "cuda", or "auto" for the GPU where there is one.
            dtype: "float64" makes the reward of a text the same in every batch it may be scored
                in, to the nine decimals kept; "float32" takes about half the time.
            batch_size: rows per forward pass.

        Raises:
            ImportError: torch or transformers is missing.
            ValueError: no such model, no tokenizer, or an argument that is not accepted.
        """
        if dtype not in _DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}.{suggest(str(dtype), _DTYPES)}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        load = _load_once if isinstance(model, str) else _load
        self._model, own = load(model, device, dtype)
        if tokenizer is not None:
            own = load_tokenizer(tokenizer)
        if own is None:
            raise ValueError("this language model comes without a tokenizer; pass tokenizer=...")
        self.tokenizer: Tokenizer = own
        self.name = f"likelihood:{model}" if isinstance(model, str) else "likelihood"
        self.positions: int | None = longest_positions(self._model)
        self._device = next(self._model.parameters()).device
        self._batch_size = batch_size
        self._forbidden = _on(np.array(self.tokenizer.forbidden, dtype=bool), self._device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Likelihood:
        """Return self: the weights are frozen, and reading a spec copies its arguments."""
        return self

    def __call__(self, episodes: EpisodeBatch) -> NDArray[np.float64]:
        """Return `(B,)`."""
        scores, scored = self.token_scores(episodes)
        counts = np.maximum(scored.sum(axis=1), 1)
        means: NDArray[np.float64] = np.round(scores.sum(axis=1) / counts, _DECIMALS)
        return means

    def token_scores(self, episodes: EpisodeBatch) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the log-likelihood of every token and which tokens count, both `(B, L)`.

        With the model's own tokenizer the columns are those of `episodes.tokens`, else those of
        the texts encoded again.
        """
        if episodes.tokenizer == self.tokenizer:
            written = (episodes.roles == Role.ACTION) | (episodes.roles == Role.PREFIX)
            return self.score_tokens(episodes.tokens, written), written
        tokens, written = self._encode_again(episodes)
        return self.score_tokens(tokens, written), written

    def score_tokens(
        self, tokens: NDArray[np.int64], scored: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return log pi0 of the tokens in `scored` given all before them, 0 elsewhere.

        Args:
            tokens: `(B, L)` ids of the model's tokenizer, padded anywhere.
            scored: `(B, L)` which of them; never the first token of a row.

        Returns:
            `(B, L)` in nats.

        Raises:
            ValueError: a row has more tokens than the model has positions.
        """
        result = np.zeros(tokens.shape)
        for begin in range(0, len(tokens), self._batch_size):
            rows = slice(begin, begin + self._batch_size)
            self._score_rows(tokens[rows], scored[rows], result[rows])
        return result

    def _score_rows(
        self, tokens: NDArray[np.int64], scored: NDArray[np.bool_], result: NDArray[np.float64]
    ) -> None:
        import torch

        filled = tokens != self.tokenizer.pad_id  # (B, L)
        place = filled.cumsum(axis=1) - 1  # (B, L) the column of each token without the padding
        width = int(place.max()) + 1
        self._check_positions(width)
        # Rows are moved to the left: causal attention then needs no mask, whatever stands behind.
        packed = np.zeros((len(tokens), width), dtype=np.int64)
        row, column = np.nonzero(filled)
        packed[row, place[row, column]] = tokens[row, column]
        row, column = np.nonzero(scored)
        before = place[row, column] - 1
        first = int(before.min(initial=width))
        to = functools.partial(torch.as_tensor, device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=to(packed), use_cache=False).logits
            logits = self._restrict(logits)[:, first:]  # (b, n, A)
            total = logits.logsumexp(dim=-1)  # (b, n)
            at = to(row), to(before - first)
            log_p = logits[(*at, to(tokens[row, column]))] - total[at]
        result[row, column] = log_p.double().cpu().numpy()

    def _restrict(self, logits: Any) -> Any:
        logits = logits[..., : self.tokenizer.num_actions]
        if bool(self._forbidden.any()):
            logits = logits.masked_fill(self._forbidden, -np.inf)
        return logits

    def _check_positions(self, width: int) -> None:
        if self.positions is not None and width > self.positions:
            raise ValueError(
                f"a text of {width} tokens is too long for {self.name!r}, which has "
                f"{self.positions} positions; lower prompt_length or max_tokens"
            )

    def _encode_again(self, episodes: EpisodeBatch) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return prompts and texts in the model's own tokens, and which of them are the text."""
        rows, starts = [], []
        texts = zip(episodes.prompts, whole_texts(episodes), episodes.finish_reasons, strict=True)
        for prompt, whole, reason in texts:
            ids, start = self._encode_whole(prompt, whole)
            end = [] if reason == "length" else [self.tokenizer.eos_id]
            rows.append([*ids, *end])
            starts.append(start)
        width = max(map(len, rows))
        tokens = np.full((len(rows), width), self.tokenizer.pad_id, dtype=np.int64)
        for tokens_row, ids in zip(tokens, rows, strict=True):
            tokens_row[: len(ids)] = ids
        written = (np.arange(width) >= np.array(starts)[:, None]) & (
            tokens != self.tokenizer.pad_id
        )
        # A word that the model cannot write has no probability; it is read but not scored.
        known = tokens < self.tokenizer.num_actions
        known[known] = ~np.asarray(self.tokenizer.forbidden)[tokens[known]]
        return tokens, written & known

    def _encode_whole(self, prompt: str, whole: str) -> tuple[list[int], int]:
        """Return a prompt with its text as ids, and where those begin that are not the prompt's."""
        before = self.tokenizer.encode_prompt(prompt)
        if not prompt:  # the token that an empty prompt starts from stays
            return [*before, *self.tokenizer.encode(whole)], len(before)
        ids = self.tokenizer.encode_prompt(whole)
        pairs = zip(before, ids, strict=False)
        start = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
        start = min(len(before), len(ids)) if start is None else start
        # The first token has none before it by which it could be likely.
        return ids, max(start, 1)

    def continue_prompts(
        self,
        prompts: NDArray[np.int64],
        max_tokens: int,
        rngs: Sequence[np.random.Generator],
        *,
        greedy: NDArray[np.bool_] | None = None,
    ) -> list[list[int]]:
        """Return what the model itself would write, at temperature 1.

        Args:
            prompts: `(B, P)` ids, left-padded.
            max_tokens: tokens after which a text is cut.
            rngs: one generator a row; one number is drawn per token.
            greedy: `(B,)` where to take the likeliest token instead of drawing.

        Returns:
            For each row the tokens, the end of the text last where it was reached.
        """
        import torch

        filled = prompts != self.tokenizer.pad_id
        self._check_positions(int(filled.sum(axis=1).max()) + max_tokens)
        mask = torch.from_numpy(filled.astype(np.int64)).to(self._device)
        ids = torch.from_numpy(np.where(filled, prompts, 0)).to(self._device)
        best = np.zeros(len(prompts), dtype=bool) if greedy is None else greedy
        written = np.full((len(prompts), max_tokens), self.tokenizer.eos_id, dtype=np.int64)
        going = np.ones(len(prompts), dtype=bool)
        cache = None
        for step in range(max_tokens):
            position = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            with torch.inference_mode():
                out = self._model(
                    input_ids=ids, attention_mask=mask, position_ids=position,
                    past_key_values=cache, use_cache=True,
                )  # fmt: skip
                p = self._restrict(out.logits[:, -1]).double().softmax(dim=-1).cpu().numpy()
            cache = out.past_key_values
            uniform = np.array([rng.random() for rng in rngs])
            mass = p.cumsum(axis=1)  # (B, A)
            drawn = (mass <= uniform[:, None] * mass[:, -1:]).sum(axis=1)
            chosen = np.where(best, p.argmax(axis=1), np.minimum(drawn, p.shape[1] - 1))
            written[going, step] = chosen[going]
            going &= chosen != self.tokenizer.eos_id
            if not going.any():
                break
            ids = torch.from_numpy(chosen[:, None]).to(self._device)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        ended = written == self.tokenizer.eos_id
        lengths = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, max_tokens)
        return [row[:n] for row, n in zip(written.tolist(), lengths.tolist(), strict=True)]

    def __repr__(self) -> str:
        return f"Likelihood({self.name!r})"


def _on(values: NDArray[Any], device: Any) -> Any:
    import torch

    return torch.from_numpy(values).to(device)


def _load(model: Any, device: str, dtype: str) -> tuple[Any, Tokenizer | None]:
    """Return the frozen model and the tokenizer that comes with it."""
    try:
        import torch

        from text_envs.lm.devices import pick_device
        from text_envs.lm.loading import freeze, load_lm
    except ImportError as error:
        raise ImportError(
            "the likelihood under a language model needs torch and transformers: "
            f"pip install 'text_envs[agents]' ({error})"
        ) from error
    loaded, tokenizer = load_lm(model, device=pick_device(device))
    frozen: Any = freeze(loaded)
    return frozen.to(getattr(torch, dtype)), tokenizer


# Environments are made many times over; the weights of a name never change.
_load_once = functools.lru_cache(maxsize=4)(_load)
