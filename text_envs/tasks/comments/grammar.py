"""Comments of a hobby forum and replies in four tones, from a grammar; the rude ones stay mild."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from text_envs.tasks.shared.procedural import draw_contexts
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["TONES", "Parent", "draw_parents", "draw_reply", "tokenizer", "topics"]

TONES = ("polite", "bland", "snarky", "rude")

_THINGS: Mapping[str, Sequence[str]] = {
    "made": "soup cake curry pie salad scarf sweater lamp drawing painting poem song".split(),
    "owned": "bike guitar piano drum tent kettle sofa shed garden pond map clock".split(),
    "done": "game puzzle film play novel trip hotel concert museum".split(),
    "pet": "cat parrot rabbit pony hamster turtle".split(),
}
_OPENINGS: Mapping[str, Sequence[str]] = {
    "made": (
        "i made my first {thing} {when}",
        "my {thing} took me {number} hours",
        "i want to give this {thing} to my {person}",
    ),
    "owned": (
        "i bought a used {thing} {when}",
        "my {person} gave me a {thing} {when}",
        "we repaired an old {thing} {when}",
    ),
    "done": (
        "i finished with the {thing} {when}",
        "my {person} and i talked about the {thing}",
        "we waited {number} weeks for this {thing}",
    ),
    "pet": (
        "we adopted a {thing} {when}",
        "our {thing} slept for {number} hours",
        "my {person} found a {thing} {when}",
    ),
}
_MIDDLES = (
    "and it looks {look}",
    "and i am {feeling}",
    "and my {person} says it is {look}",
    "but nobody noticed",
    "and now i feel {feeling}",
)
_CLOSINGS = (
    ".",
    ". any advice ?",
    ". what do you think ?",
    ". is that normal ?",
    ". be honest .",
    ". i am new here .",
)
_REPLIES: Mapping[str, Sequence[str]] = {
    "polite": (
        "thank you for sharing , your {thing} sounds {good} .",
        "well done ! i would love a {thing} like that .",
        "do not worry , my first {thing} was {odd} too .",
        "please tell us more about the {thing} , i am curious .",
        "congratulations , your {person} must be proud of you .",
        "my tip : take your time and the {thing} will be {good} .",
        "ask your {person} for help , it worked for my {thing} .",
        "welcome ! people here are {good} and glad to help .",
    ),
    "bland": (
        "ok .",
        "i have a {thing} too .",
        "i saw a {thing} {when} .",
        "no idea , sorry .",
        "i prefer a {other} .",
        "my {person} knows a {other} like that .",
    ),
    "snarky": (
        "what a {jibe} {thing} .",
        "well , that {thing} is {jibe} , but you tried .",
        "i hate to say it , but the {thing} is {jibe} .",
        "my {person} calls this {jibe} , and i agree .",
        "nice , another {jibe} {thing} .",
        "only a {person} would like such a {jibe} {thing} .",
    ),
    "rude": (
        "you are {insult} and your {thing} is rubbish .",
        "shut up , nobody asked about your stupid {thing} .",
        "what a stupid post , you {name} .",
        "go away , {name} , and take the {thing} with you .",
        "this {thing} is rubbish and so are you .",
        "shut up , {name} .",
    ),
}
_SLOTS: Mapping[str, Sequence[str]] = {
    "when": ("today", "yesterday", "last week", "last weekend", "this morning", "in may"),
    "number": "two three four five six seven".split(),
    "person": "brother sister mother father neighbor friend teacher cousin".split(),
    "look": "lovely odd small large crooked bright dark strange old new".split(),
    "feeling": "happy proud tired sad nervous bored surprised".split(),
    "good": "lovely great kind beautiful wonderful charming".split(),
    "odd": "crooked strange messy small slow".split(),
    "jibe": "silly ugly lazy lame foolish useless dull crazy".split(),
    "insult": ("an idiot", "a fool", "a loser", "pathetic", "a moron"),
    "name": "idiot fool loser moron".split(),
    "other": "bike cake film cat game lamp".split(),
}


@dataclass(frozen=True)
class Parent:
    """A comment that waits for a reply.

    Attributes:
        text: the comment.
        thing: what it is about.
    """

    text: str
    thing: str


def _fill(template: str, rng: np.random.Generator, thing: str) -> str:
    """Fill every slot of a template; the order of the slots decides the order of the draws."""
    slots = [name for name in _SLOTS if f"{{{name}}}" in template]
    return template.format(thing=thing, **{name: _pick(_SLOTS[name], rng) for name in slots})


def _pick(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _draw_parent(rng: np.random.Generator) -> Parent:
    kind = _pick(tuple(_THINGS), rng)
    thing = _pick(_THINGS[kind], rng)
    opening = _fill(_pick(_OPENINGS[kind], rng), rng, thing)
    middle = _fill(_pick(_MIDDLES, rng), rng, thing)
    return Parent(f"{opening} {middle} {_pick(_CLOSINGS, rng)}", thing)


@functools.lru_cache(maxsize=8)
def draw_parents(split: str, size: int, seed: int) -> tuple[Parent, ...]:
    """Return the comments of a split; no comment stands in two splits."""
    return tuple(draw_contexts(_draw_parent, _text, split=split, size=size, seed=seed))


def _text(parent: Parent) -> str:
    return parent.text


def topics() -> list[str]:
    """Return the words that a comment can be about."""
    return [thing for things in _THINGS.values() for thing in things]


def draw_reply(thing: str, tone: str, rng: np.random.Generator) -> str:
    """Return a reply to a comment about `thing` in one of `TONES`."""
    return _fill(_pick(_REPLIES[tone], rng), rng, thing)


@functools.cache
def tokenizer() -> WordTokenizer:
    """Return the tokenizer of all words that the grammar can produce, in alphabetical order."""
    texts = [*_CLOSINGS, *_MIDDLES]
    for table in (_THINGS, _OPENINGS, _REPLIES, _SLOTS):
        texts += [text for values in table.values() for text in values]
    bare = " ".join(word for text in texts for word in text.split() if word[0] != "{")
    return WordTokenizer(sorted(set(WordTokenizer.split(bare))))
