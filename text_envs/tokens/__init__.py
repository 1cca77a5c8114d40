"""Ids and text.

Tokenizers behind one protocol, what tells vocabularies apart, how texts are encoded into the
columns of an observation and how each token is spelled. Imports nothing of the suite, and
transformers only where one of its tokenizers is asked for.
"""

from text_envs.tokens.builtin import CharTokenizer, WordTokenizer
from text_envs.tokens.hf import HFTokenizer
from text_envs.tokens.loading import load_tokenizer
from text_envs.tokens.protocol import Tokenizer

__all__ = ["CharTokenizer", "HFTokenizer", "Tokenizer", "WordTokenizer", "load_tokenizer"]
