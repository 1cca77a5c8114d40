"""A causal language model seen as a policy: observations in, scores of actions out.

`ActionLM` is what the policy and the frozen reference have in common, so that both score the very
distribution that is sampled: the scores of the ids below `num_actions`, divided by the
temperature, with forbidden ids left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from text_envs.lm import checks
from text_envs.lm.cache import CachedDecoder
from text_envs.lm.choosing import Chooses, as_ids
from text_envs.lm.encoding import encode
from text_envs.lm.likelihood import entropy, linear_log_probs, token_log_probs
from text_envs.lm.precision import autocast_mark, without_cast_cache
from text_envs.lm.probing import probe_decoder
from text_envs.lm.rows import count_rows
from text_envs.lm.sampling import Sampling
from text_envs.lm.transfers import on_host
from text_envs.lm.watching import WeightWatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ActionLM"]

logger = logging.getLogger(__name__)

_FIXED = {"lm", "num_actions", "num_tokens", "hidden_size", "pad_id", "bos_id", "prompt_length"}


class ActionLM(Chooses, nn.Module):
    """A causal language model restricted to the actions of a text environment.

    The language model always runs in evaluation mode: with dropout, the log-probability of one
    action would differ between two passes, and the ratio to the sampling policy would not start
    at 1.

    Args:
        lm: any causal model of transformers with a backbone and a linear output layer.
        num_actions: ids `0..num_actions-1` are actions.
        pad_id: marks empty columns of an observation; never fed to the model.
        bos_id: fed in the last prompt column of a row whose prompt is empty.
        prompt_length: number of prompt columns; needed only where prompts may be empty.
        forbidden: ids that are never written: their probability is exactly 0.
        temperature: divides the scores, when sampling and when scoring alike. Further settings of
            how tokens are drawn: attribute `sampling`, see `text_envs.lm.choosing`.
        eos_ids: what ends a text.

    Raises:
        ValueError: an argument is out of range, or the model cannot serve.
    """

    _bias: Tensor

    def __init__(
        self,
        lm: PreTrainedModel,
        *,
        num_actions: int,
        pad_id: int,
        bos_id: int | None = None,
        prompt_length: int | None = None,
        forbidden: Iterable[int] = (),
        temperature: float = 1.0,
        eos_ids: Iterable[int] = (),
    ) -> None:
        super().__init__()
        self._sampling = Sampling(temperature=temperature)
        self.eos_ids = as_ids(eos_ids, num_actions)
        banned = sorted({int(i) for i in forbidden})
        if banned and not 0 <= banned[0] <= banned[-1] < num_actions:
            raise ValueError(f"forbidden ids must be actions 0..{num_actions - 1}, got {banned}")
        if len(banned) == num_actions:
            raise ValueError(f"all {num_actions} actions are forbidden; nothing could be written")
        self._check_architecture(lm)
        head = lm.get_output_embeddings()
        rows = count_rows(lm)
        checks.check_rows(lm, rows, num_actions)
        self.lm = lm
        self.num_actions, self.num_tokens = num_actions, rows
        self.pad_id, self.bos_id, self.prompt_length = pad_id, bos_id, prompt_length
        # What stands in for padding in a tensor; not the id that makes transformers warn.
        unwanted = {pad_id, lm.config.pad_token_id}
        usable = [i for i in range(min(rows, 4)) if i not in unwanted]
        self._fill_id, self._other_id = usable[0], usable[-1]
        bias = torch.zeros(num_actions, device=lm.device)
        bias[banned] = -torch.inf
        self.register_buffer("_bias", bias, persistent=False)
        self._restricted = bool(banned)
        self.hidden_size = int(head.weight.shape[1])
        self._plain_head = type(head) is nn.Linear
        checks.check_attention(lm)
        self.eval()
        self._logit_scale = self._probe_head()
        self._decoder: CachedDecoder | None = None
        self._cacheable = True
        self._made = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, unless caches, heads and optimisers were made from the present one."""
        if name in _FIXED and "_made" in vars(self):
            raise AttributeError(
                f"{name} of {type(self).__name__} cannot be set: caches, value heads and "
                "optimisers belong to the present one; accepted: lm.load_state_dict(...) for other "
                "weights, like(lm), or a policy made with another model"
            )
        super().__setattr__(name, value)

    def train(self, mode: bool = True) -> ActionLM:
        """Set the mode of everything but the language model, which never drops out."""
        super().train(mode)
        self.lm.train(False)
        self._watch = WeightWatch(self.lm.base_model.parameters())
        return self

    def like(self, lm: PreTrainedModel) -> ActionLM:
        """Return the same restriction of another language model."""
        made = ActionLM(
            lm,
            num_actions=self.num_actions,
            pad_id=self.pad_id,
            bos_id=self.bos_id,
            prompt_length=self.prompt_length,
            forbidden=self.forbidden_ids,
        )
        made.choose_like(self)
        return made

    def adopt(self, other: ActionLM) -> None:
        """Take over what may be changed of another one: both score the same distribution then."""
        self.choose_like(other)

    @property
    def forbidden_ids(self) -> list[int]:
        """The ids that are never written, ascending."""
        return cast(list[int], self._bias.isneginf().nonzero().flatten().tolist())

    # -- observations --------------------------------------------------------------------------

    def complete(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return observations `(n, L)` with a begin token where the prompt is empty.

        Prompts are left-padded, so a prompt is empty where its last column is. Without this token
        there would be nothing to condition the first action on.

        Raises:
            ValueError: a row is empty and `prompt_length` or `bos_id` is unknown.
        """
        if self.prompt_length:
            column = self.prompt_length - 1
            empty = tokens[:, column] == self.pad_id
            if not empty.any():
                return tokens
            if self.bos_id is not None:
                tokens = tokens.copy()
                tokens[empty, column] = self.bos_id
                return tokens
        else:
            empty = (tokens == self.pad_id).all(axis=1)
            if not empty.any():
                return tokens
        raise ValueError(
            f"observation {int(empty.argmax())} has an empty prompt; give the policy bos_id and "
            f"prompt_length, got bos_id={self.bos_id}, prompt_length={self.prompt_length}"
        )

    # -- scoring -------------------------------------------------------------------------------

    def encode(self, tokens: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states at chosen columns, with gradients; see `text_envs.lm.encoding`.

        Args:
            tokens: `(B, L)` int64 observations; with `columns` and `mask` anywhere, see `on_host`.
            columns: `(B, T)` int64, columns that hold a token.
            mask: bool `(B, T)`, which of `columns` to return.

        Returns:
            `(M, d)` hidden states in row-major order of the mask, where the model is.
        """
        shown, at, wanted = on_host(tokens, columns, mask)
        return self._encode(self.complete(shown), at, wanted)

    @without_cast_cache
    def _encode(self, tokens: NDArray[Any], columns: NDArray[Any], mask: NDArray[Any]) -> Tensor:
        ids: Any = {"pad_id": self.pad_id, "fill_id": self._fill_id, "device": self._bias.device}
        cached = self._cacheable and self._decoder is not None
        return encode(self.lm.base_model, tokens, columns, mask, **ids, cached=cached)

    @without_cast_cache
    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores of the actions `(M, A)` in float32; forbidden ones are minus infinity."""
        head = self.lm.get_output_embeddings()
        if self._plain_head:
            weight, bias, hidden = self._output(hidden)
            return nn.functional.linear(hidden, weight, bias).float()
        scores = cast(Tensor, head(hidden))[..., : self.num_actions].float()
        return scores * (self._logit_scale / self.temperature) + self._bias

    def log_probs(
        self, hidden: Tensor, actions: Tensor, *, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities `(M,)` of actions and, if asked for, entropies `(M,)`."""
        if self._plain_head:
            weight, bias, hidden = self._output(hidden)
            return linear_log_probs(hidden, weight, bias, actions, with_entropy=with_entropy)
        logits = self.logits(hidden)
        return token_log_probs(logits, actions), entropy(logits) if with_entropy else None

    def _output(self, hidden: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return weight and bias of the actions, and hidden states that carry the temperature."""
        head = cast(nn.Linear, self.lm.get_output_embeddings())
        whole = len(head.weight) == self.num_actions  # a slice's gradient is copied once more
        weight = head.weight if whole else head.weight[: self.num_actions]
        scale = self._logit_scale / self.temperature
        bias = None if head.bias is None else head.bias[: self.num_actions] * scale
        if self._restricted:
            forbidden = self._bias.to(weight.dtype)
            bias = forbidden if bias is None else bias + forbidden
        return weight, bias, hidden if scale == 1.0 else hidden * scale

    # -- decoding ------------------------------------------------------------------------------

    def decode(
        self, tokens: NDArray[np.int64], rows: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the state at each row's last token, continuing from the previous call.

        See `CachedDecoder`. No gradient flows; the cache is dropped when the weights change.

        Args:
            tokens: `(n, L)` int64 observations.
            rows: `(n,)` stable names of the rows; `0..n-1` if None.

        Returns:
            `(n, d)` hidden states and `(n,)` the columns of the last tokens.
        """
        return self._decode(self.complete(tokens), rows)

    @without_cast_cache
    def _decode(
        self, tokens: NDArray[np.int64], rows: NDArray[np.int64] | None
    ) -> tuple[Tensor, NDArray[np.int64]]:
        device = self._bias.device
        rows = np.arange(len(tokens)) if rows is None else rows
        if self._decoder is None:
            self._decoder = self._make_decoder(tokens.shape[1], device)
        if self._cacheable:
            return self._decoder.last_hidden(tokens, rows, device)
        return self._encode_last(tokens, device)

    @torch.inference_mode()
    def _encode_last(
        self, tokens: NDArray[np.int64], device: torch.device
    ) -> tuple[Tensor, NDArray[np.int64]]:
        last = tokens.shape[1] - 1 - (tokens != self.pad_id)[:, ::-1].argmax(axis=1)
        return self._encode(tokens, last[:, None], np.ones((len(last), 1), dtype=bool)), last

    def invalidate(self) -> None:
        """Empty the cache; needed only after changing weights through `.data`."""
        if self._decoder is not None:
            self._decoder.invalidate()

    def _caches(self) -> list[Any]:
        """Return what remembers states of the present `weights`."""
        return [] if self._decoder is None else [self._decoder]

    def drop_cache(self) -> None:
        """Give the memory of the cache back."""
        self._decoder = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: everything, its own caches included, if these are still valid."""
        if any(cache.weights != self._fingerprint() for cache in self._caches()):
            self.invalidate()
        return vars(self).copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a copy's state; the weights lie elsewhere, and what is cached is theirs."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for cache in self._caches():
            cache.weights = self._fingerprint()

    def weights_mark(self) -> int:
        """Return a number that changes with every in-place update of any weight."""
        return sum(p._version + p.data_ptr() for p in self.lm.parameters())

    def _fingerprint(self) -> int:
        """Return a number that changes with every in-place update of a weight."""
        return self._watch.mark() + autocast_mark(self._bias.device)

    # -- checks at construction ----------------------------------------------------------------

    def _check_architecture(self, lm: PreTrainedModel) -> None:
        checks.check_backbone(lm)

    def check_length(self, columns: int) -> None:
        """Raise a ValueError if the model has fewer positions than an observation has columns."""
        checks.check_positions(self.lm, columns)

    @torch.no_grad()
    def _probe_head(self) -> float:
        """Return the factor between output layer and scores; some families scale them.

        Raises:
            ValueError: the scores are no multiple of what the output layer returns.
        """
        if getattr(self.lm.config, "final_logit_softcapping", None):
            raise ValueError(f"{type(self.lm).__name__} caps its scores, which is not supported")
        ids = torch.tensor([[self._fill_id, self._other_id]], device=self.lm.device)
        scores = self.lm(input_ids=ids, use_cache=False).logits.float()
        hidden = self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
        plain = self.lm.get_output_embeddings()(hidden).float()
        return checks.scale_between(self.lm, plain, scores)

    def _make_decoder(self, columns: int, device: torch.device) -> CachedDecoder:
        """Return a decoder; if it disagrees with the plain forward pass, turn caching off."""
        decoder = CachedDecoder(
            self.lm.base_model,
            pad_id=self.pad_id,
            fill_id=self._fill_id,
            fingerprint=self._fingerprint,
        )
        window = getattr(self.lm.config, "sliding_window", None)
        fault = f"sliding window of {window} columns" if window and window < columns else ""
        ids = (self.pad_id, self._fill_id, self._other_id)
        fault = fault or probe_decoder(decoder, self._encode_last, ids, device)
        if fault:
            self._cacheable = False
            name = type(self.lm).__name__
            logger.warning(f"{name} decodes without a cache, so slowly: {fault}")
        return decoder
