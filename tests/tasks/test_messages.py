"""Prompts as messages: once through the chat template, from lists, files and data sets."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from chat_models import QUESTION, chat_tokenizer
from foreign import around

import text_envs
from text_envs.episodes.errors import DatasetError
from text_envs.tasks.generation import Generation
from text_envs.tasks.likelihood import LikelihoodContinuation
from text_envs.tasks.reasoning.counting import ObjectCounting
from text_envs.tasks.reasoning.sorting import WordSorting
from text_envs.tasks.reviews import Reviews
from text_envs.tasks.shared.data import load_examples
from text_envs.tokens.chat import Chat, as_messages

ANSWER = {"role": "assistant", "content": "the film"}
SYSTEM = {"role": "system", "content": "a b"}


def template_ids(hf: Any, messages: Any, **kwargs: Any) -> list[int]:
    given = {"add_generation_prompt": True} | kwargs
    return list(hf.apply_chat_template(messages, **given)["input_ids"])


def prompt_of(task: text_envs.Task, index: int = 0) -> list[int]:
    row = task.prompts(np.array([index]))[0]
    return row[row != task.tokenizer.pad_id].tolist()


@pytest.mark.parametrize("cls", [Generation, Reviews])
def test_messages_go_through_the_template_once(cls: Any) -> None:
    hf = chat_tokenizer()
    task = cls(dataset=[QUESTION, [SYSTEM, *QUESTION]], tokenizer=hf)
    for index, messages in enumerate((QUESTION, [SYSTEM, *QUESTION])):
        assert prompt_of(task, index) == template_ids(hf, messages)
    assert task.example(0).prompt == "a film?"  # what rewards read
    text = hf.decode(prompt_of(task, 1))
    assert text == "<|im_start|>system\na b<|im_end|>\n<|im_start|>user\na film?<|im_end|>\n" + (
        "<|im_start|>assistant\n"
    )


def test_no_begin_token_is_doubled() -> None:
    """A template that writes the begin token, of a tokenizer that puts one before every text."""
    hf = around(chat_tokenizer(bos_token="<|im_start|>"), "<|im_start|> $A")
    hf.chat_template = "<|im_start|>{{ messages[0]['content'] }}"
    start = hf.convert_tokens_to_ids("<|im_start|>")
    assert prompt_of(Generation(dataset=["a film?"], tokenizer=hf)).count(start) == 1
    ids = prompt_of(Generation(dataset=[QUESTION], tokenizer=hf))
    assert ids.count(start) == 1 and ids == template_ids(hf, QUESTION)
    hf.chat_template = "{{ messages[0]['content'] }}"  # which means: none
    assert start not in prompt_of(Generation(dataset=[QUESTION], tokenizer=hf))


ROWS: list[tuple[dict[str, Any], list[dict[str, str]], tuple[str, ...]]] = [
    ({"prompt": QUESTION}, QUESTION, ()),
    ({"prompt": QUESTION, "completion": [ANSWER]}, QUESTION, ("the film",)),
    ({"prompt": QUESTION, "chosen": [ANSWER], "rejected": [SYSTEM]}, QUESTION, ("the film",)),
    ({"prompt": QUESTION, "references": ["x"], "completion": [ANSWER]}, QUESTION, ("x",)),
    ({"messages": [*QUESTION, ANSWER]}, QUESTION, ("the film",)),
    ({"messages": QUESTION, "source": "s"}, QUESTION, ()),
]


@pytest.mark.parametrize("kind", ["list", "jsonl", "json", "parquet", "datasets", "pandas"])
@pytest.mark.parametrize(("row", "prompt", "references"), ROWS)
def test_conversational_rows(
    kind: str, row: Any, prompt: Any, references: Any, tmp_path: Path
) -> None:
    data: Any = [row]
    if kind in ("jsonl", "json"):
        data = tmp_path / f"d.{kind}"
        data.write_text(json.dumps(row if kind == "jsonl" else [row]))
    elif kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        data = tmp_path / "d.parquet"
        parquet.write_table(pyarrow.Table.from_pylist([row]), data)
    elif kind == "datasets":
        data = pytest.importorskip("datasets").Dataset.from_list([row])
    elif kind == "pandas":
        data = pytest.importorskip("pandas").DataFrame([row])
    example = load_examples(data)[0]
    assert isinstance(example.prompt, Chat)
    assert [dict(m) for m in example.prompt.messages] == prompt
    assert example.references == references
    assert example.metadata.get("source") == row.get("source")


def test_an_unfinished_answer_is_continued() -> None:
    hf = chat_tokenizer()
    messages = [*QUESTION, {"role": "assistant", "content": "the fi"}]
    ids = prompt_of(Generation(dataset=[{"prompt": messages}], tokenizer=hf))
    wanted = template_ids(hf, messages, add_generation_prompt=False, continue_final_message=True)
    assert ids == wanted and hf.decode(ids).endswith("assistant\nthe fi")


def test_messages_as_plain_arguments_and_whole_episodes() -> None:
    env = gym.make(
        "text_envs/Generation-v0", dataset=[{"messages": [*QUESTION, ANSWER]}],
        tokenizer=chat_tokenizer(), reward="length",
    ).unwrapped  # fmt: skip
    observation, _ = env.reset(seed=0)
    tokenizer = env.tokenizer
    for token in [*tokenizer.encode("film"), tokenizer.eos_id]:
        _, _, terminated, _, info = env.step(token)
    assert terminated and info["text"] == "film"
    demonstrations = env.task.demonstrations(1)
    assert tokenizer.decode(demonstrations.tokens[0, env.task.prompt_length :]) == "the film"
    chat = env.task.example(0).prompt
    for again in (copy.deepcopy(chat), pickle.loads(pickle.dumps(chat))):
        assert again == chat and again.messages == chat.messages
    assert env.task.prompt_length == int((observation != tokenizer.pad_id).sum())


def test_questions_of_the_reasoning_ids() -> None:
    hf = chat_tokenizer()
    plain = WordSorting(num_examples=3)
    task = WordSorting(num_examples=3, tokenizer=hf, chat=True)
    for index in range(3):
        asked = [{"role": "user", "content": plain.example(index).prompt}]
        assert prompt_of(task, index) == template_ids(hf, asked)
        assert task.example(index).references == plain.example(index).references
    rows = [
        {"input": [{"role": "user", "content": f"a {i}?"}], "target_scores": {"x": 1, "y": 0}}
        for i in range(4)
    ]
    read = ObjectCounting(dataset=rows, tokenizer=hf, split="all")
    shown = [{"role": "user", "content": read.example(0).prompt}]
    assert prompt_of(read, 0) == template_ids(hf, shown) and "(a) " in read.example(0).prompt
    rows = [{"messages": [*QUESTION, ANSWER]}, {"prompt": QUESTION, "target": "no"}]
    read = ObjectCounting(dataset=rows, tokenizer=hf, split="all")
    assert [read.example(i).references for i in range(2)] == [("the film",), ("no",)]
    with pytest.raises(ValueError, match="needs a chat template, and WordTokenizer"):
        WordSorting(num_examples=3, chat=True)


def test_texts_as_what_a_user_says() -> None:
    hf = chat_tokenizer()
    for cls in (Generation, Reviews):
        task = cls(dataset=["a film?", QUESTION], tokenizer=hf, chat=True)
        assert prompt_of(task, 0) == prompt_of(task, 1) == template_ids(hf, QUESTION)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[]], "list, item 1"),
        ([[{"role": "user"}]], "item 1: message 0 must have a text as 'content', got"),
        ([[{"role": 3, "content": "x"}]], "item 1: message 0 must have a text as 'role'"),
        ([[{"role": "", "content": "x"}]], "message 0 has an empty role"),
        ([{"prompt": [{"content": "x"}]}], "field 'prompt': message 0 must have a text as 'role'"),
        ([{"prompt": ["x"]}], "field 'prompt': message 0 must be a mapping, got 'x'"),
        ([{"prompt": []}], "field 'prompt': messages must be a list of mappings, got an empty"),
        ([{"prompt": {"role": "user", "content": "x"}}], "field 'prompt' must be a text, got {"),
        ([{"messages": [ANSWER]}], "field 'messages' has an answer and no question"),
        ([{"prompt": QUESTION, "completion": QUESTION}], "must end with a message of the assist"),
        (
            QUESTION,
            r"item 1: a single message, .* accepted: a list of prompts, each a list of mess",
        ),
        ([{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}], "a text as 'content'"),
    ],
)
def test_what_is_no_conversation_is_named(data: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Generation(dataset=data, tokenizer=chat_tokenizer())


def test_tokenizers_without_a_template_and_templates_that_refuse(saved: Any = None) -> None:
    bare = chat_tokenizer()
    bare.chat_template = None
    for tokenizer, named in (
        (bare, "the tokenizer TokenizersBackend|PreTrained"),
        ("reviews", "WordT"),
    ):
        with pytest.raises(
            DatasetError, match=f"list, prompt 0: .*needs a chat template.*({named})"
        ):
            Generation(dataset=[QUESTION], tokenizer=tokenizer)
        with pytest.raises(ValueError, match="needs a chat template"):
            Reviews(dataset=[QUESTION], tokenizer=tokenizer, prompt_length=30, max_unknown=1)
    strict = chat_tokenizer()
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DatasetError, match=r"refuses messages of the roles \['user'\]: roles must"):
        Generation(dataset=[QUESTION], tokenizer=strict)
    padded = chat_tokenizer()
    padded.chat_template = "<pad>{{ messages[0]['content'] }}"
    with pytest.raises(DatasetError, match="writes its padding, '<pad>'"):
        Generation(dataset=[QUESTION], tokenizer=padded)
    with pytest.raises(ValueError, match="opening_words=3 cuts texts .* prompts of messages"):
        Reviews(dataset=[QUESTION], tokenizer=chat_tokenizer(), opening_words=3)
    with pytest.raises(TypeError, match="IncreasingNumbers.*dataset"):
        gym.make("text_envs/IncreasingNumbers-v0", dataset=[QUESTION])
    with pytest.raises(ValueError, match="messages must be a list of mappings, got 'x'"):
        as_messages("x")


def test_a_template_cannot_reach_python(tmp_path: Path) -> None:
    hostile = chat_tokenizer()
    hostile.chat_template = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__ }}"
    )
    with pytest.raises(DatasetError, match="refuses messages"):
        Generation(dataset=[QUESTION], tokenizer=hostile)


# -- columns ------------------------------------------------------------------------------------


def test_columns_are_found_from_the_data(caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        assert Reviews().prompt_length == 8
        assert Reviews(dataset=["a film"]).prompt_length == 8
        longer = ["the film is a story of the film and a story", "a film"]
        task = Reviews(dataset=longer)
    assert task.prompt_length == len(task.tokenizer.encode_prompt(longer[0])) == 12
    assert "list: prompt_length=12, found from 2 prompts of up to 12 tokens" in caplog.text
    assert Reviews(dataset=longer, prompt_length=15).prompt_length == 15
    assert Reviews(dataset=longer, truncate_prompts=True).prompt_length == 8
    with pytest.raises(ValueError, match="prompt 0 has 12 tokens, 3 more than prompt_length=9"):
        Reviews(dataset=longer, prompt_length=9)


@pytest.mark.parametrize("cls", [Generation, Reviews])
def test_prompts_far_longer_than_the_others_are_left_out_and_said(cls: Any, caplog: Any) -> None:
    data = ["the film " * n for n in [5] * 60 + [9] * 39 + [100]]
    with caplog.at_level(logging.INFO):
        task = cls(dataset=data)
    assert task.prompt_length == 19 and len(task) == 99
    assert (
        "prompt_length=19, found from 100 prompts; 1 longer ones, up to 201 tokens, are left"
        in (caplog.text)
    )
    assert len(cls(dataset=data, prompt_length=201)) == 100
    kept = cls(dataset=data, truncate_prompts=True)
    assert len(kept) == 100 and kept.prompt_length == (19 if cls is Generation else 8)
    assert cls(dataset=data[:-1] + ["the film " * 18]).prompt_length == 37  # not so far


def test_other_ids_with_prompts_find_theirs() -> None:
    task = LikelihoodContinuation(dataset=["the film is a story of the film"])
    assert task.prompt_length == 9 and LikelihoodContinuation().prompt_length == 8
