"""A task of your own: one file and one `register` line.

cd examples && python -m text_envs check add_a_task:examples/Opposites-v0
"""

import numpy as np

from text_envs import Example, Task, register
from text_envs.tokenizers import WordTokenizer

PAIRS = {"hot": "cold", "day": "night", "wet": "dry", "old": "new"}


class Opposites(Task):
    """Say the opposite of a word."""

    qualities = ("random", "mixed", "expert")

    def __init__(self, *, max_tokens=2):
        examples = [Example(word, references=(other,)) for word, other in PAIRS.items()]
        tokenizer = WordTokenizer([*PAIRS, *PAIRS.values()])
        super().__init__(examples, tokenizer=tokenizer, prompt_length=2, max_tokens=max_tokens)

    @staticmethod
    def reward(episodes):
        """Pay 1 for the opposite and nothing else."""
        return np.array([float(e.text == e.example.references[0]) for e in episodes])

    def script(self, turns, qualities):
        """Let `demonstrations` play the expert."""
        words = [self.example(index).references[0] for index in turns.example_indices]
        return [[*self.tokenizer.encode(word), self.tokenizer.eos_id] for word in words]


register("examples/Opposites-v0", "add_a_task:Opposites")
