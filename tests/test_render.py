"""Pictures of episodes: text, images, videos, pages, and the scores they show."""

from __future__ import annotations

import doctest
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import SENTENCES, Echo
from hypothesis import given
from hypothesis import strategies as st

import text_envs
from text_envs import render
from text_envs.core.task import Task
from text_envs.envs.goal import GoalTokenEnv
from text_envs.episodes.errors import RewardModelError
from text_envs.episodes.types import Example, Role
from text_envs.render import cells, colours, glyphs, heatmap, page_style, write_gif
from text_envs.render.cells import END, cells_of_row, split_text
from text_envs.render.colours import PROMPT, mix
from text_envs.tasks.toy import Toy
from text_envs.tokenizers import CharTokenizer, WordTokenizer, load_tokenizer
from text_envs.tokens.spelling import Speller

Image = pytest.importorskip("PIL.Image", reason="images need Pillow")

A, B, STOP = 0, 1, 2  # of Toy
SAY, HELLO, BYE, END_TURN = 0, 1, 2, 4  # of Echo


class Letters(Task):
    """A long text of letters without a space."""

    reward = staticmethod(lambda episodes: np.ones(len(episodes)))

    def __init__(self) -> None:
        super().__init__(
            [Example("w")], tokenizer=CharTokenizer("wi"), prompt_length=2, max_tokens=600
        )


# -- spelling -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 29), max_size=12))
def test_spelled_words_make_the_decoded_text(ids: list[int]) -> None:
    words = sorted(
        {word for sentence in SENTENCES for word in sentence.split()} | {",", ".", "n't"}
    )
    tokenizer = WordTokenizer(words)
    assert len(words) >= 30
    pieces = Speller(tokenizer).pieces(ids)
    assert "".join(pieces) == tokenizer.decode(ids)


def test_spelled_subwords_make_the_decoded_text(bpe_tokenizer: Any) -> None:
    tokenizer = load_tokenizer(bpe_tokenizer)
    speller = Speller(tokenizer)
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence + "\nand a line")
        found = cells_of_row(speller, ids, [int(Role.ACTION)] * len(ids))
        spelled = "".join(
            cell.lead + cell.text.replace("\u21b5", "").replace("\u2423", " ") + cell.tail
            for cell in found
        )
        assert spelled == sentence + "\nand a line"
        assert all(split_text(cell.text) == ("", cell.text, "") for cell in found)


def test_ends_are_visible_and_padding_is_not() -> None:
    speller = Speller(Toy().tokenizer)
    found = cells_of_row(speller, [4, 0, 2, 3], [1, 3, 3, 0])
    assert [(cell.column, cell.text) for cell in found] == [(1, "a"), (2, END)]
    assert [cell.text for cell in cells_of_row(speller, [4], [3])] == [cells.SPECIAL]


# -- scores ---------------------------------------------------------------------------------------


def test_rewards_are_kept_by_column_and_sum_to_the_return() -> None:
    env = text_envs.TokenVectorEnv(Echo(), num_envs=4, render_mode="ansi")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    totals, ended = np.zeros(4), 0
    for _ in range(60):
        restarting = ~env.engine.running
        columns = env.engine.position.copy()
        actions = rng.integers(5, size=4)
        _, rewards, _, _, infos = env.step(actions)
        totals = np.where(restarting, 0.0, totals + rewards)
        record = env.engine.record
        assert record is not None
        np.testing.assert_array_equal(record.rewards.sum(axis=1), totals)
        for row in np.flatnonzero(~restarting):
            assert record.rewards[row, columns[row]] == rewards[row]
            assert env.engine.tokens[row, columns[row]] == actions[row]
        if "finish_reason" in infos:
            which = infos["_finish_reason"]
            assert [record.finish_reasons[row] for row in np.flatnonzero(which)] == list(
                infos["finish_reason"][which]
            )
            ended += int(which.sum())
    assert ended > 5


def test_a_prefix_earns_nothing_on_the_picture() -> None:
    env = text_envs.TokenEnv(Echo(), render_mode="ansi")
    env.reset(seed=0, options={"prefix": [SAY, END_TURN]})  # the turn was not the agent's
    assert env.engine.record is not None and not env.engine.record.rewards.any()


