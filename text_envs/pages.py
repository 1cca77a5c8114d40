"""One self-contained HTML page of episodes: every token coloured by reward, value, KL, ..."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["TokenRow", "page", "write_page"]


@dataclass(frozen=True)
class TokenRow:
    """One episode on the page.

    Attributes:
        prompt: shown uncoloured before the tokens.
        tokens: the words as they are to be read, one a token.
        scores: one number a token under each name, such as `{"value": [...], "KL": [...]}`.
        caption: shown at the end of the line, for example the episode's reward.
    """

    prompt: str
    tokens: Sequence[str]
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    caption: str = ""

    def __post_init__(self) -> None:
        """Check that every score speaks of every token.

        Raises:
            ValueError: a score has another length than `tokens`.
        """
        for name, values in self.scores.items():
            if len(values) != len(self.tokens):
                raise ValueError(
                    f"score {name!r} has {len(values)} numbers for {len(self.tokens)} tokens"
                )


def page(title: str, sections: Mapping[str, Sequence[TokenRow]], note: str = "") -> str:
    """Return the page; a choice above the text switches between the scores.

    A score's colours have one scale over the whole page, so that sections can be compared: white
    is 0, green positive, red negative, full colour the 95th percentile of its absolute values.

    Args:
        title: heading.
        sections: episodes under headings of their own, for example before and after training.
        note: a paragraph under the title.
    """
    rows = [row for section in sections.values() for row in section]
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    scales = {name: _scale(name, rows) for name in names}
    choices = "".join(
        f'<label><input type="radio" name="score" value="{number}"'
        f"{' checked' if number == 0 else ''}>{html.escape(name)}</label>"
        for number, name in enumerate(names)
    )
    body = "".join(
        f"<h2>{html.escape(heading)}</h2>" + "".join(_line(row, names, scales) for row in section)
        for heading, section in sections.items()
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{_rules(len(names))}</style></head>"
        f"<body><h1>{html.escape(title)}</h1><p>{html.escape(note)}</p>"
        f"<form>{choices}{body}</form></body></html>\n"
    )


def write_page(
    path: str | os.PathLike[str],
    title: str,
    sections: Mapping[str, Sequence[TokenRow]],
    note: str = "",
) -> None:
    """Write `page(...)` to a file; the file is replaced in one go or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".tmp")
    unfinished.write_text(page(title, sections, note), encoding="utf-8")
    os.replace(unfinished, target)


_STYLE = (
    "body{font:16px/1.7 Georgia,serif;max-width:56em;margin:2em auto;padding:0 1em;color:#222}"
    "h1,h2,label{font-family:system-ui,sans-serif}h2{margin-top:1.6em;font-size:1.1em}"
    "label{margin-right:1em;font-size:.9em}.p{color:#888}.c{color:#888;font-size:.85em}"
    "p{margin:.5em 0}.t{border-radius:3px;padding:1px 2px}"
)


def _rules(count: int) -> str:
    """Return the style rules by which the checked choice decides the colour: no script needed."""
    return "".join(
        f'form:has(input[value="{n}"]:checked) .t{{background:var(--s{n},transparent)}}'
        for n in range(count)
    )


def _scale(name: str, rows: Sequence[TokenRow]) -> float:
    values = [abs(value) for row in rows for value in row.scores.get(name, ())]
    finite = [value for value in values if np.isfinite(value)]
    return float(np.percentile(finite, 95)) or 1.0 if finite else 1.0


def _line(row: TokenRow, names: Sequence[str], scales: Mapping[str, float]) -> str:
    words = []
    for position, token in enumerate(row.tokens):
        numbers = {n: row.scores[n][position] for n in names if n in row.scores}
        style = ";".join(
            f"--s{number}:{_colour(numbers[name] / scales[name])}"
            for number, name in enumerate(names)
            if name in numbers
        )
        tip = ", ".join(f"{name} {value:+.3f}" for name, value in numbers.items())
        words.append(
            f'<span class="t" style="{style}" title="{html.escape(tip)}">'
            f"{html.escape(token)}</span>"
        )
    caption = f' <span class="c">{html.escape(row.caption)}</span>' if row.caption else ""
    prompt = f'<span class="p">{html.escape(row.prompt)}</span> '
    return f"<p>{prompt}{' '.join(words)}{caption}</p>"


def _colour(strength: float) -> str:
    """Return white at 0, green towards 1, red towards -1."""
    if not np.isfinite(strength):
        return "transparent"
    alpha = min(abs(strength), 1.0) * 0.75
    return f"rgba({'40,160,70' if strength > 0 else '220,60,50'},{alpha:.2f})"
