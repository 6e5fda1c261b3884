"""Key-value retrieval in the format of lost-in-the-middle: a JSON object of UUIDs, one of which is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from longspan.evaluate.external.reading import Parts, find_files, read_parts
from longspan.evaluate.external.suite import FileTask, Question

_PROMPT = (
    "Extract the value corresponding to the specified key in the JSON object below.\n\n"
    'JSON data:\n{{{records}}}\n\nKey: "{key}"\nCorresponding value:'
)


@dataclass(frozen=True, slots=True)
class KeyValues(FileTask):
    """Find the value of a key in a JSON object of random keys and values.

    Reads `kv-retrieval-N_keys.jsonl.gz` (also unpacked), at each length the one with most keys that fits. Depth is the
    place of the pair that is asked for: the file's pair is moved there. Right if the answer has the value in it.
    Source: format, prompt and rule of Lost in the Middle (Liu et al. 2023).
    """

    reads: ClassVar[frozenset[str]] = FileTask.reads | {"depths"}
    has_depth: ClassVar[bool] = True

    @property
    def answer_tokens(self) -> int:
        return 100

    def files(self, folder: str | None) -> list[Path]:
        found = find_files(folder, "kv-retrieval-*_keys.jsonl*", "key_values")
        return sorted(found, key=lambda path: int((re.findall(r"-(\d+)_keys", path.name) or ["0"])[0]))

    def questions(self, path: Path, most: int | None, depth: float | None) -> Parts:
        return read_parts(path, lambda row: [_question(row, depth)], most)

    def score_by(self, answer: str, question: Question) -> float:
        return float(question.references[0].lower() in answer.lower())


def _question(row: dict[str, Any], depth: float | None) -> Question:
    records = [(str(key), str(value)) for key, value in row["ordered_kv_records"]]
    key, value = str(row["key"]), str(row["value"])
    if (key, value) not in records:
        raise ValueError("the key that is asked for is not among the records")
    if depth is not None:
        records.remove((key, value))
        records.insert(round(depth * len(records)), (key, value))
    prompt = _PROMPT.format(records=",\n ".join(f'"{a}": "{b}"' for a, b in records), key=key)
    return Question(prompt=prompt, references=(value,), evidence=prompt.index(f'"{key}": "'))