def test_without_a_render_mode_nothing_is_kept() -> None:
    env = text_envs.TokenEnv(Toy())
    env.reset(seed=0)
    env.annotate("value", 1.0)
    assert env.engine.record is None and env.render_score == "reward"
    with pytest.raises(ValueError, match="render_score 'value' needs pictures"):
        env.render_score = "value"


def test_one_number_belongs_to_the_token_that_is_written_next() -> None:
    env = text_envs.TokenEnv(Toy(), render_mode="rgb_array")
    env.reset(seed=0)
    for value, token in ((0.25, A), (-0.5, B)):
        env.annotate("value", value)
        env.step(token)
    record = env.engine.record
    assert record is not None
    np.testing.assert_array_equal(record.scores["value"], [[np.nan, 0.25, -0.5, np.nan]])
    env.annotate("Q", [np.nan, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(record.scores["Q"][0], [np.nan, 1.0, 2.0, 3.0])
    env.step(STOP)
    env.annotate("value", 9.0)  # the episode is over: there is no next token
    assert np.nanmax(record.scores["value"]) == 0.25
    env.reset()
    assert np.isnan(record.scores["value"]).all() and not record.rewards.any()
    assert record.finish_reasons == [""]


def test_rows_of_a_batch_keep_scores_of_their_own() -> None:
    env = text_envs.TokenVectorEnv(Toy(), num_envs=3, render_mode="ansi")
    env.reset(seed=0)
    env.annotate("KL", [1.0, 2.0, 3.0])
    env.step(np.array([STOP, A, A]))
    env.annotate("KL", [7.0, 4.0, 5.0])  # row 0 has ended
    record = env.engine.record
    assert record is not None
    expected = [[np.nan, 1, np.nan, np.nan], [np.nan, 2, 4, np.nan], [np.nan, 3, 5, np.nan]]
    np.testing.assert_array_equal(record.scores["KL"], expected)
    env.step(np.array([A, A, A]))  # row 0 starts again
    np.testing.assert_array_equal(record.scores["KL"][0], [np.nan] * 4)
    np.testing.assert_array_equal(record.scores["KL"][1:], expected[1:])


@pytest.mark.parametrize("values", [1.0, [1.0], [[1.0] * 4], [1.0] * 4])
def test_scores_of_another_shape_are_refused(values: Any) -> None:
    env = text_envs.TokenVectorEnv(Toy(), num_envs=2, render_mode="ansi")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"score 'Q' has shape .*; accepted: \(2,\).*\(2, 4\)"):
        env.annotate("Q", values)
    with pytest.raises(ValueError, match="'reward' is what the environment paid"):
        env.annotate("reward", [1.0, 2.0])


def test_a_failed_step_leaves_the_scores_as_they_were() -> None:
    env = text_envs.TokenEnv(Toy(), render_mode="ansi", reward=lambda episodes: 1 / 0)
    env.reset(seed=0)
    with pytest.raises(RewardModelError):
        env.step(STOP)
    record = env.engine.record
    assert record is not None and not record.rewards.any() and record.finish_reasons == [""]


def test_a_restored_state_starts_without_scores() -> None:
    env = text_envs.TokenEnv(Echo(), render_mode="ansi")
    env.reset(seed=0)
    env.step(HELLO)
    state = env.get_state()
    env.annotate("value", 1.0)
    env.step(END_TURN)
    env.set_state(state)
    record = env.engine.record
    assert record is not None and not record.rewards.any()
    assert np.isnan(record.scores["value"]).all()


# -- text -----------------------------------------------------------------------------------------


def test_a_dialogue_in_a_terminal() -> None:
    env = text_envs.TokenEnv(Echo(), render_mode="ansi")
    env.reset(seed=0, options={"index": 0})
    for token in (HELLO, END_TURN, BYE):
        env.step(token)
    reply = env.render().split("\n")[2]
    assert reply in ("yes", "yes hello")
    assert env.render() == f"\x1b[2msay\x1b[0m\n\x1b[1mhello\x1b[0m\n{reply}\n\x1b[1mbye\x1b[0m"
    env.step(END_TURN)
    assert env.render().endswith("bye\x1b[0m <end> (bye, reward -1.00)")
    plain = render.ansi(env.engine, 0, colour=False)
    assert plain == f"[say]\nhello\n<{reply}>\nbye <end> (bye, reward -1.00)"


def test_tokens_given_in_advance_are_underlined_in_a_terminal() -> None:
    env = text_envs.TokenEnv(Toy(), render_mode="ansi")
    assert env.render() == ""  # before the first reset
    env.reset(seed=0, options={"prefix": [A]})
    env.step(B)
    assert env.render() == "\x1b[1;4ma\x1b[0m \x1b[1mb\x1b[0m"
    assert render.ansi(env.engine, 0, colour=False) == "{a} b"


# -- images ---------------------------------------------------------------------------------------


def _pixels(image: Any, colour: Any) -> int:
    return int((image[: heatmap._FOOT] == np.array(colour, dtype=np.uint8)).all(axis=2).sum())


def test_a_token_stands_on_the_colour_of_the_chosen_score() -> None:
    env = text_envs.TokenEnv(Toy(), render_mode="rgb_array")
    env.reset(seed=0)
    for value, token in ((0.5, A), (-0.5, B), (0.25, STOP)):
        env.annotate("value", value)
        env.step(token)
    paid = env.render()
    assert _pixels(paid, mix(1.5 / 1.5)) > 100 and _pixels(paid, mix(-1.0)) == 0
    env.render_score = "value"
    shown = env.render()
    for strength in (1.0, -1.0, 0.5):
        assert _pixels(shown, mix(strength)) > 100
    env.render_score = "Q"  # nobody has told it: no colours, and no error
    assert _pixels(env.render(), mix(1.0)) == 0


@pytest.mark.parametrize("name", ["Reviews-v0", "Wordle-v0", "Maze-v0", "WordSortingGoal-v0"])
def test_every_step_changes_an_image_of_the_same_shape(name: str) -> None:
    env = gym.make(f"text_envs/{name}", render_mode="rgb_array")
    env.action_space.seed(0)
    env.reset(seed=0)
    frames, finished = [env.render()], False
    while not finished and len(frames) < 40:
        _, _, finished, _, _ = env.step(env.action_space.sample())
        frames.append(env.render())
    assert {frame.shape for frame in frames} == {(360, 640, 3)} and frames[0].dtype == np.uint8
    assert all((a != b).any() for a, b in zip(frames, frames[1:], strict=False))
    if name != "Wordle-v0":  # which has no prompt
        assert _pixels(frames[-1], PROMPT) > 0


def test_long_texts_are_wrapped_within_the_margins_and_scrolled() -> None:
    env = text_envs.TokenEnv(Letters(), render_mode="rgb_array")
    env.reset(seed=0)
    for step in range(600):
        env.step(step % 2)
        if step == 100:
            early = env.render()
    late = env.render()
    for image in (early, late):
        assert (image[:, :18] == 255).all() and (image[: heatmap._FOOT, -16:] == 255).all()
    inked = (late[: heatmap._FOOT].min(axis=2) < 128).any(axis=1)
    assert inked[-40:].any() and inked[18:50].any()  # full to the last line
    assert not (early[:16] != 255).any() and (late[:16] != 255).any()  # dots: something is above


def test_images_of_a_batch() -> None:
    env = gym.make_vec("text_envs/Toy-v0", num_envs=2, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.array([A, B]))
    first, second = env.render()
    assert first.shape == (360, 640, 3) and (first != second).any()
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=2, render_mode="rgb_array")
    venv.reset()
    assert [image.shape for image in venv.get_images()] == [(360, 640, 3)] * 2  # type: ignore[union-attr]


