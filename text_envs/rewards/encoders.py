"""Contextual vectors of the tokens of a text, by one layer of a transformers model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.rewards.reading import batches, longest_input

__all__ = ["Encoder"]


class Encoder:
    """A frozen model of transformers, its layers above the wanted one left out.

    Args:
        source: a folder or a name of the Hub; safetensors weights, no remote code.
        layer: whose vectors to return, counted from 1; None for the last.
        device: where the model runs.
        batch_size: texts per forward pass.

    Raises:
        ValueError: the model cannot be loaded, or has no such layer.
    """

    def __init__(self, source: str, layer: int | None, *, device: str, batch_size: int) -> None:
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel

        from text_envs.lm.devices import pick_device
        from text_envs.lm.loading import quietly
        from text_envs.tokens.hub import find_model

        with quietly():
            source = find_model(source)
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            kind = T5EncoderModel if config.model_type in ("t5", "mt5", "umt5") else AutoModel
            loaded: Any = kind.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if hasattr(loaded, "decoder") and hasattr(loaded, "encoder"):
            loaded = loaded.encoder
        if layer is not None:
            _keep_layers(loaded, layer)
        # A limit of the tokenizer's own, as the package asks it how much may be read.
        limit = longest_input(loaded, self.tokenizer)
        self.tokenizer.model_max_length = limit or 10**6
        self._device, self._batch_size = pick_device(device), batch_size
        self._model = loaded.eval().requires_grad_(False).to(self._device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        return self  # nothing in it changes

    def token_vectors(self, texts: list[str]) -> list[NDArray[np.float64]]:
        """Return the vectors of each text's tokens.

        Args:
            texts: B texts.

        Returns:
            For each `(n, d + 1)`: vectors of length 1, and in the last column 0 for the marks that
            begin and end a text, else 1.
        """
        import torch
        from bert_score.utils import sent_encode

        rows = [list(sent_encode(self.tokenizer, text)) for text in texts]
        marks = [self.tokenizer.sep_token_id, self.tokenizer.cls_token_id]
        found: list[Any] = [np.zeros((0, 1))] * len(rows)
        for numbers in batches([len(row) for row in rows], self._batch_size):
            if not rows[numbers[0]]:
                continue
            ids = torch.tensor([rows[i] for i in numbers], device=self._device)
            with torch.inference_mode():
                states = self._model(ids, attention_mask=torch.ones_like(ids))[0]
            vectors = states.double().cpu().numpy()  # (b, n, d)
            vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
            for i, row in zip(numbers, vectors, strict=True):
                counted = [float(token not in marks) for token in rows[i]]
                found[i] = np.concatenate([row, np.array(counted)[:, None]], axis=1)
        return found


def _keep_layers(model: Any, count: int) -> None:
    """Leave out the layers above the first `count`, as the package bert-score does.

    Raises:
        ValueError: the model has fewer, or its layers are not found.
    """
    from torch import nn

    config = model.config
    total = int(config.num_hidden_layers)
    if not 0 <= count <= total:
        raise ValueError(f"it has the layers 1..{total}")
    if count == total:
        return
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == total:
                setattr(parent, name, child[:count])
                config.num_hidden_layers = count
                return
    # Families that run one layer many times count by the configuration.
    if not hasattr(model, "encoder") or not hasattr(model.encoder, "albert_layer_groups"):
        raise ValueError(f"{type(model).__name__} has no list of {total} layers")
    model.encoder.config.num_hidden_layers = count
