"""Written pages in a real browser; skipped where there is none."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from chromium import Chromium, find

import text_envs  # noqa: F401 - registers the environments
from text_envs.episodes.types import Role
from text_envs.render.colours import NEGATIVE, POSITIVE, mix
from text_envs.render.pages import TokenRow, write_page

FULL_GREEN = "rgb({}, {}, {})".format(*(mix(1.0) or POSITIVE))
FULL_ORANGE = "rgb({}, {}, {})".format(*(mix(-1.0) or NEGATIVE))
BACKGROUND = "getComputedStyle(document.querySelectorAll('.t')[{}]).backgroundColor"
# The contrast of text on what is behind it, by the formula of WCAG 2.2.
CONTRASTS = """
(() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('span,label,legend,h1,h2,p')]
    .filter(node => node.offsetParent && node.innerText)
    .map(node => [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a))
    .map(([high, low]) => (high + 0.05) / (low + 0.05));
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    binary = find()
    if binary is None:
        pytest.skip("no Chromium on the PATH; `make test-browser` installs it")
    browser = Chromium(binary, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def shown(browser: Chromium, tmp_path: Path) -> Chromium:
    rows = [
        TokenRow(
            "the film is",
            ["a", "quiet", "triumph", "&", "<b>"],
            {"reward": [0.0, 0.0, 0.0, 0.0, 1.0], "value": [0.5, -0.5, 0.1, -0.1, 0.0]},
            "reward +1.00, stop",
        ),
        TokenRow(
            "the cast is",
            ["warm", "yes", "indeed"],
            {"reward": [0.0, float("nan"), -1.0], "value": [0.3, float("nan"), -0.4]},
            roles=[Role.PREFIX, Role.REPLY, Role.ACTION],
        ),
    ]
    write_page(tmp_path / "page.html", "Two texts", {"Test": rows}, note="A note.")
    browser.open(tmp_path / "page.html")
    return browser


def test_text_is_read_as_it_was_written(shown: Chromium) -> None:
    text = shown.evaluate("document.body.innerText")
    assert "the film is a quiet triumph & <b>" in text and "the cast is warm yes indeed" in text
    for words in ("Two texts", "A note.", "Test", "reward +1.00, stop", "given in advance"):
        assert words in text
    assert "reply of the environment" in text and "Colour by" in text


def test_a_click_on_another_score_changes_the_colours_and_the_legend(shown: Chromium) -> None:
    first = BACKGROUND.format(0)
    assert shown.evaluate(first) == "rgba(0, 0, 0, 0)"  # its reward is 0
    assert shown.evaluate(BACKGROUND.format(4)) == FULL_GREEN
    assert shown.evaluate("document.querySelector('.l0').innerText").split() == ["\u22121", "+1"]
    shown.click("input[value='1']")
    assert shown.evaluate(first) == FULL_GREEN
    assert shown.evaluate(BACKGROUND.format(1)) == FULL_ORANGE
    assert shown.evaluate(BACKGROUND.format(4)) == "rgba(0, 0, 0, 0)"
    visible = "getComputedStyle(document.querySelector('{}')).display"
    assert shown.evaluate(visible.format(".l0")) == "none"
    assert shown.evaluate(visible.format(".l1")) == "flex"
    assert shown.evaluate("document.querySelector('.l1').innerText").split() == [
        "\u22120.5",
        "+0.5",
    ]


def test_the_keyboard_switches(shown: Chromium) -> None:
    shown.press("Tab")
    assert shown.evaluate("document.activeElement.value") == "0"
    shown.press("ArrowRight")
    assert shown.evaluate("document.activeElement.value") == "1"
    assert shown.evaluate(BACKGROUND.format(0)) == FULL_GREEN


def test_tooltips_hold_all_numbers(shown: Chromium) -> None:
    tips = shown.evaluate("[...document.querySelectorAll('.t')].map(token => token.title)")
    assert tips[0] == "reward +0, value +0.5" and tips[7] == "reward -1, value -0.4"
    assert tips[6] == ""  # a reply has no numbers


def test_everything_can_be_read_in_every_choice(shown: Chromium) -> None:
    for choice in (0, 1):
        shown.click(f"input[value='{choice}']")
        contrasts = shown.evaluate(CONTRASTS)
        assert len(contrasts) > 20 and min(contrasts) >= 4.5


def test_nothing_is_asked_for_and_nothing_complains(shown: Chromium) -> None:
    asked = [e for e in shown.events if e.get("method") == "Network.requestWillBeSent"]
    assert [e["params"]["request"]["url"][:8] for e in asked] == ["file:///"]
    complaints = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    assert [e for e in shown.events if e.get("method") in complaints] == []


def test_complaints_would_be_seen(browser: Chromium, tmp_path: Path) -> None:
    (tmp_path / "broken.html").write_text("<script>console.error('no'); nothing()</script>")
    browser.open(tmp_path / "broken.html")
    methods = {event.get("method") for event in browser.events}
    assert {"Runtime.consoleAPICalled", "Runtime.exceptionThrown"} <= methods


def test_the_screenshot_shows_text_and_colours(shown: Chromium) -> None:
    Image = pytest.importorskip("PIL.Image", reason="Pillow reads the screenshot")
    shown.click("input[value='1']")
    pixels = np.asarray(Image.open(io.BytesIO(shown.screenshot())).convert("RGB"))
    assert pixels.shape == (700, 1000, 3)
    for colour in (mix(1.0), mix(-1.0)):
        assert (pixels == colour).all(axis=2).sum() > 200
    letters = (pixels.max(axis=2) < 128).sum()
    assert 1000 < letters < 0.3 * pixels[..., 0].size


def test_a_narrow_window_needs_no_sideways_scrolling(shown: Chromium, tmp_path: Path) -> None:
    shown.open(tmp_path / "page.html", width=360)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_of_a_dialogue(browser: Chromium, tmp_path: Path) -> None:
    env = gym.make("text_envs/Maze-v0", render_mode="html")
    env.reset(seed=0)
    for word in ("up", "right"):
        for token in (env.unwrapped.tokenizer.encode(word)[0], env.unwrapped.tokenizer.eos_id):
            env.unwrapped.annotate("Q", -3.0)
            env.step(token)
    file = tmp_path / "maze.html"
    file.write_text(env.render(), encoding="utf-8")
    browser.open(file)
    turns = browser.evaluate("document.querySelector('.e').innerText").split("\n")
    assert len(turns) == 5 and turns[1].split()[0] == "up" and turns[3].split()[0] == "right"
    browser.click("input[value='1']")
    assert browser.evaluate(BACKGROUND.format(0)) == FULL_ORANGE
    assert (
        browser.evaluate("getComputedStyle(document.querySelector('.r')).color")
        == "rgb(0, 82, 155)"
    )
