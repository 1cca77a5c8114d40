"""Write what rewards need to know of ConceptsToSentence-v0, so that they need not know the task.

The Porter stem of every word, so that no stemmer is needed, and how many training documents hold
each n-gram, by which CIDEr-D weighs.

python -m text_envs.assets.build_concepts      # needs pip install 'text_envs[metrics]'
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from text_envs.rewards.ciderd import count_documents
from text_envs.tasks.concepts import grammar

TARGET = Path(__file__).parent / "concepts"


def main() -> None:
    """Write `stems.json` and `ngrams.json`."""
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
    documents, found = count_documents(grammar.training_references())
    grams: dict[int, list[str]] = {}
    for gram, count in sorted(found.items()):
        grams.setdefault(count, []).append(" ".join(gram))
    counted = {
        "command": content["command"],
        "documents": documents,
        "ngrams": dict(sorted(grams.items())),
    }
    (TARGET / "ngrams.json").write_text(json.dumps(counted, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
