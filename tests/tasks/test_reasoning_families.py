"""Each reasoning family: its answers are right, as found by another way than the generator's."""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_envs.tasks.reasoning import ReasoningTask
from text_envs.tasks.reasoning.colored_objects import ReasoningAboutColoredObjects
from text_envs.tasks.reasoning.counting import KINDS, ObjectCounting
from text_envs.tasks.reasoning.dates import DateUnderstanding, month_before, year_before
from text_envs.tasks.reasoning.deduction import DeductionItems, LogicalDeduction, solutions
from text_envs.tasks.reasoning.penguins import PenguinsInATable
from text_envs.tasks.reasoning.shapes import SHAPES, GeometricShapes
from text_envs.tasks.reasoning.sorting import WORDS, WordSorting
from text_envs.tasks.reasoning.tracking import TrackingShuffledObjects, holdings


def option(task: ReasoningTask, index: int) -> str:
    example = task.example(index)
    (gold,) = example.references
    options: list[str] = example.metadata["options"]
    return options[ord(gold) - ord("a")]


@pytest.mark.parametrize(("objects", "count"), [(2, 40), (3, 400), (5, 120), (7, 3)])
def test_deduction_has_one_solution_and_no_clue_to_spare(objects: int, count: int) -> None:
    task = LogicalDeduction(objects=objects, num_examples=count, split="validation")
    for index in range(count):
        detail = task.example(index).metadata
        (order,) = solutions(detail["objects"], detail["clues"])
        assert order[detail["asked"] - 1] == option(task, index)
        assert ("at", option(task, index), detail["asked"]) not in detail["clues"]
        for clue in detail["clues"]:
            rest = [other for other in detail["clues"] if other != clue]
            assert len(solutions(detail["objects"], rest)) > 1


@given(
    objects=st.integers(2, 6),
    clues=st.sets(st.sampled_from(["before", "next", "at"]), min_size=1),
    seed=st.integers(0, 10_000),
)
def test_deduction_with_any_kinds_of_clues(objects: int, clues: set[str], seed: int) -> None:
    family = DeductionItems(objects=objects, clues=tuple(sorted(clues)))
    item = family.draw(np.random.default_rng(seed))
    (order,) = solutions(item.details["objects"], item.details["clues"])
    assert item.gold == (order[item.details["asked"] - 1],)
    assert {kind for kind, _, _ in item.details["clues"]} <= clues


def test_deduction_wording() -> None:
    prompts = [e.prompt for e in LogicalDeduction(objects=5, num_examples=400).examples]
    text = "\n".join(prompts)
    for phrase in ("second to last", "rightmost", "third oldest", "directly ahead of", "newer than",
                   "is leftmost?", "finished behind"):  # fmt: skip
        assert phrase in text
    compact = LogicalDeduction(num_examples=1, style="compact").example(0)
    assert compact.prompt == "bus at 2. sedan at 3. 1? a coach b sedan c bus"


def test_tracking_follows_the_swaps() -> None:
    task = TrackingShuffledObjects(people=5, swaps=9, num_examples=200)
    for index in range(200):
        detail = task.example(index).metadata
        held = holdings(detail["people"], detail["objects"], detail["swaps"])
        assert option(task, index) == held[detail["asked"]]
        assert len(detail["swaps"]) == 9
        for one, other in zip(detail["swaps"], detail["swaps"][1:], strict=False):
            assert set(one) != set(other)
    assert len(TrackingShuffledObjects(people=2, num_examples=1).example(0).metadata["swaps"]) == 2


@pytest.mark.parametrize(
    ("today", "month", "year"),
    [
        ("2004-03-31", "2004-02-29", "2003-03-31"),
        ("2001-03-30", "2001-02-28", "2000-03-30"),
        ("2004-02-29", "2004-01-29", "2003-02-28"),
        ("2000-01-15", "1999-12-15", "1999-01-15"),
    ],
)
def test_months_and_years_before_are_clamped(today: str, month: str, year: str) -> None:
    day = date.fromisoformat(today)
    assert month_before(day).isoformat() == month and year_before(day).isoformat() == year


