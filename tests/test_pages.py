"""The page of coloured tokens."""

from __future__ import annotations

import doctest
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Echo

from text_envs.datasets.demonstrations import demonstrate
from text_envs.episodes.types import EpisodeBatch, Role
from text_envs.render import pages
from text_envs.render.colours import INK, PROMPT, REPLY, mix, scale
from text_envs.render.pages import TokenRow, page, rows_from, write_page
from text_envs.tasks.toy import Toy


class Spans(HTMLParser):
    """The coloured tokens of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tokens: list[dict[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        if found.get("class", "").split()[:1] == ["t"]:
            self.tokens.append({"style": "", "title": "", **found})

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def test_tokens_are_coloured_by_sign_and_strength_and_escaped() -> None:
    row = TokenRow("a <b>", ["good", "&", "bad"], {"reward": [2.0, 0.0, -1.0]}, "reward 1")
    spans = Spans(page("Title", {"before": [row], "after": [row]}))
    good, nothing, bad = spans.tokens[:3]
    assert good["style"] == "--s0:#40b696"  # three quarters of (0, 158, 115) on white
    assert nothing["style"] == "" and nothing["title"] == "reward +0"
    assert bad["style"] == "--s0:#efc39f"  # half as strong: 2 is the end of the scale
    assert "a <b>" in spans.texts and "&" in spans.texts and len(spans.tokens) == 6
    assert "a <b> good & badreward 1" in spans.text


def test_the_file_is_self_contained(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "page.html"
    write_page(file, "Title", {"only": [TokenRow("p", ["t"], {"KL": [0.1], "value": [1.0]})]})
    text = file.read_text(encoding="utf-8")
    assert "http" not in text and "src=" not in text and text.count('type="radio"') == 2
    assert "<script" not in text and text.count("checked>") == 1
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]


def test_scores_and_roles_must_speak_of_every_token() -> None:
    with pytest.raises(ValueError, match="score 'KL' has 1 numbers for 2 tokens"):
        TokenRow("p", ["a", "b"], {"KL": [0.0]})
    with pytest.raises(ValueError, match="1 roles for 2 tokens"):
        TokenRow("p", ["a", "b"], roles=[Role.ACTION])


def test_roles_are_shown_and_explained() -> None:
    row = TokenRow("p", ["a", "b", "c"], {}, "", [Role.PREFIX, Role.ACTION, Role.REPLY])
    spans = Spans(page("Title", {"": [row]}))
    assert [token["class"] for token in spans.tokens] == ["t g", "t", "t r"]
    assert "given in advance" in spans.text and "reply of the environment" in spans.text
    alone = Spans(page("Title", {"": [TokenRow("p", ["a"])]}))
    assert "given" not in alone.text and "reply" not in alone.text
    assert "Colour by" not in alone.text  # nothing to choose from


def test_a_score_of_one_sign_has_half_a_scale() -> None:
    row = TokenRow("", ["a", "b"], {"KL": [0.2, 0.01], "value": [-3.0, 1.0]})
    spans = Spans(page("Title", {"": [row]}))
    assert "0+0.2" in spans.text and "\u22123+3" in spans.text


def test_numbers_that_are_none_have_neither_colour_nor_tooltip() -> None:
    row = TokenRow("", ["a", "b"], {"Q": [float("nan"), float("inf")], "KL": [1.0, 2.0]})
    first, second = Spans(page("Title", {"": [row]})).tokens
    assert first["style"].startswith("--s1:") and first["title"] == "KL +1"
    assert second["title"] == "KL +2"


def test_rows_of_recorded_dialogues() -> None:
    task = Echo()
    played = demonstrate(task, 5, quality="random", seed=3)
    rows = rows_from(played, {"mask": played.action_mask}, tokenizer=task.tokenizer)
    for b, row in enumerate(rows):
        generated = np.isin(played.roles[b], (int(Role.ACTION), int(Role.REPLY)))
        assert list(row.roles) == played.roles[b][generated].tolist()
        mask = [float(role == Role.ACTION) for role in row.roles]
        assert list(row.scores["mask"]) == mask
        paid = np.array(row.scores["reward"])
        assert np.isfinite(paid).tolist() == [bool(m) for m in mask]  # replies are paid nothing
        assert np.nansum(paid) == pytest.approx(played.returns[b])
        assert row.caption == f"reward {played.returns[b]:+.2f}, {played.finish_reasons[b]}"
        changes = sum(a != b for a, b in zip(row.roles, row.roles[1:], strict=False))
        assert "".join(row.tokens).count("\n") == 1 + changes  # a line for every turn
    assert {Role.REPLY, Role.ACTION} == {role for row in rows for role in row.roles}


def _batch(**kwargs: Any) -> EpisodeBatch:
    task = Toy()
    tokens = np.array([[4, 0, 1, 2], [4, 1, 2, 3]])  # <bos> a b <end>, <bos> b <end>
    roles = np.array([[1, 3, 3, 3], [1, 2, 3, 0]], dtype=np.int8)
    return EpisodeBatch(
        tokens, roles, prompt_length=1, tokenizer=task.tokenizer, get_example=task.example,
        example_indices=np.zeros(2, dtype=np.int64), finish_reasons=["stop", "stop"],
    )  # fmt: skip


def test_rows_of_finished_episodes_put_a_score_an_episode_on_the_last_action() -> None:
    first, second = rows_from(_batch(), {"reward": np.array([1.5, 0.5])})
    np.testing.assert_array_equal(first.scores["reward"], [np.nan, np.nan, 1.5])
    np.testing.assert_array_equal(second.scores["reward"], [np.nan, 0.5])
    assert second.roles == [Role.PREFIX, Role.ACTION] and second.tokens == ["b", " \u00b6"]
    assert rows_from(_batch())[0].caption == "stop"


def test_rows_need_a_tokenizer_and_fitting_scores() -> None:
    with pytest.raises(ValueError, match="EpisodeDataset has no tokenizer"):
        rows_from(demonstrate(Toy(), 1))
    with pytest.raises(ValueError, match=r"score 'Q' has shape \(3,\); accepted: \(2, 4\)"):
        rows_from(_batch(), {"Q": np.zeros(3)})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.3], 0.3),
        ([0.31], 0.5),
        ([-7.2], 7.5),
        ([1e-9, 0.0], 1e-9),
        ([9.9e5], 1e6),
        ([float("nan"), float("inf"), 2.0], 2.0),
        ([1.0] * 99 + [50.0], 1.0),
    ],
)
def test_scales_end_at_readable_numbers(values: list[float], expected: float) -> None:
    assert scale(values) == expected


def test_every_text_colour_can_be_read_on_every_score() -> None:
    def light(colour: tuple[int, int, int]) -> float:
        parts = np.array(colour) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for strength in np.linspace(-1, 1, 21):
        paper = mix(float(strength))
        assert paper is not None
        assert (light(paper) + 0.05) / (light(INK) + 0.05) >= 4.5
    for colour in (PROMPT, REPLY):  # which stand on white
        assert 1.05 / (light(colour) + 0.05) >= 4.5


def test_examples_in_the_documentation() -> None:
    assert doctest.testmod(pages).failed == 0
