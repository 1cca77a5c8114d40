"""Where a text ends: stop strings over tokens that straddle them, and several end tokens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from chat_models import END, OVER, chat_folder, chat_tokenizer
from foreign import all_kinds, byte_level
from helpers import Echo

import text_envs
from text_envs import Example, Task, TokenVectorEnv
from text_envs.guides import complete
from text_envs.tasks.reasoning.sorting import WordSorting
from text_envs.testing import check_env_id, check_task
from text_envs.tokens import CharTokenizer, HFTokenizer, WordTokenizer, load_tokenizer
from text_envs.tokens.stopping import StopStrings, as_stop, stop_strings

ID = "text_envs/Generation-v0"
LENGTH = "length"


def make(stop: Any, tokenizer: Any, max_tokens: int = 12, n: int = 1) -> TokenVectorEnv:
    task = Task(
        [Example("a")], tokenizer=tokenizer, prompt_length=4, max_tokens=max_tokens, stop=stop
    )
    env = TokenVectorEnv(task, num_envs=n, reward=LENGTH)
    env.reset(seed=0)
    return env


def play(env: TokenVectorEnv, tokens: list[int]) -> tuple[int, dict[str, Any]]:
    """Return after how many tokens the first row ended, and its info."""
    for count, token in enumerate(tokens, 1):
        _, _, terminated, truncated, infos = env.step(np.array([token]))
        assert not truncated.any()
        if terminated[0]:
            return count, infos
    return 0, {}


@pytest.mark.parametrize(
    "kind", [k for k, hf in all_kinds().items() if "bytes" in k or "byte" in k]
)
@pytest.mark.parametrize("stop", [".", "film", "m i", " is a", "\n\n", "世界", "e", "🙂 o"])
def test_a_text_ends_at_the_first_token_that_completes_a_stop_string(kind: str, stop: str) -> None:
    """Against decoding everything after every token, in many texts and ways to spell them."""
    tokenizer = load_tokenizer(all_kinds()[kind], add_padding=True)
    stops = StopStrings(tokenizer, (stop,))
    rng = np.random.default_rng(0)
    texts = ["the film is a\n\nend.", "世界 naïve 🙂 ok film.", "a film is a film is"]
    for _ in range(40):
        ids = tokenizer.encode(str(rng.choice(texts)))
        at = int(rng.integers(len(ids)))
        ids[at:at] = rng.choice(np.flatnonzero(~tokenizer.forbidden), 3).tolist()
        found = wanted = None
        row = np.array([ids])
        for end in range(1, len(ids) + 1):
            asked = stops.complete(row, np.zeros(1, int), np.array([end]))[0]
            found = end if found is None and asked else found
            wanted = end if wanted is None and stop in tokenizer.decode(ids[:end]) else wanted
        assert found == wanted, tokenizer.decode(ids)


def test_a_stop_string_over_several_tokens_and_behind_a_part_of_one() -> None:
    letters = CharTokenizer("abc. ")
    env = make("b.c", letters)
    count, infos = play(env, letters.encode("abb.ca"))
    assert count == 5 and infos["finish_reason"][0] == "stop"
    assert infos["text"][0] == "abb.c"  # the stop string stays
    words = byte_level("<|end|>", eos_token="<|end|>", texts=["stop. now"] * 9)
    tokenizer = load_tokenizer(words, add_padding=True)
    whole = [i for i in range(tokenizer.num_actions) if tokenizer.decode([i]) == " now"]
    assert whole, "the tokenizer has the word in one token"
    count, infos = play(make("n", tokenizer), [*tokenizer.encode("stop."), *whole])
    assert infos["text"][0] == "stop. now"  # what the last token has behind it, too
    words = WordTokenizer(["the", "end", ".", "is"])
    count, infos = play(make(["end."], words), words.encode("the end is the end . the"))
    assert count == 6 and infos["text"][0] == "the end is the end."


def test_only_rows_that_might_end_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = CharTokenizer("abcdefgh.")
    env = make("g.", tokenizer, max_tokens=20, n=64)
    asked = []
    plain = StopStrings.ends
    monkeypatch.setattr(StopStrings, "ends", lambda s, t: asked.append(len(t)) or plain(s, t))
    rng = np.random.default_rng(0)
    for _ in range(6):
        env.step(rng.integers(0, 6, 64))
    for letter in "fg":
        env.step(np.full(64, tokenizer.encode(letter)[0]))
    assert not asked
    _, _, terminated, _, _ = env.step(np.full(64, 8))
    assert terminated.all() and len(asked) == 64 and max(asked) <= 4  # a window of the last tokens


def test_single_and_vector_environments_stop_alike() -> None:
    tokenizer = CharTokenizer("ab.")
    kwargs = {"dataset": ["a", "b"], "tokenizer": tokenizer, "stop": ["a.", "bb"], "max_tokens": 8}
    single = gym.make(ID, reward=LENGTH, **kwargs).unwrapped
    batch = gym.make_vec(ID, num_envs=1, reward=LENGTH, **kwargs).unwrapped
    rng = np.random.default_rng(1)
    ends = 0
    for seed in range(30):
        one, _ = single.reset(seed=seed)
        many, _ = batch.reset(seed=seed)
        done = False
        while not done:
            assert (one == many[0]).all()
            token = int(rng.integers(3))
            one, paid, done, _, info = single.step(token)
            many, wages, over, _, infos = batch.step(np.array([token]))
            assert done == over[0] and paid == wages[0]
        assert info["finish_reason"] == infos["finish_reason"][0]
        by_string = info["text"].endswith(("a.", "bb"))
        assert by_string == (info["finish_reason"] == "stop")
        ends += by_string
    assert ends > 20
    spec = gym.make(ID, dataset=["a"], stop=["."], reward=LENGTH).spec
    again = gym.make(gym.envs.registration.EnvSpec.from_json(spec.to_json()))
    assert again.unwrapped.task.stops.strings == (".",)


def test_a_saved_state_goes_on_within_a_stop_string() -> None:
    tokenizer = CharTokenizer("ab.")
    env = make("ab.", tokenizer, n=2)
    for row in ((0, 1), (1, 0)):
        env.step(np.array(row))
    state = env.get_state()
    for other in (env, copy.deepcopy(env), make("ab.", tokenizer, n=2)):
        other.set_state(state)
        assert not other.step(np.array([2, 1]))[2][1]
    assert env.engine.tokens[0, 4:7].tolist() == [0, 1, 2] and not env.engine.running[0]
    with pytest.raises(ValueError, match="prefix .* ends the episode at its token 2"):
        env.reset(options={"prefix": [0, 1, 2, 0]})
    env.reset(options={"prefix": [0, 1]})
    assert env.step(np.array([2, 2]))[2].all()


def test_a_stop_string_ends_a_turn() -> None:
    task = Echo()
    task.stops = stop_strings(task.tokenizer, "hello yes", 12)
    env = TokenVectorEnv(task, num_envs=1)
    env.reset(seed=0)
    say, hello, yes = (task.tokenizer.encode(word)[0] for word in ("say", "hello", "yes"))
    for token, turns in ((say, 0), (hello, 0), (yes, 1), (yes, 1)):
        _, reward, *_ = env.step(np.array([token]))
        assert env.engine.memory["turns"][0] == turns
    assert reward[0] == 0


def test_guides_stop_there_too() -> None:
    tokenizer = CharTokenizer("ab.")
    env = make("b.", tokenizer, n=8)
    done = complete(env, env.get_state(), lambda query: ["aab.ab."] * len(query))
    assert {tokenizer.decode(t.tolist()) for t in done.tokens[:, 4:]} == {"aab."}
    flat = text_envs.policies.uniform(env.task)
    done = complete(env, env.get_state(), flat, seed=0)
    for tokens, reason in zip(done.tokens[:, 4:], done.finish_reasons, strict=True):
        text = tokenizer.decode(tokens.tolist())
        assert text.find("b.") in (-1, len(text) - 2)
        assert not text.endswith("b.") or reason == "stop"


@pytest.mark.parametrize(
    ("stop", "error", "message"),
    [
        ("", ValueError, "stop holds an empty text"),
        (["a", ""], ValueError, r"stop holds an empty text, .*\['a', ''\]"),
        (3, TypeError, "stop must be a text or a list of texts, got 3"),
        ([3], TypeError, r"stop must be a text or a list of texts, got 3 in \[3\]"),
        (None, TypeError, "stop must be a text or a list of texts, got None"),
        (b"x", TypeError, "stop must be a text or a list of texts, got b'x'"),
        ("abababab", ValueError, "'abababab' has 8 tokens, and a text has at most 5"),
        ("a!", ValueError, "stop string 'a!' ends with what no token of CharTokenizer"),
    ],
)
def test_bad_stop_strings_are_named(stop: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        gym.make(
            ID, dataset=["a"], tokenizer=CharTokenizer("ab."), stop=stop, max_tokens=5,
            reward=LENGTH,
        )  # fmt: skip
    assert as_stop("x") == as_stop(["x", "x"]) == ("x",)


@pytest.mark.parametrize("task", ["generation:Generation", "reviews:Reviews", "sorting"])
def test_tasks_keep_the_contract_with_stop_strings(task: str) -> None:
    if task == "sorting":
        letters = CharTokenizer("abcdefghijklmnopqrstuvwxyz:,. ")
        check_task(
            "text_envs.tasks.reasoning.sorting:WordSorting", tokenizer=letters, stop=["."],
            max_tokens=30, num_examples=5,
        )  # fmt: skip
    else:
        check_task(f"text_envs.tasks.{task}", stop=[".", "the film"])


def test_an_answer_is_right_without_its_stop_string() -> None:
    tokenizer = load_tokenizer(chat_tokenizer())
    task = WordSorting(tokenizer=tokenizer, stop="\n", max_tokens=80, num_examples=4)
    env = TokenVectorEnv(task, num_envs=1)
    env.reset(options={"index": 2})
    for token in tokenizer.encode(task.example(2).references[0] + "\n"):
        _, reward, terminated, _, infos = env.step(np.array([token]))
    assert terminated[0] and infos["finish_reason"][0] == "stop" and reward[0] == 1.0


# -- several end tokens -------------------------------------------------------------------------


def test_every_end_token_of_a_chat_model_ends_a_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(chat_folder(tmp_path))
    over, end = (tokenizer.hf.convert_tokens_to_ids(word) for word in (OVER, END))
    assert tokenizer.eos_ids == (over, end) and tokenizer.eos_id == over
    word = tokenizer.encode("film")
    for last in tokenizer.eos_ids:
        env = make((), tokenizer)
        count, infos = play(env, [*word, last])
        assert count == len(word) + 1 and infos["finish_reason"][0] == "stop"
        assert infos["text"][0] == "film"
        assert env.engine.tokens[0, 4 + len(word)] == last  # the id that was chosen stays
    assert load_tokenizer(chat_tokenizer()).eos_ids == (over,)
    given = HFTokenizer(chat_tokenizer(), ends=[END])
    assert given.eos_ids == tokenizer.eos_ids and given == tokenizer
    with pytest.raises(ValueError, match="ends has '<x>', which is no token"):
        HFTokenizer(chat_tokenizer(), ends=["<x>"])


def test_the_contract_holds_with_several_ends_and_stop_strings(tmp_path: Path) -> None:
    folder = str(chat_folder(tmp_path))
    kwargs = {
        "dataset": ["a film", "the"], "tokenizer": folder, "stop": ["film.", "\n"],
        "max_tokens": 9, "reward": LENGTH,
    }  # fmt: skip
    check_env_id(ID, **kwargs)