def test_dates_are_right_and_the_options_give_nothing_away() -> None:
    steps = {"tomorrow": 1, "yesterday": -1, "ten_days_ago": -10, "week_ago": -7, "week_ahead": 7,
             "day_later": 1, "today": 0}  # fmt: skip
    task = DateUnderstanding()
    ranks: Counter[int] = Counter()
    for index, example in enumerate(task.examples):
        today = date.fromisoformat(example.metadata["today"])
        asked = example.metadata["asked"]
        month, day, year = map(int, option(task, index).split("/"))
        if asked in steps:
            assert (date(year, month, day) - today).days == steps[asked]
        ordered = sorted(example.metadata["options"], key=lambda o: (o[-4:], o))
        ranks[ordered.index(option(task, index))] += 1
    assert min(ranks.values()) > 0.15 * 2000 and max(ranks.values()) < 0.25 * 2000
    text = "\n".join(example.prompt for example in task.examples)
    for phrase in ("february 2", "the last day of february", "third wedding anniversary"):
        assert phrase in text


def test_counting_counts_the_kind_asked_for() -> None:
    task = ObjectCounting()
    plural = {name: kind for kind, things in KINDS.items() for pair in things for name in pair}
    decoys = 0
    for example in task.examples:
        items = example.metadata["items"]
        kinds = {plural[name] for _, name in items}
        total = sum(n for n, name in items if plural[name] == example.metadata["kind"])
        assert example.references == (str(total),)
        decoys += len(kinds) == 2
    assert 0.2 < decoys / len(task) < 0.3
    counts = Counter(n for example in task.examples for n, _ in example.metadata["items"])
    share = {n: count / sum(counts.values()) for n, count in counts.items()}
    assert [round(share[n], 2) for n in (1, 2, 3, 4, 5)] == pytest.approx(
        [0.8, 0.1, 0.06, 0.03, 0.01], abs=0.02
    )


def test_shapes_are_what_their_paths_draw() -> None:
    task = GeometricShapes(num_examples=400)
    for index in range(400):
        detail = task.example(index).metadata
        assert name_shape(detail["path"]) == detail["shape"] == option(task, index)
    compact = GeometricShapes(num_examples=40, style="compact")
    assert all(name_shape(e.metadata["path"]) == e.metadata["shape"] for e in compact.examples)


def name_shape(path: str) -> str:
    """Name a shape from its path alone."""
    for number in re.findall(r"[MLA ,](\d+\.\d+)", path):
        assert re.fullmatch(r"\d+\.\d\d", number) and float(number) < 100
    letters = re.sub(r"[^MLA]", "", path)
    points = [
        (float(x), float(y))
        for command, body in re.findall(r"([MLA])([^MLA]*)", path)
        for x, y in [re.findall(r"\d+\.\d+", body)[-2:]]
    ]
    if letters in ("MAA", "MLAL"):
        assert points[0] == points[-1]
        return "circle" if letters == "MAA" else "sector"
    if letters == "ML":
        return "line"
    assert points[0] == points[-1] and set(letters[1:]) == {"L"}
    corners = points[:-1]
    if len(corners) == 4:
        a, b, c, d = corners
        right = abs((b[0] - a[0]) * (c[0] - b[0]) + (b[1] - a[1]) * (c[1] - b[1])) < 1
        equal = math.dist(a, c) == pytest.approx(math.dist(b, d), abs=0.1)
        return "rectangle" if right and equal else "kite"
    names = {3: "triangle", 5: "pentagon", 6: "hexagon", 7: "heptagon", 8: "octagon"}
    return names[len(set(corners))]


def test_shape_options_do_not_leak() -> None:
    task = GeometricShapes(num_options=3)
    chosen = Counter(o for e in task.examples for o in e.metadata["options"])
    right = Counter(option(task, index) for index in range(len(task)))
    for shape in SHAPES:  # as an option, every shape is right one time in three
        assert right[shape] / chosen[shape] == pytest.approx(1 / 3, abs=0.08)


