"""A recurrent teacher: it errs elsewhere than a transformer does, so their mean beats both."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RecurrentLM(nn.Module):
    """LSTM layers between a word embedding and the same embedding as output weights.

    Dropout keeps one mask over all times of a sequence, so that the state is not shaken at every
    word.
    """

    def __init__(self, vocab_size: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.layers = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(layers))
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.lm_head.weight = self.embedding.weight
        self.dropout = dropout

    def hidden(self, ids: Tensor) -> Tensor:
        """Return what the output weights are applied to, `(B, T, width)`."""
        hidden = self._dropped(self.embedding(ids))
        for layer in self.layers:
            hidden = self._dropped(layer(hidden)[0])
        return hidden

    def _dropped(self, hidden: Tensor) -> Tensor:
        if not self.training:
            return hidden
        keep = 1 - self.dropout
        mask = torch.full_like(hidden[:, :1], keep).bernoulli() / keep  # (B, 1, width)
        return hidden * mask
