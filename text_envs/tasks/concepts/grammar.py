"""Everyday scenes from a grammar with selectional preferences: who does what to what, and where.

A scene is an activity (a verb with the subjects, objects, places and tools that go with it) and
one choice from each of its lists. Its concept set is the words chosen; its references say it in
different ways.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from text_envs.tasks.shared.procedural import DEFAULT_SIZES, draw_contexts
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["PROMPT", "Scene", "draw_scenes", "prompt", "tokenizer", "training_references"]

PROMPT = "generate a sentence with :"
_REFERENCES = 4
_WITH_PLACE, _WITH_TOOL = 0.75, 0.5

# Two lines an activity: verb, third person, -ing form, past participle where it shares the verb's
# stem (else "-"), and subjects; then objects, places and tools.
_TABLE = """
catch catches catching - | dog boy girl player man
    frisbee ball stick | park beach field yard |
throw throws throwing - | boy girl man woman player
    frisbee ball stick stone | park beach field lake |
ride rides riding - | man woman boy girl child
    bike horse pony | street park beach road |
cut cuts cutting cut | chef father mother woman man
    carrot onion apple cake | kitchen restaurant camp | knife
cook cooks cooking cooked | chef mother father woman man
    soup fish rice meat | kitchen restaurant camp | pot
eat eats eating - | child boy girl man woman
    apple cake soup sandwich | kitchen restaurant park |
play plays playing played | musician man woman boy girl
    guitar piano drum violin | stage room school |
paint paints painting painted | artist woman man girl boy
    wall fence picture house | garden yard street | brush
wash washes washing washed | man woman boy girl father
    car dog window truck | yard garage street | hose sponge
read reads reading read | teacher student woman man child
    book newspaper letter | library park room train |
write writes writing - | student teacher woman man poet
    letter poem story | library school room | pen pencil
walk walks walking walked | man woman girl boy child
    dog pony horse | street park beach road |
feed feeds feeding - | farmer woman girl boy man
    horse cow duck goat | farm barn park |
chase chases chasing chased | dog cat child
    bird mouse ball rabbit | yard park field garden |
climb climbs climbing climbed | boy girl cat man
    tree wall ladder rock | garden park farm |
kick kicks kicking kicked | player boy girl man child
    ball stone can | field street park beach |
push pushes pushing pushed | man woman farmer father
    cart car bike sled | road street farm hill |
carry carries carrying carried | man woman farmer worker
    box basket bag bucket | market street farm road |
sell sells selling - | man woman farmer girl
    apple fish flower bread | market street farm |
plant plants planting planted | farmer gardener woman man girl
    tree flower carrot onion | garden field yard | shovel
fix fixes fixing fixed | man woman mechanic father
    car bike roof window | garage street yard | hammer wrench
drive drives driving - | man woman farmer worker
    car truck bus tractor | road street field |
sing sings singing - | singer girl man woman child
    song hymn | stage street school church | microphone
watch watches watching watched | man woman boy girl cat
    movie bird game parade | room park street |
build builds building - | worker man boy girl father
    house wall fence tower | beach yard field street |
sweep sweeps sweeping - | man woman boy worker
    floor carpet | garage school kitchen | broom
dig digs digging - | man worker farmer boy
    hole | yard garden beach field | shovel
hold holds holding - | mother father girl boy woman
    baby umbrella flag flower | street park beach market |
draw draws drawing - | artist girl boy child student
    picture map flower horse | school room park | pencil pen
open opens opening opened | man woman boy worker mother
    box door window letter | kitchen garage room | knife
