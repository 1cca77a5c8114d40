"""One self-contained HTML page of episodes: every token coloured by reward, value, KL, ...

The page has no script and asks for no other file. Radio buttons, and with them the arrow keys,
switch between the scores; pointing at a token shows all of its numbers. Recorded episodes become
a page in two lines:

>>> from text_envs.datasets.demonstrations import demonstrate
>>> from text_envs.tasks.toy import Toy
>>> task = Toy()
>>> played = demonstrate(task, 3, quality="expert")
>>> rows = rows_from(played, {"mask": played.action_mask}, tokenizer=task.tokenizer)
>>> text = page("Three short texts", {"Expert": rows})
>>> list(rows[0].tokens), list(rows[0].scores), rows[0].caption
(['a', ' b', ' ¶'], ['reward', 'mask'], 'reward +1.50, stop')
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_envs.core.record import REWARD
from text_envs.episodes.store import EpisodeDataset
from text_envs.episodes.types import EpisodeBatch, Role
from text_envs.render.cells import END, OPEN, PART, cells_of_row, split_text
from text_envs.render.colours import INK, NEGATIVE, POSITIVE, mix, scale
from text_envs.render.page_style import STYLE, hex_of, rules
from text_envs.render.visible import visible
from text_envs.tokens.protocol import Tokenizer
from text_envs.tokens.spelling import Speller

__all__ = ["TokenRow", "page", "rows_from", "write_page"]

_SIGNS = {
    END: "end of a text or turn",
    PART: "part of the character that follows",
    OPEN: "part of an unfinished character",
}


@dataclass(frozen=True)
class TokenRow:
    """One episode on the page.

    Attributes:
        prompt: shown uncoloured before the tokens.
        tokens: the words as they are to be read, one a token.
        scores: one number a token under each name, such as `{"value": [...], "KL": [...]}`; NaN
            where a token has none.
        caption: shown at the end of the line, for example the episode's reward.
        roles: who wrote each token; empty if the agent wrote them all.
        spaced: put a space before every token; False where tokens carry their own white space.
    """

    prompt: str
    tokens: Sequence[str]
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    caption: str = ""
    roles: Sequence[Role] = ()
    spaced: bool = True

    def __post_init__(self) -> None:
        """Check that every score speaks of every token.

        Raises:
            ValueError: a score, or the roles, have another length than `tokens`.
        """
        for name, values in self.scores.items():
            if len(values) != len(self.tokens):
                raise ValueError(
                    f"score {name!r} has {len(values)} numbers for {len(self.tokens)} tokens"
                )
        if self.roles and len(self.roles) != len(self.tokens):
            raise ValueError(f"{len(self.roles)} roles for {len(self.tokens)} tokens")


def rows_from(
    episodes: EpisodeBatch | EpisodeDataset,
    scores: Mapping[str, Any] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
) -> list[TokenRow]:
    """Return episodes as lines of a page.

    Args:
        episodes: B finished or recorded episodes; a recorded one brings its rewards along.
        scores: numbers under each name: `(B, L)` by column, NaN where there is none, or `(B,)`,
            one an episode, shown on the last token that the agent wrote.
        tokenizer: spells the tokens; needed for an `EpisodeDataset`, which has none.

    Raises:
        ValueError: a score of another shape, or no tokenizer.
    """
    speller = _speller(episodes, tokenizer)
    by_agent = episodes.roles == int(Role.ACTION)  # (B, L)
    given = dict(scores or {})
    paid = getattr(episodes, "rewards", None)
    if paid is not None and REWARD not in given:
        given = {REWARD: np.where(by_agent | (paid != 0), paid, np.nan), **given}
    by_column = {name: _by_column(name, values, by_agent) for name, values in given.items()}
    dialogue = bool((episodes.roles == int(Role.REPLY)).any())
    rows = []
    for b, (tokens, roles) in enumerate(zip(episodes.tokens, episodes.roles, strict=True)):
        cells = cells_of_row(speller, tokens, roles.tolist(), dialogue=dialogue)
        cells = [cell for cell in cells if cell.role != Role.PROMPT]
        columns = [cell.column for cell in cells]
        facts = [episodes.finish_reasons[b]] if episodes.finish_reasons[b] else []
        if REWARD in by_column:
            facts.insert(0, f"reward {np.nansum(by_column[REWARD][b]):+.2f}")
        rows.append(
            TokenRow(
                speller.text(tokens[roles == int(Role.PROMPT)]),
                [cell.lead + cell.text + cell.tail for cell in cells],
                {name: values[b, columns].tolist() for name, values in by_column.items()},
                ", ".join(facts),
                [cell.role for cell in cells],
                spaced=False,
            )
        )
    return rows


def _speller(episodes: EpisodeBatch | EpisodeDataset, tokenizer: Tokenizer | None) -> Speller:
    found: Tokenizer | None = getattr(episodes, "tokenizer", None) or tokenizer
    if found is None:
        raise ValueError(
            f"{type(episodes).__name__} has no tokenizer; pass tokenizer=env.unwrapped.tokenizer"
        )
    return Speller(found)


def _by_column(name: str, values: Any, by_agent: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a score as `(B, L)`."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape == by_agent.shape:
        return numbers
    if numbers.shape != by_agent.shape[:1]:
        raise ValueError(
            f"score {name!r} has shape {numbers.shape}; accepted: {by_agent.shape}, every column, "
            f"or {by_agent.shape[:1]}, one number an episode"
        )
    spread = np.full(by_agent.shape, np.nan)
    last = by_agent.shape[1] - 1 - by_agent[:, ::-1].argmax(axis=1)  # (B,)
    spread[np.arange(len(last)), last] = numbers
    return spread


def page(title: str, sections: Mapping[str, Sequence[TokenRow]], note: str = "") -> str:
    """Return the page; a choice above the text switches between the scores.

    A score's colours have one scale over the whole page, so that sections can be compared: white
    is 0, green positive, orange negative, and a colour is full from about the 95th percentile of
    the absolute values that are not 0.

    Args:
        title: heading.
        sections: episodes under headings of their own, for example before and after training.
        note: a paragraph under the title.
    """
    rows = [row for section in sections.values() for row in section]
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    scales = {name: scale(_numbers(name, rows)) for name in names}
    choices = "".join(
        f'<label><input type="radio" name="score" value="{number}"'
        f"{' checked' if number == 0 else ''}>{_escape(name)}</label>"
        for number, name in enumerate(names)
    )
    legends = "".join(
        _legend(number, name, scales[name], any(value < 0 for value in _numbers(name, rows)))
        for number, name in enumerate(names)
    )
    head = f"<fieldset><legend>Colour by</legend>{choices}</fieldset>{legends}" if names else ""
    body = "".join(
        (f"<h2>{_escape(heading)}</h2>" if heading else "")
        + "".join(_line(row, names, scales) for row in section)
        for heading, section in sections.items()
    )
    below = f"<p>{_escape(note)}</p>" if note else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_escape(title)}</title><style>{STYLE}{rules(len(names))}</style></head>"
        f'<body><h1>{_escape(title)}</h1>{below}<form autocomplete="off">'
        f'<div class="top">{head}{_key(rows)}</div>{body}</form></body></html>\n'
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


def _numbers(name: str, rows: Sequence[TokenRow]) -> Iterator[float]:
    return (value for row in rows for value in row.scores.get(name, ()))


def _legend(number: int, name: str, full: float, signed: bool) -> str:
    """Return the scale of one score, shown while the score is chosen."""
    ends = ([NEGATIVE] if signed else []) + [POSITIVE]
    shades = [hex_of(mix(-1.0 if end == NEGATIVE else 1.0) or end) for end in ends]
    shades.insert(len(shades) - 1, "#fff")
    low = f"\u2212{full:g}" if signed else "0"
    return (
        f'<div class="scale l{number}"><span>{low}</span>'
        f'<span class="bar" role="img" aria-label="{_escape(name)}: from {low} to +{full:g}" '
        f'style="background:linear-gradient(90deg,{",".join(shades)})"></span>'
        f"<span>+{full:g}</span></div>"
    )


def _key(rows: Sequence[TokenRow]) -> str:
    """Return what the looks of the letters mean, as far as they occur."""
    roles = {role for row in rows for role in row.roles}
    entries = ['<span class="p">prompt</span>'] if any(row.prompt for row in rows) else []
    entries += ['<span><span class="g">given</span> in advance</span>'] * (Role.PREFIX in roles)
    entries += ["<span>written by the agent</span>"]
    entries += ['<span class="r">reply of the environment</span>'] * (Role.REPLY in roles)
    shown = {token.strip()[-1:] for row in rows for token in row.tokens}
    entries += [f"<span>{mark} {name}</span>" for mark, name in _SIGNS.items() if mark in shown]
    return f'<p class="key">{"".join(entries)}</p>' if len(entries) > 1 else ""


def _line(row: TokenRow, names: Sequence[str], scales: Mapping[str, float]) -> str:
    """Return the paragraph of one episode."""
    words: list[str] = []
    tail = ""
    for position, token in enumerate(row.tokens):
        before = " " if row.spaced and words else ""
        inside = not row.spaced and not tail
        lead, text, tail = split_text(visible(token))
        span = _span(row, position, text, names, scales, glued=inside and not lead)
        words.append(f"{before}{lead}{span}{tail}")
    prompt = f'<span class="p">{_escape(row.prompt)}</span>' if row.prompt else ""
    between = " " if prompt and row.spaced else ""
    caption = f'<span class="c">{_escape(row.caption)}</span>' if row.caption else ""
    return f'<p class="e">{prompt}{between}{"".join(words)}{caption}</p>'


def _span(
    row: TokenRow,
    position: int,
    text: str,
    names: Sequence[str],
    scales: Mapping[str, float],
    *,
    glued: bool,
) -> str:
    """Return one token: a colour for every score, and all numbers as a tooltip."""
    numbers = {name: row.scores[name][position] for name in names if name in row.scores}
    numbers = {name: value for name, value in numbers.items() if np.isfinite(value)}
    colours = ";".join(
        f"--s{number}:{hex_of(mix(numbers[name] / scales[name]) or INK)}"
        for number, name in enumerate(names)
        if numbers.get(name)  # white needs no rule
    )
    tip = ", ".join(f"{name} {value:+.4g}" for name, value in numbers.items())
    role = row.roles[position] if row.roles else Role.ACTION
    kind = "t" + {Role.PREFIX: " g", Role.REPLY: " r"}.get(role, "") + " n" * glued
    style = f' style="{colours}"' if colours else ""
    title = f' title="{_escape(tip)}"' if tip else ""
    return f'<span class="{kind}"{style}{title}>{_escape(text)}</span>'


def _escape(text: str) -> str:
    """Return a text as a page may hold it, in an attribute too."""
    return html.escape(visible(text))
