"""The tokenizers, under the name that users write; they live in `text_envs.tokens`."""

from text_envs.tokens import CharTokenizer, HFTokenizer, Tokenizer, WordTokenizer, load_tokenizer

__all__ = ["CharTokenizer", "HFTokenizer", "Tokenizer", "WordTokenizer", "load_tokenizer"]