def test_squares_of_word_games_are_drawn() -> None:
    image = np.full((40, 40, 3), 255, dtype=np.uint8)
    glyphs.stamp(image, (5, 5), "\N{LARGE GREEN SQUARE}", 17, (0, 0, 0))
    assert (image == glyphs.SQUARES["\N{LARGE GREEN SQUARE}"]).all(axis=2).sum() > 150
    assert (image[:5] == 255).all() and (image[:, 22:] == 255).all()


def test_letters_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert glyphs._font.__wrapped__(14).getlength("word") > 10


def test_pillow_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"write_gif needs Pillow: pip install 'text_envs\[video"):
        write_gif(tmp_path / "x.gif", [np.zeros((4, 4, 3), dtype=np.uint8)])


# -- files ----------------------------------------------------------------------------------------


def test_a_gif_has_one_frame_a_token_and_can_be_read_back(tmp_path: Path) -> None:
    env = gym.make("text_envs/Reviews-v0", render_mode="rgb_array")
    env.action_space.seed(1)
    env.reset(seed=1)
    frames, finished = [env.render()], False
    while not finished:
        _, _, finished, _, _ = env.step(env.action_space.sample())
        frames.append(env.render())
    path = tmp_path / "deep" / "episode.gif"
    write_gif(path, frames, fps=5, hold=1.0)
    assert [file.name for file in path.parent.iterdir()] == ["episode.gif"]
    with Image.open(path) as gif:
        assert gif.n_frames == len(frames) and gif.info["loop"] == 0
        shown, durations = [], []
        for number in range(gif.n_frames):
            gif.seek(number)
            durations.append(gif.info["duration"])
            shown.append(np.asarray(gif.convert("RGB")).astype(int))
    assert durations == [200] * (len(frames) - 1) + [1200]
    for read, frame in zip(shown, frames, strict=True):
        difference = np.abs(read - frame)  # 256 colours, the frequent ones exact
        assert difference.mean() < 0.2
        assert (read[(frame == 255).all(axis=2)] == 255).all()


