r"""Encoder-decoder language models as policies: the encoder reads the prompt, the decoder writes.

An observation is cut at the first generated column. What stands before it, the padding taken out
and the model's end token put behind, goes to the encoder; the decoder starts from its own start
token and is fed what was generated:

```
column      0    1    2    3    4    5
observation pad  p    q    u_1  u_2  pad      (prompt_length 3)
encoder     p    q    end
decoder     start     u_1  u_2
state                 s_1  s_2  s_3
```

State $s_1$, before the first action, stands at column 2 in the observation and at the start token
in the decoder. Everything else (sampling, scoring, saving) is as for a causal model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.seq2seq_cache import Read, SideBySide
from text_envs.lm.action_lm import ActionLM
from text_envs.lm.checkpointing import recomputing
from text_envs.lm.checks import scale_between
from text_envs.lm.loading import load_lm
from text_envs.lm.precision import without_cast_cache
from text_envs.lm.transfers import rows_at, upload
from text_envs.tokens.protocol import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Seq2SeqLM", "Seq2SeqPolicy"]


class Seq2SeqLM(ActionLM):
    """An encoder-decoder model restricted to the actions of a text environment.

    Attributes:
        front: columns that stand in front of the prompt, see `agents.policies.instructed`.

    Args:
        lm: any encoder-decoder model of transformers with a linear output layer: T5, BART, ...
        num_actions: ids `0..num_actions-1` are actions.
        pad_id: marks empty columns of an observation; never fed to the model.
        bos_id: fed in the last prompt column of a row whose prompt is empty.
        prompt_length: number of prompt columns; where the encoder's part ends.
        forbidden: ids that are never written.
        temperature: divides the scores, when sampling and when scoring alike.
        eos_ids: what ends a text.

    Raises:
        ValueError: an argument is out of range, or the model cannot serve.
    """

    front: int = 0
    reads_prompt = False  # as in transformers, what the encoder reads is not what is repeated

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
        if prompt_length is None:
            raise ValueError(
                "an encoder-decoder model needs prompt_length, where its encoder's part ends; "
                "policy_kwargs_for(env) knows it"
            )
        super().__init__(
            lm,
            num_actions=num_actions,
            pad_id=pad_id,
            bos_id=bos_id,
            prompt_length=prompt_length,
            forbidden=forbidden,
            temperature=temperature,
            eos_ids=eos_ids,
        )
        self._side_by_side = SideBySide()

    def like(self, lm: PreTrainedModel) -> ActionLM:
        """Return the same restriction of another language model."""
        made = type(self)(
            lm,
            num_actions=self.num_actions,
            pad_id=self.pad_id,
            bos_id=self.bos_id,
            prompt_length=self.prompt_length,
            forbidden=self.forbidden_ids,
        )
        made.choose_like(self)
        return made

    @property
    def split(self) -> int:
        """The first generated column."""
        return cast(int, self.prompt_length) + self.front

    # -- the two halves ------------------------------------------------------------------------

    def read(self, prompts: Tensor) -> Read:
        """Return what the encoder makes of prompts `(n, S)`; equal ones are read once."""
        different, inverse = torch.unique(prompts, dim=0, return_inverse=True)
        filled = different != self.pad_id
        lengths = filled.sum(dim=1)  # (m,)
        end = _end_id(self.lm)
        width = int(lengths.max()) + (end is not None)
        ids = prompts.new_full((len(different), width), self._fill_id)
        row, column = filled.nonzero(as_tuple=True)
        ids[row, (filled.cumsum(dim=1) - 1)[row, column]] = different[row, column]
        if end is not None:  # what these models were trained to find behind their input
            ids[torch.arange(len(ids), device=ids.device), lengths] = end
            lengths = lengths + 1
        mask = (torch.arange(width, device=ids.device) < lengths[:, None]).long()
        encoder: Any = self.lm.get_encoder()
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (m, width, d)
        return Read(hidden[inverse], mask[inverse])

    def write(self, read: Read, texts: Tensor, cache: Any = None) -> Tensor:
        """Return the decoder's states `(n, t, d)` at the tokens `(n, t)` it is fed.

        Args:
            read: of the same rows.
            texts: `(n, t)` decoder input; the start token first, unless the cache holds it.
            cache: keys and values of what was fed before; None for nothing, and to keep nothing.
        """
        decoder: Any = self.lm.get_decoder()
        output = decoder(
            input_ids=texts,
            encoder_hidden_states=read.hidden,
            encoder_attention_mask=read.mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return cast(Tensor, output.last_hidden_state)

    def decoder_input(self, texts: Tensor) -> Tensor:
        """Return generated columns `(n, t)` behind the start token, with padding filled."""
        start = texts.new_full((len(texts), 1), _start_id(self.lm))
        return torch.cat([start, texts.masked_fill(texts == self.pad_id, self._fill_id)], dim=1)

    # -- as an actor -----------------------------------------------------------------------------

    @without_cast_cache
    def _encode(self, tokens: NDArray[Any], columns: NDArray[Any], mask: NDArray[Any]) -> Tensor:
        index = np.where(mask, columns - (self.split - 1), 0)  # (B, T)
        fed = int(index.max(initial=0))
        places = np.arange(len(tokens))[:, None] * (fed + 1) + index
        shown, at = upload(self._bias.device, tokens, places[mask])
        texts = self.decoder_input(shown[:, self.split : self.split + fed])
        with recomputing(self.lm):
            read = self.read(shown[:, : self.split])
            hidden = self.write(read, texts)  # (B, fed + 1, d); later tokens have no influence
        return rows_at(hidden.flatten(0, 1), at)

    @without_cast_cache
    @torch.inference_mode()
    def _decode(
        self, tokens: NDArray[np.int64], rows: NDArray[np.int64] | None
    ) -> tuple[Tensor, NDArray[np.int64]]:
        last = tokens.shape[1] - 1 - (tokens != self.pad_id)[:, ::-1].argmax(axis=1)
        names = np.arange(len(tokens)) if rows is None else rows
        weights = self._fingerprint()
        hidden = self._side_by_side.last_hidden(self, tokens, last, names, weights)
        return hidden, last

    def _caches(self) -> list[Any]:
        return [self._side_by_side]

    def drop_cache(self) -> None:
        """Give the memory of the cache back."""
        self.invalidate()

    def invalidate(self) -> None:
        """Empty the cache; needed only after changing weights through `.data`."""
        self._side_by_side = SideBySide()

    # -- checks at construction ----------------------------------------------------------------

    def _check_architecture(self, lm: PreTrainedModel) -> None:
        if not getattr(lm.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{type(lm).__name__} is no encoder-decoder model; accepted: policy_kwargs with a "
                "model such as T5ForConditionalGeneration; causal ones take 'CausalLMPolicy'"
            )
        start = getattr(lm.config, "decoder_start_token_id", None)
        if lm.get_output_embeddings() is None or start is None:
            raise ValueError(
                f"{type(lm).__name__} has no output layer, or no decoder_start_token_id in its "
                "configuration"
            )

    def check_length(self, columns: int) -> None:
        """Raise a ValueError if encoder or decoder have too few positions for an observation."""
        positions = getattr(self.lm.config, "max_position_embeddings", None)
        split = self.split
        needed = max(split + (_end_id(self.lm) is not None), columns + self.front - split)
        if positions is not None and positions < needed:
            raise ValueError(
                f"{type(self.lm).__name__} has {positions} positions, prompts and texts need up to "
                f"{needed}; lower prompt_length or max_tokens of the environment"
            )

    @torch.no_grad()
    def _probe_head(self) -> float:
        ids = torch.tensor([[self._fill_id, self._other_id]], device=self.lm.device)
        start = torch.tensor([[_start_id(self.lm), self._other_id]], device=self.lm.device)
        scores = self.lm(input_ids=ids, decoder_input_ids=start, use_cache=False).logits.float()
        encoder: Any = self.lm.get_encoder()
        mask = torch.ones_like(ids)
        read = Read(encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
        plain = cast(nn.Module, self.lm.get_output_embeddings())(self.write(read, start)).float()
        return scale_between(self.lm, plain, scores)


class Seq2SeqPolicy(CausalLMPolicy):
    """`CausalLMPolicy` over an encoder-decoder model; its arguments, with such a `model`.

    ```python
    agent = PPO(Seq2SeqPolicy, env, policy_kwargs={"model": "google/flan-t5-base"})
    ```
    """

    actor_class: ClassVar[type[ActionLM]] = Seq2SeqLM

    def load_model(
        self, model: str | os.PathLike[str] | PreTrainedModel, dtype: Any = None
    ) -> tuple[PreTrainedModel, Tokenizer | None]:
        """Return the language model of the actor and, if it comes with one, its tokenizer."""
        return load_lm(model, dtype=dtype, seq2seq=True)


def _end_id(lm: PreTrainedModel) -> int | None:
    end: Any = lm.config.eos_token_id
    return None if end is None else int(end[0] if isinstance(end, list) else end)


def _start_id(lm: PreTrainedModel) -> int:
    return int(cast(int, lm.config.decoder_start_token_id))
