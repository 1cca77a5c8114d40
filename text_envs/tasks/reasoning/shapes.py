"""Naming the shape that an SVG path draws."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from text_envs.tasks.reasoning.base import ReasoningTask
from text_envs.tasks.reasoning.items import (
    Family,
    Item,
    check_range,
    check_subset,
    choose,
    letter,
    pick,
)
from text_envs.tokens.builtin import CharTokenizer
from text_envs.tokens.protocol import Tokenizer

__all__ = ["GeometricShapes", "ShapeItems", "draw_path"]

SHAPES = ("circle", "heptagon", "hexagon", "kite", "line", "octagon", "pentagon", "rectangle",
          "sector", "triangle")  # fmt: skip
_CORNERS = {"line": 2, "triangle": 3, "kite": 4, "rectangle": 4, "pentagon": 5, "hexagon": 6,
            "heptagon": 7, "octagon": 8}  # fmt: skip

Point = tuple[float, float]


def draw_path(shape: str, rng: np.random.Generator, *, compact: bool = False) -> str:
    """Return a random SVG path of `shape` on a canvas of 100 by 100.

    Coordinates have two decimals. Everything but a line ends where it starts. A polygon starts at
    any of its corners and goes round either way.

    Args:
        shape: one of `SHAPES`.
        rng: draws place, size and direction.
        compact: without the spaces that SVG does not need.
    """
    steps = _arcs(shape, rng) if shape in ("circle", "sector") else _polygon(shape, rng)
    space = "" if compact else " "
    return space.join(
        f"{command}{' ' if command[1:] else space}{x:.2f},{y:.2f}" for command, (x, y) in steps
    )


def _polygon(shape: str, rng: np.random.Generator) -> list[tuple[str, Point]]:
    corners = {"kite": _kite, "rectangle": _rectangle}.get(shape, _round)(_CORNERS[shape], rng)
    if shape != "line":
        start = int(rng.integers(len(corners)))
        corners = corners[start:] + corners[:start]
        corners = corners[:: 1 if rng.random() < 0.5 else -1]
        corners.append(corners[0])
    return [("L" if number else "M", corner) for number, corner in enumerate(corners)]


def _round(count: int, rng: np.random.Generator) -> list[Point]:
    """Return points on a circle, so that the polygon is convex, with uneven distances."""
    centre, radius, turn = _place(rng)
    uneven = rng.uniform(-0.3, 0.3, size=count).tolist()
    return [
        _at(centre, radius, turn + 2 * math.pi * (number + shift) / count)
        for number, shift in enumerate(uneven)
    ]


def _rectangle(count: int, rng: np.random.Generator) -> list[Point]:
    centre, radius, turn = _place(rng)
    if rng.random() < 0.5:
        turn = 0.0
    half = float(rng.uniform(0.3, 0.7))  # half the angle between the diagonals, never a square's
    return [
        _at(centre, radius, turn + angle) for angle in (half, math.pi - half, math.pi + half, -half)
    ]


def _kite(count: int, rng: np.random.Generator) -> list[Point]:
    centre, radius, turn = _place(rng)
    short, width = float(rng.uniform(0.25, 0.6)), float(rng.uniform(0.4, 0.8))
    return [
        _at(centre, radius * reach, turn + quarter * math.pi / 2)
        for quarter, reach in enumerate((1.0, width, short, width))
    ]


def _arcs(shape: str, rng: np.random.Generator) -> list[tuple[str, Point]]:
    centre, radius, turn = _place(rng)
    angle = math.pi if shape == "circle" else float(rng.uniform(0.5, 5.5))
    start, stop = _at(centre, radius, turn), _at(centre, radius, turn + angle)
    arc = f"A {radius:.2f},{radius:.2f} 0 {int(angle >= math.pi)},1"
    if shape == "circle":
        return [("M", start), (arc, stop), (arc, start)]
    return [("M", centre), ("L", start), (arc, stop), ("L", centre)]


def _place(rng: np.random.Generator) -> tuple[Point, float, float]:
    """Return a centre, a radius and an angle that keep every coordinate in 10..90."""
    x, y, size, turn = rng.random(4).tolist()
    return (40 + 20 * x, 40 + 20 * y), 12 + 18 * size, 2 * math.pi * turn


def _at(centre: Point, radius: float, angle: float) -> Point:
    return centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)


@dataclass(frozen=True, kw_only=True)
class ShapeItems(Family):
    """Paths to name.

    Attributes:
        shapes: which ones, at least two.
        num_options: 2 to the number of shapes; None for all of them. Which options stand beside
            the right one is drawn without looking at it, so that they give nothing away.
    """

    shapes: tuple[str, ...] = SHAPES
    num_options: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_subset("shapes", self.shapes, SHAPES)
        if len(set(self.shapes)) != len(self.shapes) or len(self.shapes) < 2:
            raise ValueError(f"shapes must be two different ones at least, got {self.shapes!r}")
        if self.num_options is not None:
            check_range("num_options", self.num_options, 2, len(self.shapes))

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw a shape, its path and the wrong options."""
        shape = pick(rng, self.shapes)
        path = draw_path(shape, rng, compact=self.compact)
        others = [other for other in self.shapes if other != shape]
        count = (self.num_options or len(self.shapes)) - 1
        return Item(
            key=("shapes", path.replace(" ", "")),
            text=path if self.compact else f"{_ASK[0]}{path}{_ASK[1]}",
            gold=(shape,),
            options=(shape, *choose(rng, others, count)),
            details={"path": path, "shape": shape},
        )

    def tokenizer(self) -> Tokenizer:
        """Return single characters: the numbers of a path have no closed vocabulary of words."""
        return CharTokenizer("".join(sorted(set("".join(self.texts())))))

    def texts(self) -> Iterable[str]:
        """Return every character once."""
        yield "".join(letter(place) for place in range(len(self.shapes)))
        yield "0123456789.,MLA "
        yield from self.shapes
        if not self.compact:
            yield "".join((*_ASK, "()"))

    def columns(self) -> int:
        """Return the characters of the longest path, the question and the longest options."""
        point = (
            13 if self.compact else 14
        )  # with its command and the spaces, as in "L 12.34,56.78 "
        corners = max(_CORNERS.get(shape, 2) for shape in self.shapes)
        path = max((corners + 1) * point, 80)  # a circle or a sector takes less than 80
        names = sorted(map(len, self.shapes), reverse=True)[: self.num_options]
        options = sum(names) + (3 if self.compact else 5) * len(names)
        return path + (0 if self.compact else len("".join(_ASK))) + options