def test_penguins_by_reading_the_prompt() -> None:
    task = PenguinsInATable(num_examples=600)
    seen: Counter[str] = Counter()
    words = {"oldest": (1, max), "youngest": (1, min), "tallest": (2, max), "shortest": (2, min),
             "heaviest": (3, max), "lightest": (3, min)}  # fmt: skip
    more = {"older": (1, 1), "younger": (1, -1), "taller": (2, 1), "shorter": (2, -1),
            "heavier": (3, 1), "lighter": (3, -1)}  # fmt: skip
    for index, example in enumerate(task.examples):
        rows = [
            (name, int(age), int(height), int(weight))
            for name, age, height, weight in re.findall(
                r"(\w+), (\d+), (\d+), (\d+)\.", example.prompt
            )
        ]
        gone = re.search(r"now (\w+) leaves", example.prompt)
        rows = [row for row in rows if gone is None or row[0] != gone[1]]
        assert [list(row) for row in rows] == example.metadata["table"]
        question = re.search(r"(how|which|what) [^?]*\?", example.prompt)
        assert question is not None
        asked = question[0].rstrip("?").split()
        if asked[0] == "which" and asked[-1] in words:
            column, best = words[asked[-1]]
            answer = best(rows, key=lambda row: row[column])[0]
        elif asked[0] == "which":
            answer = sorted(row[0] for row in rows)[0 if "first" in asked else -1]
        elif "than" in asked:
            column, sign = more[asked[4]]
            answer = str(sum(sign * (row[column] - int(asked[6])) > 0 for row in rows))
        elif asked[1] == "many":
            answer = str(len(rows))
        elif asked[1] == "is":
            answer = str(sum(row[1] for row in rows))
        else:
            column = {"old": 1, "tall": 2, "heavy": 3}[asked[1]]
            answer = str(next(row[column] for row in rows if row[0] == asked[3]))
        assert option(task, index) == answer
        seen[" ".join(asked[:2])] += 1
    assert min(seen.values()) > 10 and len(seen) >= 7


def test_colored_objects_by_reading_the_prompt() -> None:
    task = ReasoningAboutColoredObjects(num_examples=800)
    answers: Counter[str] = Counter()
    for index, example in enumerate(task.examples):
        row = re.findall(r"one (\w+) (\w+)", example.prompt)
        question = re.search(r"(what color|is the|how many|if all)[^?]*", example.prompt)
        assert question is not None and len(row) == 5
        colors, things = [c for c, _ in row], [x for _, x in row]
        asked = re.sub(r"[^\w ]", "", question[0]).split()
        answer = answer_about_row(example.metadata["kind"], asked, colors, things)
        assert option(task, index) == answer, example.prompt
        answers[answer] += 1
    assert answers["yes"] == pytest.approx(answers["no"], abs=30)


def answer_about_row(kind: str, asked: list[str], colors: list[str], things: list[str]) -> str:
    place = things.index(asked[-1]) if asked[-1] in things else -1
    if kind in ("color", "end", "beside", "farthest"):
        side = 1 if "right" in asked else -1
        far = 0 if place > 2 else -1
        end = 0 if "leftmost" in asked else -1
        return colors[{"color": place, "end": end, "beside": place + side, "farthest": far}[kind]]
    if kind == "yes_no":
        return "yes" if colors[things.index(asked[2])] == asked[3] else "no"
    if kind == "count":
        return str(colors.count(asked[-1]))
    if kind == "remove":
        return str(5 - colors.count(asked[2]))
    return str(sum(color not in (asked[5], asked[7]) for color in colors))


def test_sorting() -> None:
    assert len(set(WORDS)) == len(WORDS) == 196 and all(re.fullmatch("[a-z]+", w) for w in WORDS)
    for example in WordSorting(num_examples=200).examples:
        words = example.prompt.split(": ")[1].split()
        assert example.references == (" ".join(sorted(words)),) and len(set(words)) == len(words)
        assert example.metadata["wrong"][0] != example.references[0]
