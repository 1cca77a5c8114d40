"""Wordle: the rule of the marks, the game, scripted players, the adversarial set, word lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_envs import DatasetError, Role, TokenEnv, TokenVectorEnv
from text_envs.tasks.wordle import Wordle
from text_envs.tasks.wordle.players import Player
from text_envs.tasks.wordle.words import (
    SOLVED,
    WordleTokenizer,
    as_letters,
    feedback,
    load_words,
    pattern_codes,
    pattern_table,
)

TOKENIZER = WordleTokenizer()
END = TOKENIZER.eos_id
WORDS = ["level", "lever", "never", "eerie", "crane", "crate", "trace", "react", "stone", "tones"]


def play(env: TokenEnv, guesses: list[str], end: bool = True) -> list[float]:
    """Write each guess and the end token; return what each guess earned."""
    earned = []
    for guess in guesses:
        tokens = TOKENIZER.encode(guess) + [END] * end
        rewards = [env.step(token)[1] for token in tokens]
        assert not any(rewards[:-1])
        earned.append(float(rewards[-1]))
    return earned


def shown(env: TokenEnv) -> str:
    return TOKENIZER.decode(env.engine.tokens[0])


def game(hidden: str, **kwargs: Any) -> TokenEnv:
    kwargs.setdefault("dataset", WORDS)
    env = TokenEnv(Wordle(split="all", **kwargs))
    env.reset(seed=0, options={"index": list(env.task.words).index(hidden)})
    return env


@pytest.mark.parametrize(
    ("guess", "target", "marks"),
    [
        ("eerie", "level", "🟨🟩⬜⬜⬜"),
        ("level", "eerie", "⬜🟩⬜🟨⬜"),
        ("speed", "erase", "🟨⬜🟨🟨⬜"),
        ("geese", "elder", "⬜🟨🟨⬜⬜"),
        ("allow", "llama", "🟨🟩🟨⬜⬜"),
        ("mamma", "maxim", "🟩🟩🟨⬜⬜"),
        ("crane", "crane", "🟩🟩🟩🟩🟩"),
        ("zzzzz", "crane", "⬜⬜⬜⬜⬜"),
    ],
)
def test_marks_by_hand(guess: str, target: str, marks: str) -> None:
    given = feedback(as_letters([guess]), as_letters([target]))[0] + TOKENIZER.grey
    assert TOKENIZER.decode(given.tolist()) == marks


def marks_step_by_step(guess: tuple[int, ...], target: tuple[int, ...]) -> list[int]:
    left = Counter(t for g, t in zip(guess, target, strict=True) if g != t)
    marks = []
    for g, t in zip(guess, target, strict=True):
        yellow = g != t and left[g] > 0
        left[g] -= yellow
        marks.append(2 if g == t else int(yellow))
    return marks


letters = st.tuples(*[st.integers(0, 3)] * 5)


@settings(max_examples=300, deadline=None)
@given(guess=letters, target=letters)
def test_marks_equal_the_rule_followed_letter_by_letter(guess: Any, target: Any) -> None:
    assert feedback(np.array(guess), np.array(target)).tolist() == marks_step_by_step(guess, target)


def test_marks_broadcast_and_fill_the_table() -> None:
    words = tuple(WORDS)
    table = pattern_table(words)
    each = as_letters(words)
    for i in range(len(words)):
        assert table[i].tolist() == pattern_codes(feedback(each[i], each)).tolist()
    assert (np.diag(table) == SOLVED).all()


def test_a_game_is_won() -> None:
    env = game("crane")
    assert env.observation_space.shape == (62,)
    assert play(env, ["trace"]) == [-1.0]
    assert shown(env) == "trace⬜🟩🟩🟨🟩"
    for token in TOKENIZER.encode("crane"):
        env.step(token)
    observation, reward, terminated, truncated, info = env.step(END)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info["finish_reason"] == "solved" and info["text"] == "trace⬜🟩🟩🟨🟩crane"
    assert info["reward_terms"] == {"task": 0.0}
    replies = observation[info["roles"] == Role.REPLY]
    assert TOKENIZER.decode(replies) == "⬜🟩🟩🟨🟩"
    assert (observation[info["roles"] == Role.ACTION] < env.action_space.n).all()


def test_six_wrong_guesses_lose_and_fill_the_row() -> None:
    env = game("crane")
    assert play(env, ["zzzzz"] * 6) == [-1.0] * 6
    assert not env.engine.running[0] and (env.engine.tokens[0] != TOKENIZER.pad_id).all()
    env = game("crane")
    assert play(env, ["zzzzz"] * 5 + ["crane"]) == [-1.0] * 5 + [0.0]


def test_malformed_guesses_cost_a_try_and_get_no_marks() -> None:
    env = game("crane")
    assert play(env, ["cran", ""]) == [-1.0, -1.0]
    assert play(env, ["cranes"], end=False) == [-1.0]  # the sixth letter ends the turn
    assert shown(env) == "cran✗✗cranes✗"
    assert env.engine.memory["tries"].tolist() == [3]
    assert play(env, ["crane"]) == [0.0]


def test_off_list_guesses() -> None:
    allowed, rejected = game("crane"), game("crane", off_list="reject")
    assert play(allowed, ["caner"]) == play(rejected, ["caner"]) == [-1.0]
    assert shown(allowed) == "caner🟩🟨🟨🟨🟨" and shown(rejected) == "caner✗"
    assert play(rejected, ["crate", "crane"]) == [-1.0, 0.0]


def test_auto_submit_needs_no_end_token() -> None:
    env = game("crane", auto_submit=True)
    assert env.observation_space.shape == (56,)
    assert play(env, ["trace"], end=False) == [-1.0]
    assert play(env, ["cra"]) == [-1.0]
    assert shown(env) == "trace⬜🟩🟩🟨🟩cra✗"
    assert play(env, ["crane"], end=False) == [0.0] and not env.engine.running[0]


def test_tries() -> None:
    env = game("crane", tries=2)
    assert env.observation_space.shape == (1 + 2 * 6 + 5,)
    assert play(env, ["zzzzz", "zzzzz"]) == [-1.0, -1.0] and not env.engine.running[0]


def test_resampled_targets_fit_the_marks_and_are_uniform() -> None:
    task = Wordle(split="all", dataset=WORDS, target="resample")
    env = TokenVectorEnv(task, num_envs=3000, autoreset_mode="DISABLED")
    start = WORDS.index("crane")
    env.reset(seed=1, options={"index": start})
    for token in [*TOKENIZER.encode("eerie"), END]:
        env.step(np.full(3000, token))
    # Marks of "eerie" against "crane" leave what has one e, at the end, and an r.
    fits = {"crane", "crate", "trace"}
    chosen = Counter(WORDS[index] for index in env.engine.memory["target"].tolist())
    assert set(chosen) == fits
    assert all(abs(count - 1000) < 5 * np.sqrt(3000 * 2 / 9) for count in chosen.values())
    for token in [*TOKENIZER.encode("crane"), END]:
        _, rewards, *_ = env.step(np.full(3000, token))
    assert abs((rewards == 0).sum() - 1000) < 5 * np.sqrt(3000 * 2 / 9)


def test_resampling_changes_no_expectation() -> None:
    fixed, resampled = Wordle(), Wordle(target="resample")
    for quality in ("expert", "suboptimal"):
        one = fixed.demonstrations(1500, quality=quality, seed=1).returns
        other = resampled.demonstrations(1500, quality=quality, seed=2).returns
        error = np.sqrt(one.var() / len(one) + other.var() / len(other))
        assert abs(one.mean() - other.mean()) < 4 * error


def test_off_list_guesses_narrow_too() -> None:
    env = game("crane", target="resample")
    play(env, ["caner"])
    assert [WORDS[i] for i in np.flatnonzero(env.engine.memory["fits"][0])] == ["crane"]
    play(env, ["xxx"])
    assert env.engine.memory["fits"][0].sum() == 1


def test_splits_share_no_word() -> None:
    parts = [
        {task.example(i).metadata["target"] for i in range(len(task))}
        for task in (Wordle(split=split) for split in ("train", "validation", "test"))
    ]
    assert [len(part) for part in parts] == [320, 40, 40]
    assert set.union(*parts) == set(load_words("small")) and len(Wordle(split="all")) == 400
    assert len(load_words("full")) == 3000 and set(load_words("small")) < set(load_words("full"))


def test_the_expert_gains_most_information_among_consistent_words() -> None:
    words = load_words("small")[::4]
    player, table = Player(words), pattern_table(words)
    target = 17
    history: Any = ()
    for _ in range(6):
        fitting = [
            w for w in range(len(words))
            if all(table[list(words).index(_word(g)), w] == code for g, code in history)
        ]  # fmt: skip
        assert player.consistent(history).tolist() == fitting and target in fitting
        chosen = player.best(history)
        gains = {w: _entropy(Counter(table[w, fitting].tolist())) for w in fitting}
        assert chosen in gains and gains[chosen] == pytest.approx(max(gains.values()))
        if chosen == target:
            return
        history += ((tuple(player.letters[chosen].tolist()), int(table[chosen, target])),)
    raise AssertionError("six informed guesses among a hundred words did not find it")


def _word(guess: tuple[int, ...]) -> str:
    return TOKENIZER.decode(guess)


def _entropy(counts: Counter[int]) -> float:
    shares = np.array(list(counts.values())) / counts.total()
    return float(-(shares * np.log(shares)).sum())


def test_scripted_players_in_order_of_strength() -> None:
    task = Wordle()
    means = {q: task.demonstrations(256, quality=q).returns.mean() for q in task.qualities}
    assert means["random"] == -6
    assert -6 <= means["wrong"] < -5.8 < means["repeat"] < means["mixed"] < -3.5
    assert means["suboptimal"] < -2.8 and means["expert"] > -2
    expert = Wordle(words="full").demonstrations(64)
    assert expert.returns.mean() > -3.1 and set(expert.finish_reasons) <= {"solved", "lost"}


def test_what_players_write() -> None:
    task = Wordle()
    wrong = task.demonstrations(40, quality="wrong", seed=1)
    player = Player(task.words)
    for row in wrong.tokens[:, 1:]:
        (history,) = player.histories(row[None], TOKENIZER)
        for turn in range(1, len(history)):
            guess = task.words.index(_word(history[turn][0]))
            assert guess not in player.consistent(history[:turn])
    repeat = task.demonstrations(40, quality="repeat", seed=1)
    for history in player.histories(repeat.tokens[:, 1:], TOKENIZER):
        guesses = [guess for guess, _ in history]
        assert all(guesses[turn] == guesses[turn % 2] for turn in range(len(guesses)))


def test_the_adversarial_set() -> None:
    task = Wordle()
    games = task.adversarial_set(20, seed=3)
    assert len(games) == 220 and Counter(games.kinds.tolist()) == {
        "expert": 20, "adversarial": 100, "suboptimal": 100,
    }  # fmt: skip
    means = games.mean_returns()
    assert means["adversarial"] == -6 < means["suboptimal"] < means["expert"] <= -2
    tokens, targets = games.demonstrations.tokens, games.demonstrations.example_indices
    for game_number in range(games.n):
        of_game = games.games == game_number
        assert of_game.sum() == 11 and len(set(targets[of_game])) == 1
        expert = tokens[of_game & (games.kinds == "expert")][0]
        for row in tokens[of_game & (games.kinds == "adversarial")]:
            assert np.array_equal(row[1:18], expert[1:18])  # two guesses and one reply
    again = task.adversarial_set(20, seed=3)
    assert np.array_equal(again.demonstrations.tokens, tokens)
    assert (games.demonstrations.roles[games.demonstrations.rewards != 0] == Role.ACTION).all()


def test_word_lists_of_your_own(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("CRANE\n\nstone \n", encoding="utf-8")
    assert Wordle(dataset=str(file), split="all").words == ("crane", "stone")
    assert Wordle(words=file, split="all").words == ("crane", "stone")
    assert Wordle(dataset=["crane"]).demonstrations(2).returns.tolist() == [0, 0]


def test_a_word_list_of_the_datasets_package(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"word": WORDS})
    data.save_to_disk(str(tmp_path / "saved"))
    assert Wordle(dataset=str(tmp_path / "saved"), split="all").words == tuple(WORDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"crane\nston\n", r"words\.txt, line 2: expected a word of 5 letters a to z, got 'ston'"),
        (b"crane\n\nna\xc3\xafve\n", r"line 3: expected a word of 5 letters"),
        (b"crane\nstone\nCrane\n", r"line 3: 'crane' stands at 1 already"),
        (b"crane\nst\xffne\n", r"line 2: not UTF-8"),
        (b"\n", r"words\.txt: no words"),
    ],
)
def test_malformed_word_lists(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        Wordle(dataset=file)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"target": "fix"}, "unknown target 'fix'.*Did you mean 'fixed'"),
        ({"off_list": "no"}, "unknown off_list 'no'"),
        ({"words": "smal"}, "unknown words 'smal'.*Did you mean 'small'"),
        ({"words": "missing.txt"}, "missing.txt: cannot read the file"),
        ({"words": "full", "dataset": ["crane"]}, "both choose the word list"),
        ({"tries": 0}, "tries must be an integer of at least 1, got 0"),
        ({"dataset": ["crane", "stone"], "split": "test"}, "split 'test' of 2 words is empty"),
        ({"dataset": ["crane", "toolong"]}, "list, item 2: expected a word"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wordle(**kwargs)


def test_adversarial_set_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="target='fixed'"):
        Wordle(target="resample").adversarial_set(1)
    with pytest.raises(ValueError, match="n must be at least 1"):
        Wordle().adversarial_set(0)
    with pytest.raises(ValueError, match="takes three guesses"):
        Wordle(dataset=["crane"], split="all").adversarial_set(1)
