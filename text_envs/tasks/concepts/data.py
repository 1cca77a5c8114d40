"""CommonGen in both of its formats: a row a sentence, or a row a concept set."""

from __future__ import annotations

from typing import Any

from text_envs.episodes.errors import DatasetError
from text_envs.episodes.types import Example
from text_envs.tasks.concepts.grammar import prompt
from text_envs.tasks.shared.records import Record, read_records

__all__ = ["load_concepts"]


def load_concepts(dataset: Any, *, split: str) -> list[Example]:
    """Return one example a concept set, in the order of the data.

    Args:
        dataset: rows as `shared.records.read_records` takes them, either `concepts` (a
            list), `target` (a sentence) and `concept_set_idx`, rows with one index forming one
            example; or `concept_set` (concepts joined by "#") and `scene` (a list of sentences).
            Sentences may be missing or empty, as they are in a test set.
        split: the split to keep.

    Raises:
        DatasetError: a malformed row, or a row without concepts.
    """
    found: dict[str, tuple[list[str], list[str]]] = {}
    for record in read_records(dataset, split=split):
        concepts, sentences = _read(record)
        if not concepts or not all(concepts):
            raise DatasetError(f"{record.where}: a concept set is empty or has an empty concept")
        # Concepts in another order are another set only where the data numbers it as one.
        key = record.key("concept_set_idx") or " ".join(sorted(concepts))
        known, references = found.setdefault(key, (concepts, []))
        if sorted(known) != sorted(concepts):
            raise DatasetError(
                f"{record.where}: field 'concept_set_idx' says {key}, whose concepts were {known} "
                f"further up, and here they are {concepts}"
            )
        references += [sentence for sentence in sentences if sentence]
    return [
        Example(prompt(concepts), tuple(references), {"concepts": tuple(concepts)})
        for concepts, references in found.values()
    ]


def _read(record: Record) -> tuple[list[str], list[str]]:
    """Return the concepts and the sentences of one row."""
    if record.find("concepts", "concept_set") == "concepts":
        target = "target" if "target" in record else None
        return record.texts("concepts"), [record.text(target)] if target else []
    # Some files tag the part of speech: "dog_N#run_V".
    concepts = [word.partition("_")[0].strip() for word in record.text("concept_set").split("#")]
    return concepts, record.texts("scene") if "scene" in record else []
