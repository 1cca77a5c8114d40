"""Write the Porter stem of every word of ConceptsToSentence-v0, so that it needs no stemmer.

python -m text_envs.assets.build_concepts      # needs pip install 'text_envs[metrics]'
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from text_envs.tasks import concepts_grammar as grammar

TARGET = Path(__file__).parent / "concepts"


def main() -> None:
    """Write `stems.json`."""
    from nltk.stem.porter import PorterStemmer

    stemmer = PorterStemmer()
    words = [word for word in grammar.tokenizer().words if word.isalpha()]
    content = {
        "command": "python -m text_envs.assets.build_concepts",
        "stemmer": f"nltk.stem.porter.PorterStemmer, nltk {version('nltk')}",
        "stems": {word: stemmer.stem(word) for word in words},
    }
    TARGET.mkdir(exist_ok=True)
    (TARGET / "stems.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