_ASK = ("the path ", " draws which shape?")


class GeometricShapes(ReasoningTask):
    """Name the shape that an SVG path draws.

    ## Description
    The prompt is a path of move, line and arc commands with two decimals, and a list of shapes:
    circle, heptagon, hexagon, kite, line, octagon, pentagon, rectangle, sector, triangle. All are
    equally frequent. A polygon may start at any corner and go round either way; a rectangle may
    be turned. The answer is a letter.

    ## Action Space
    `Discrete(num_actions)`: the characters of the family, and the end of the text.

    ## Observation Space
    `Box(0, vocab_size - 1, (L,), int64)`: the prompt in characters, left-padded, then two columns
    for the answer; by default the shape is (274,).

    ## Rewards
    At the end 1 if the answer is the letter of the right option, up to case, spaces and full
    stops, else 0. `reward=` takes any other reward model.

    ## Starting State
    A question drawn uniformly from the split; `reset(options={"index": 3})` chooses one.

    ## Episode End
    The end-of-text token (`finish_reason="stop"`) or the last column (`"length"`).

    ## Information
    `example_index` and `reward_terms` at every step; `finish_reason`, `text` and `roles`, which are
    empty until the end.

    ## Arguments
    Difficulty: `shapes`, default all ten; `num_options=None`, all shapes, or a number of them;
    `style="sentences"` or "compact", few tokens for very small models.
    Data: `split="train"`, "validation" or "test", without a common context (the path);
    `seed=0`, `num_examples=None` (2000, 250, 250); `dataset=None`, a `task.json` of BIG-bench.
    Shape: `tokenizer=None`, `prompt_length=None`, `max_tokens=None`, `truncate_prompts=False`.
    For chat models: `chat=False`, True makes a user's message of each question, which goes through
    the chat template of `tokenizer`; `stop=()`: texts, or one, that end an answer.
    `reward`, `reward_kwargs`, `action_mask`, `render_mode` as in every environment.

    ## Version History
    v0: first version.

    ## References
    The questions are of the kind of BIG-bench's geometric_shapes (Srivastava et al., "Beyond the
    imitation game", 2022, arXiv 2206.04615), which Zhang et al., "The wisdom of hindsight makes
    language models better instruction followers", 2023, arXiv 2302.05206, train on.
    """

    family = ShapeItems
    bigbench_name = "geometric_shapes"