"""
_MASS = frozenset("rice meat bread".split())
_ON = frozenset("beach street stage farm road hill train".split())
_AT = frozenset("lake school market".split())
# {s} subject, {o} object, {t} "with a tool", {p} the place; a definite noun is {ds}, {do}.
_PLAIN = (
    "{s} {third} {o} {t} {p} .",
    "{ds} is {ing} {o} {t} {p} .",
    "{s} {ing} {o} {t} {p} .",
    "{ds} {third} {do} {t} {p} .",
)
_PASSIVE = ("{o} is {past} by {s} {t} {p} .",)
_PLACED = ("{p} , {s} {third} {do} {t} .", "{s} {p} is {ing} {o} {t} .")


@dataclass(frozen=True)
class _Activity:
    """A verb, its forms, and what goes with it."""

    verb: str
    third: str
    ing: str
    past: str
    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    places: tuple[str, ...]
    tools: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """What a sentence is about.

    Attributes:
        concepts: the words to use, in the order of the prompt.
        references: sentences that use all of them.
    """

    concepts: tuple[str, ...]
    references: tuple[str, ...]


@functools.cache
def _activities() -> tuple[_Activity, ...]:
    activities = []
    lines = _TABLE.strip().splitlines()
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        forms, *lists = [*first.split("|"), *second.split("|")]
        verb, third, ing, past = forms.split()
        subjects, objects, places, tools = (tuple(words.split()) for words in lists)
        past = "" if past == "-" else past
        activities.append(_Activity(verb, third, ing, past, subjects, objects, places, tools))
    return tuple(activities)


def _a(noun: str) -> str:
    if noun in _MASS:
        return f"some {noun}"
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _where(place: str) -> str:
    if not place:
        return ""
    return f"{'on' if place in _ON else 'at' if place in _AT else 'in'} the {place}"


def _pick(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _draw_scene(rng: np.random.Generator) -> Scene:
    activities = _activities()
    activity = activities[int(rng.integers(len(activities)))]
    subject, thing = _pick(activity.subjects, rng), _pick(activity.objects, rng)
    place = _pick(activity.places, rng) if rng.random() < _WITH_PLACE else ""
    tool = _pick(activity.tools, rng) if activity.tools and rng.random() < _WITH_TOOL else ""
    templates = [*_PLAIN, *(_PASSIVE if activity.past else ()), *(_PLACED if place else ())]
    words = {
        "s": _a(subject),
        "ds": f"the {subject}",
        "o": _a(thing),
        "do": f"the {thing}",
        "t": f"with {_a(tool)}" if tool else "",
        "p": _where(place),
        "third": activity.third,
        "ing": activity.ing,
        "past": activity.past,
    }
    chosen = rng.permutation(len(templates))[:_REFERENCES]
    concepts = [word for word in (subject, activity.verb, thing, place, tool) if word]
    return Scene(
        tuple(concepts[i] for i in rng.permutation(len(concepts))),
        tuple(" ".join(templates[i].format(**words).split()) for i in chosen),
    )


@functools.lru_cache(maxsize=8)
def draw_scenes(split: str, size: int, seed: int) -> tuple[Scene, ...]:
    """Return the scenes of a split; no concept set stands in two splits, in whatever order."""
    return tuple(draw_contexts(_draw_scene, _key, split=split, size=size, seed=seed))


def _key(scene: Scene) -> str:
    return " ".join(sorted(scene.concepts))


def prompt(concepts: Sequence[str]) -> str:
    """Return the prompt that asks for a sentence with these concepts."""
    return f"{PROMPT} {' '.join(concepts)} ."


def training_references() -> list[tuple[str, ...]]:
    """Return the references of each scene of the default training split."""
    return [scene.references for scene in draw_scenes("train", DEFAULT_SIZES["train"], 0)]


@functools.cache
def tokenizer() -> WordTokenizer:
    """Return the tokenizer of all words that the grammar can produce, in alphabetical order."""
    words = set(f"{PROMPT} . , a an some the in on at with is by".split())
    for activity in _activities():
        words |= {activity.verb, activity.third, activity.ing, activity.past}
        words |= {*activity.subjects, *activity.objects, *activity.places, *activity.tools}
    return WordTokenizer(sorted(words - {""}))
