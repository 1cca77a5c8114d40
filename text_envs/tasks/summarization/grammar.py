"""Posts that ask strangers for advice, their summaries, and what can be wrong with a summary.

A post tells a story: somebody did something with the writer's thing, for a reason, and the writer
has a question. A summary states these five facts; everything else in the post may be left out.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from text_envs.tasks.shared.procedural import draw_contexts
from text_envs.tokens.builtin import WordTokenizer

__all__ = ["ASK", "FAULTS", "Story", "degrade", "draw_stories", "post", "summaries", "tokenizer"]

ASK = "tl;dr:"  # what a post ends with when a summary is wanted
FAULTS = ("missing", "wrong", "repeated", "truncated", "verbose")
Story = Mapping[str, str]

_HE, _SHE = ("he", "him"), ("she", "her")
_WHO = {
    **dict.fromkeys("brother uncle roommate landlord boss neighbor".split(), _HE),
    **dict.fromkeys("sister aunt friend cousin teacher coworker".split(), _SHE),
}
# What was done, to which things, for which reasons.
_DEEDS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "sold": (
        "bike guitar car phone camera tent laptop".split(),
        ("needed money", "thought it was old", "was angry with me", "never liked it"),
    ),
    "borrowed": (
        "car bike laptop camera tent jacket".split(),
        ("was in a hurry", "missed the bus", "wanted to impress a date", "had a job interview"),
    ),
    "broke": (
        "phone camera lamp window guitar laptop".split(),
        ("was angry with me", "was in a hurry", "was careless", "played football inside"),
    ),
    "lost": (
        "wallet phone camera ring jacket umbrella".split(),
        ("was careless", "was in a hurry", "was tired", "moved to a new house"),
    ),
    "hid": (
        "phone wallet ring diary laptop".split(),
        ("was jealous", "wanted to tease me", "was angry with me", "thinks i work too much"),
    ),
    "painted": (
        "door fence car wall desk".split(),
        ("hates the color", "wanted to help", "was bored", "lost a bet"),
    ),
    "ate": (
        "cake lunch sandwich dinner pizza".split(),
        ("was hungry", "was bored", "thought it was old", "had a bad day"),
    ),
    "read": (
        "diary letter mail notebook".split(),
        ("was curious", "was worried", "was jealous", "wanted to help"),
    ),
}
_QUESTIONS = (
    "should i talk to my mother",
    "how do i ask for a new one",
    "should i move out",
    "how can i forgive {him}",
    "should i call the police",
    "what should i say to {him}",
    "am i wrong to be upset",
    "should i tell our family",
    "how do i stop this",
    "should i ask {him} to pay",
)
_BACKGROUNDS = (
    "i have known my {who} for {number} years .",
    "i live near my {who} .",
    "my {who} is {number} years older than me .",
    "my {who} and i see each other every day .",
)
_EVENTS = ("{when} {he} {did} my {thing} .", "{when} {he} {did} my {thing} without asking .")
_REASONS = ("{he} told me {he} {why} .", "it seems {he} {why} .", "{he} says {he} {why} .")
_DETAILS = (
    "it was a gift from my {relative} .",
    "it cost me {number} weeks of work .",
    "i need it every day .",
    "{he} laughed about it .",
    "{he} did not say sorry .",
    "{he} does not answer my calls .",
    "my {relative} saw it too .",
)
_FEELINGS = ("i feel {feeling} .", "i am {feeling} now .", "")
_SLOTS: Mapping[str, Sequence[str]] = {
    "when": ("yesterday", "last week", "last night", "on monday", "on sunday"),
    "number": "two three four five six".split(),
    "relative": "mother father grandmother wife husband".split(),
    "feeling": "sad hurt confused upset lost".split(),
}
_SUMMARIES = (
    "my {who} {did} my {thing} because {he} {why} , {ask} ?",
    "{who} {did} my {thing} because {he} {why} . {ask} ?",
    "because {he} {why} my {who} {did} my {thing} , {ask} ?",
)
_MISSING = (
    "my {who} {did} my {thing} .",
    "my {who} {did} my {thing} because {he} {why} .",
    "my {who} {did} my {thing} , {ask} ?",
    "{ask} ?",
    "somebody {did} something because {he} {why} , {ask} ?",
)
_FILLERS = ("well , i just want to say that", "this is a long story , but", "i do not know but")
_LONGEST = 24  # words of a verbose or repeated summary


def _pick(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _draw_story(rng: np.random.Generator) -> Story:
    who, did = _pick(tuple(_WHO), rng), _pick(tuple(_DEEDS), rng)
    things, reasons = _DEEDS[did]
    he, him = _WHO[who]
    story = {"who": who, "did": did, "he": he, "him": him}
    story |= {"thing": _pick(things, rng), "why": _pick(reasons, rng)}
    story["ask"] = _pick(_QUESTIONS, rng).format(him=him)
    words = story | {name: _pick(values, rng) for name, values in _SLOTS.items()}
    details = rng.permutation(len(_DETAILS))[: int(rng.integers(1, 3))]
    sentences = [
        _pick(_BACKGROUNDS, rng),
        _pick(_EVENTS, rng),
        _pick(_REASONS, rng),
        *(_DETAILS[i] for i in details),
        _pick(_FEELINGS, rng),
        "{ask} ?",
    ]
    return story | {"post": " ".join(filter(None, sentences)).format(**words)}


@functools.lru_cache(maxsize=8)
def draw_stories(split: str, size: int, seed: int) -> tuple[Story, ...]:
    """Return the stories of a split, by slot; no five facts stand in two splits."""
    return tuple(draw_contexts(_draw_story, _key, split=split, size=size, seed=seed))


def _key(story: Story) -> str:
    return " ".join(story[fact] for fact in ("who", "did", "thing", "why", "ask"))


def post(story: Story) -> str:
    """Return the post that tells a story."""
    return story["post"]


def summaries(story: Story) -> tuple[str, ...]:
    """Return good summaries of a story."""
    return tuple(template.format(**story) for template in _SUMMARIES)


def degrade(text: str, fault: str, story: Story, rng: np.random.Generator) -> str:
    """Return a summary of `story` made worse.

    Args:
        text: the summary.
        fault: one of `FAULTS`. "missing" facts and "wrong" facts are written anew from the story;
            the other faults change `text`.
        story: what the post says.
        rng: chooses what goes wrong.
    """
    words = text.split()
    if fault == "missing":
        return _pick(_MISSING, rng).format(**story)
    if fault == "wrong":
        return _pick(_SUMMARIES, rng).format(**_falsified(story, rng))
    if fault == "truncated":
        return " ".join(words[: int(rng.integers(2, max(3, len(words) - 2)))])
    if fault == "repeated":
        span = int(rng.integers(2, 6))
        begin = int(rng.integers(max(1, len(words) - span)))
        words[begin:begin] = words[begin : begin + span] * int(rng.integers(1, 3))
        return " ".join(words[:_LONGEST])
    # Verbose: the beginning of the post as it stands, or a long way round to the summary.
    if rng.random() < 0.5:
        return " ".join(post(story).split()[: int(rng.integers(15, _LONGEST + 1))])
    return " ".join(f"{_pick(_FILLERS, rng)} {text}".split()[:_LONGEST])


def _falsified(story: Story, rng: np.random.Generator) -> dict[str, str]:
    """Return the story with one or two facts taken from another one."""
    other = _draw_story(rng)
    while _key(other) == _key(story):
        other = _draw_story(rng)
    wrong = dict(story)
    facts = ("who", "thing", "why", "ask", "did")
    for i in rng.permutation(len(facts))[: int(rng.integers(1, 3))]:
        wrong[facts[i]] = other[facts[i]]
    return wrong


@functools.cache
def tokenizer() -> WordTokenizer:
    """Return the tokenizer of all words that the grammar can produce, in alphabetical order."""
    texts = [*_QUESTIONS, *_BACKGROUNDS, *_EVENTS, *_REASONS, *_DETAILS, *_FEELINGS]
    texts += [*_SUMMARIES, *_MISSING, *_FILLERS, *_WHO, *_HE, *_SHE, ASK]
    texts += [word for values in _SLOTS.values() for word in values]
    for did, (things, reasons) in _DEEDS.items():
        texts += [did, *things, *reasons]
    bare = " ".join(word for text in texts for word in text.split() if word[0] != "{")
    return WordTokenizer(sorted(set(WordTokenizer.split(bare))))