@pytest.mark.parametrize("fps", [0, -1, 51, float("nan")])
def test_a_gif_refuses_a_speed_that_it_cannot_have(fps: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fps must be in \(0, 50\], got"):
        write_gif(tmp_path / "x.gif", [np.zeros((4, 4, 3), dtype=np.uint8)], fps)


def test_a_gif_needs_frames_of_one_shape(tmp_path: Path) -> None:
    for frames in ([], [np.zeros((4, 4, 3))] + [np.zeros((5, 4, 3))], [np.zeros((4, 4))]):
        with pytest.raises(ValueError, match="frames must be images of one shape"):
            write_gif(tmp_path / "x.gif", frames)
    assert not os.listdir(tmp_path)


@pytest.mark.filterwarnings("ignore:.*invalid escape sequence")  # in moviepy's source
@pytest.mark.parametrize("name", ["Reviews-v0", "WordSortingGoal-v0"])
def test_record_video(name: str, tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="videos need moviepy: pip install 'text_envs[video]'")
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="moviepy calls it")
    env = gym.wrappers.RecordVideo(
        gym.make(f"text_envs/{name}", render_mode="rgb_array"),
        str(tmp_path / "new"),
        episode_trigger=lambda episode: episode == 0,
    )
    env.action_space.seed(0)
    env.reset(seed=0)
    finished, steps = False, 0
    while not finished:
        env.unwrapped.annotate("value", 0.1)
        _, _, finished, _, _ = env.step(env.action_space.sample())
        steps += 1
    env.close()
    (file,) = tmp_path.glob("new/*.mp4")
    frames, _ = ffmpeg.count_frames_and_secs(str(file))
    assert frames - (steps + 1) in (0, 1)  # moviepy may show the last one twice


# -- pages ----------------------------------------------------------------------------------------


def test_a_page_of_the_running_episode() -> None:
    env = gym.make("text_envs/Toy-v0", render_mode="html")
    env.reset(seed=0)
    env.unwrapped.annotate("Q", 0.75)
    env.step(A)
    env.step(STOP)
    text = env.render()
    assert text.startswith("<!DOCTYPE html>") and text.count('type="radio"') == 2
    assert 'title="reward +0, Q +0.75">a<' in text and "reward +0.50, stop" in text


def test_a_page_of_all_rows() -> None:
    env = gym.make_vec("text_envs/Toy-v0", num_envs=3, render_mode="html")
    env.reset(seed=0)
    env.step(np.array([A, B, A]))
    assert env.render().count('class="e"') == 3


def test_a_goal_environment_shows_what_the_one_without_goals_shows() -> None:
    env = GoalTokenEnv(Toy(), render_mode="html", goal="correct")
    env.reset(seed=0)
    env.annotate("value", 0.5)
    for token in (A, B, STOP):
        env.step(token)
    assert "reward +1.00, stop" in env.render() and "value +0.5" in env.render()


@pytest.mark.parametrize("module", [render, cells, colours, page_style])
def test_examples_in_the_documentation(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("env_id", text_envs.list_ids())
def test_ansi_shows_something_from_the_start(env_id: str) -> None:
    env = gym.make(env_id, render_mode="ansi")
    env.reset(seed=0)
    assert env.render().strip()
    vector = gym.make_vec(env_id, num_envs=2, render_mode="ansi")
    vector.reset(seed=0)
    assert all(picture.strip() for picture in vector.render())
