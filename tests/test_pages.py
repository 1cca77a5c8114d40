"""The page of coloured tokens."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from text_envs.pages import TokenRow, page, write_page


class Spans(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.styles: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("class") == "t":
            self.styles.append(found["style"] or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_tokens_are_coloured_by_sign_and_strength_and_escaped() -> None:
    row = TokenRow("a <b>", ["good", "&", "bad"], {"reward": [2.0, 0.0, -2.0]}, "reward 1")
    spans = Spans()
    spans.feed(page("Title", {"before": [row], "after": [row]}))
    good, nothing, bad = spans.styles[:3]
    assert "40,160,70,0.75" in good and "220,60,50,0.75" in bad and nothing.endswith("0.00)")
    assert "a <b>" in spans.texts and "&" in spans.texts and len(spans.styles) == 6


def test_the_file_is_self_contained(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "page.html"
    write_page(file, "Title", {"only": [TokenRow("p", ["t"], {"KL": [0.1], "value": [1.0]})]})
    text = file.read_text(encoding="utf-8")
    assert "http" not in text and "src=" not in text and text.count('type="radio"') == 2
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]


def test_scores_must_speak_of_every_token() -> None:
    with pytest.raises(ValueError, match="score 'KL' has 1 numbers for 2 tokens"):
        TokenRow("p", ["a", "b"], {"KL": [0.0]})
