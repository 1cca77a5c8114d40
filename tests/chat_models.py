"""A small chat tokenizer in the true format: byte-level BPE, ChatML template, two ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foreign import MIXED, byte_level

END, START, OVER, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTION = [{"role": "user", "content": "a film?"}]


def chat_tokenizer(**names: Any) -> Any:
    """Return a tokenizer of transformers like SmolLM2's, with the padding of its own."""
    given = {"eos_token": OVER, "pad_token": PAD, **names}
    hf = byte_level(END, START, OVER, PAD, texts=[*MIXED, "user assistant system\n"], **given)
    hf.chat_template = TEMPLATE
    return hf


def chat_folder(path: Path, model: Any = None) -> Path:
    """Write tokenizer, model and `generation_config.json` as a chat model's folder has them."""
    hf = chat_tokenizer()
    if model is not None:
        model.save_pretrained(path)
    hf.save_pretrained(path)
    ends = [hf.convert_tokens_to_ids(OVER), hf.convert_tokens_to_ids(END)]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return path
