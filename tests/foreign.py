"""Tokenizers of every kind that transformers has, built small on the spot."""

from __future__ import annotations

from typing import Any

from helpers import SENTENCES

CYRILLIC = ["привет мир", "мир и привет всем", "всем привет и мир"]
CHINESE = ["你好 世界", "世界 你好", "好 世 你 界"]
MIXED = [*SENTENCES, *CYRILLIC, *CHINESE, "🙂 ok", "naïve café"]


def wrap(fast: Any, **special: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=fast, **special)


def around(hf: Any, template: str) -> Any:
    """Let a tokenizer put special tokens around each text, such as `<s> $A </s>`."""
    from tokenizers import processors

    words = [word for word in template.split() if not word.startswith("$")]
    hf.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(w, hf.convert_tokens_to_ids(w)) for w in set(words)]
    )
    return hf


def byte_level(*specials: str, prefix_space: bool = False, texts: Any = MIXED, **names: Any) -> Any:
    """GPT-2's kind: every token is spelled in bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=list(specials), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    fast.train_from_iterator(texts, trainer)
    return wrap(fast, **names)


def unigram(texts: Any = CYRILLIC, unk: str | None = "<unk>", **names: Any) -> Any:
    """Sentencepiece's kind: a word begins with a low line."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    fast = Tokenizer(models.Unigram())
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    fast.train_from_iterator(texts, trainer)
    return wrap(fast, unk_token=unk, **names)


def word_piece(texts: Any = CYRILLIC, **names: Any) -> Any:
    """BERT's kind: what continues a word begins with ##."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    fast = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(
        vocab_size=80, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    fast.train_from_iterator(texts, trainer)
    return wrap(fast, **names)


def byte_fallback(texts: Any = SENTENCES, **names: Any) -> Any:
    """Llama's kind: words, and a token for each byte of the characters that no word has."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    data = [f"<0x{byte:02X}>" for byte in range(256)]
    fast = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    fast.normalizer = normalizers.Sequence(steps)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    fast.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=["▁"],
    )  # fmt: skip
    fast.train_from_iterator([text.replace(" ", "▁") for text in texts], trainer)
    fast.add_tokens(data)
    import json

    state = json.loads(fast.to_str())  # bytes belong to the vocabulary, not behind it
    words = state["model"]["vocab"]
    for word in data:
        words.setdefault(word, len(words))
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in data]
    return wrap(Tokenizer.from_str(json.dumps(state)), **names)


def letters(alphabet: str, **names: Any) -> Any:
    """Characters of one alphabet without an unknown token: any other character is dropped."""
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    fast.decoder = decoders.Fuse()
    fast.add_special_tokens(["<s>", "</s>", "<pad>"])
    return wrap(fast, **names)


LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def all_kinds() -> dict[str, Any]:
    """Return one of each, with what surrounds texts in its family."""
    cls = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    end = "<|endoftext|>"
    return {
        "bytes": byte_level("</s>", "<pad>", eos_token="</s>", pad_token="<pad>"),
        "bytes, space first": byte_level(
            "</s>", "<pad>", prefix_space=True, eos_token="</s>", pad_token="<pad>"
        ),
        "gpt2": byte_level(end, bos_token=end, eos_token=end, unk_token=end),
        "pads with its end": byte_level(end, eos_token=end, pad_token=end),
        "pads with unknown": byte_level(
            "<s>", "</s>", "<u>", bos_token="<s>", eos_token="</s>", unk_token="<u>",
            pad_token="<u>",
        ),
        "cyrillic unigram": around(unigram(**LLAMA), "<s> $A </s>"),
        "chinese unigram": around(unigram(CHINESE, **LLAMA), "<s> $A"),
        "unknown unknown": around(unigram(unk=None, **LLAMA), "$A </s>"),
        "cyrillic word pieces": around(word_piece(unk_token="[UNK]", **cls), "[CLS] $A [SEP]"),
        "cyrillic letters": around(letters("абвгдежз ", **LLAMA), "<s> $A"),
        "chinese letters": letters("你好世界", **LLAMA),
        "byte fallback": around(
            byte_fallback(bos_token="<s>", eos_token="</s>", unk_token="<unk>"), "<s> $A"
        ),
    }  # fmt: skip
