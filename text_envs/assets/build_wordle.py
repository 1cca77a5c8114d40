"""Build the word lists of Wordle: the most frequent five-letter words of English.

    python -m text_envs.assets.build_wordle      # needs pip install 'text_envs[build]'

A word is taken if a spelling dictionary has it in lower case (which keeps names out) and no list
of offensive words has it. Frequencies come from wordfreq, the dictionary is the American English
one that spylls carries.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

TARGET = Path(__file__).parent / "wordle"
SIZES = {"small": 400, "full": 3000}
PACKAGES = ("wordfreq", "spylls", "better-profanity")
_CANDIDATES = 9000  # five-letter strings looked up; about four in nine are words


def frequent_words() -> list[str]:
    """Return accepted five-letter words, the most frequent first."""
    import spylls
    from better_profanity import profanity
    from spylls.hunspell import Dictionary
    from wordfreq import get_frequency_dict

    folder = Path(spylls.__path__[0]) / "hunspell" / "data" / "en"
    dictionary = Dictionary.from_files(str(folder / "en_US"))
    frequencies = get_frequency_dict("en", wordlist="best")
    strings = [s for s in frequencies if len(s) == 5 and s.isascii() and s.isalpha()]
    # Equal frequencies are common in the tail; the alphabet decides between them.
    strings.sort(key=lambda s: (-frequencies[s], s))
    return [
        s
        for s in strings[:_CANDIDATES]
        # Of nouns the list of offensive words has only the singular.
        if dictionary.lookup(s)
        and not any(map(profanity.contains_profanity, (s, s.removesuffix("s"))))
    ]


def main() -> None:
    """Write `small.txt`, `full.txt` and `card.json`."""
    words = frequent_words()
    TARGET.mkdir(exist_ok=True)
    for name, size in SIZES.items():
        if len(words) < size:
            raise RuntimeError(f"only {len(words)} words were accepted; {name!r} needs {size}")
        (TARGET / f"{name}.txt").write_text("\n".join(sorted(words[:size])) + "\n")
    card = {
        "content": "the most frequent five-letter words of English, in alphabetical order",
        "words": SIZES,
        "command": "python -m text_envs.assets.build_wordle",
        "packages": {package: version(package) for package in PACKAGES},
        "license": (
            "The selection rests on the frequencies of wordfreq (Robyn Speer), whose data is "
            "CC BY-SA 4.0; the two lists are offered under the same licence."
        ),
    }
    (TARGET / "card.json").write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    main()
