"""A goal task without anything to share, and a language model that is a table of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from torch import nn
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

import text_envs
from agents import HIR
from text_envs import EpisodeBatch, Example, Task
from text_envs.envs.goal import GoalTokenVectorEnv
from text_envs.tokenizers import WordTokenizer

ANSWERS = 8
INSTRUCTIONS = ("wrong", "right")


class Table(Task):
    """Each question has `golds` right answers of one word among eight; nothing tells which."""

    qualities = ("random", "expert")

    def __init__(self, questions: int = 200, golds: int = 1, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.gold = np.zeros((questions, ANSWERS), dtype=bool)
        for row in self.gold:
            row[rng.permutation(ANSWERS)[:golds]] = True
        words = [f"a{i}" for i in range(ANSWERS)] + [f"q{i}" for i in range(questions)]
        words += list(INSTRUCTIONS)
        super().__init__(
            [
                Example(f"q{i}", tuple(f"a{k}" for k in np.flatnonzero(row)))
                for i, row in enumerate(self.gold)
            ],
            tokenizer=WordTokenizer(words),
            prompt_length=2,
            max_tokens=1,
        )
        self.reward = self.judge

    def script(self, turns: Any, qualities: Any) -> Any:
        """Answer right."""
        return [[int(np.flatnonzero(self.gold[i])[0])] for i in turns.example_indices.tolist()]

    def judge(self, episodes: EpisodeBatch) -> Any:
        """Return 1 for a right answer."""
        answers = np.minimum(episodes.response[:, 0], ANSWERS)  # silence is wrong too
        return np.pad(self.gold, ((0, 0), (0, 1)))[episodes.example_indices, answers].astype(float)


class TableConfig(PretrainedConfig):
    """Words of the table."""

    model_type = "table_of_answers"

    def __init__(self, vocab_size: int = 0, **kwargs: Any) -> None:
        self.vocab_size, self.pad_token_id = vocab_size, None
        super().__init__(**kwargs)


class TableModel(PreTrainedModel):
    """The state at a word is the row (second word, this word) of a table: eight scores."""

    config_class = TableConfig
    base_model_prefix = "model"

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.table = nn.Embedding(2 * config.vocab_size, ANSWERS)
        nn.init.zeros_(self.table.weight)

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        """Read the rows; prompts are (begin, instruction, question)."""
        instruction = input_ids[:, 1:2] % 2  # an error for a single word: it cannot be cached
        rows = input_ids + self.config.vocab_size * instruction
        return BaseModelOutputWithPast(last_hidden_state=self.table(rows))


class TableLM(PreTrainedModel):
    """The eight scores, as scores of the first eight words."""

    config_class = TableConfig
    base_model_prefix = "model"

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.model = TableModel(config)
        self.lm_head = nn.Linear(ANSWERS, config.vocab_size, bias=False)
        with torch.no_grad():
            self.lm_head.weight.copy_(torch.eye(config.vocab_size, ANSWERS))
        self.lm_head.requires_grad_(False)

    def get_input_embeddings(self) -> Any:
        """Return the table."""
        return self.model.table

    def get_output_embeddings(self) -> Any:
        """Return the fixed layer."""
        return self.lm_head

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        """Return scores of all words."""
        state = self.model(input_ids=input_ids).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(state))


def table_agent(kind: type[HIR] = HIR, questions: int = 200, golds: int = 1, **kwargs: Any) -> HIR:
    """Return an agent whose every (instruction, question) has eight scores of its own."""
    task = Table(questions, golds)
    env = text_envs.make_sb3(GoalTokenVectorEnv(task, num_envs=questions), seed=0)
    words = task.tokenizer.vocab_size
    policy_kwargs = {
        "model": TableLM(TableConfig(vocab_size=words)),
        "forbidden": range(ANSWERS, task.tokenizer.num_actions),
        "optimizer_class": torch.optim.SGD,
    }
    defaults = {
        "group_size": 1, "learning_rate": 32.0, "batch_size": 10_000, "max_grad_norm": 1e9,
        "instructions": INSTRUCTIONS, "seed": 0, "device": "cpu", "policy_kwargs": policy_kwargs,
    }  # fmt: skip
    agent = kind("CausalLMPolicy", env, **defaults | kwargs)
    agent.set_logger(Logger(None, []))
    return agent


def rounds(agent: HIR, count: int) -> HIR:
    """Sample and train `count` times."""
    for _ in range(count):
        agent.learn(1, reset_num_timesteps=False, log_interval=None)
    return agent


def scores_of(agent: HIR, goal: int) -> np.ndarray[Any, Any]:
    """Return the probability of each answer to each question under a goal, `(M, 8)`."""
    task: Table = agent.env.get_attr("task")[0]  # type: ignore[union-attr]
    prompts = np.pad(
        task.prompts(np.arange(len(task))), ((0, 0), (0, 1)), constant_values=task.tokenizer.pad_id
    )
    observation = {
        "observation": prompts,
        "desired_goal": np.full(len(task), goal),
        "achieved_goal": np.full(len(task), 2),
    }
    with torch.no_grad():
        distribution = agent.policy.get_distribution(agent.policy.obs_to_tensor(observation)[0])
    return np.asarray(distribution.distribution.probs[:, :ANSWERS])


def accuracy(agent: HIR, goal: int = 1) -> float:
    """Return how often the most probable answer under a goal is right."""
    task: Table = agent.env.get_attr("task")[0]  # type: ignore[union-attr]
    best = scores_of(agent, goal).argmax(axis=1)
    return float(task.gold[np.arange(len(task)), best].mean())


def tiny_t5(
    vocab_size: int, seed: int = 0, factor: float = 3.0, layers: int = 2, **kwargs: Any
) -> T5ForConditionalGeneration:
    """Return a T5 with random weights; the ids are those of a built-in tokenizer."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocab_size, d_model=16, d_kv=8, d_ff=32, num_layers=layers, num_heads=2,
        decoder_start_token_id=vocab_size - 3, pad_token_id=vocab_size - 3,
        eos_token_id=vocab_size - 4, initializer_factor=factor, **kwargs,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval()
