"""The model card of an exported folder: what was done to the model, how to load it, what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from longspan.equation import Method
from longspan.records import Record, versions
from longspan.registry import card, format_methods, name_of
from longspan.report.results import Results
from longspan.report.table import markdown_table, table_note

TASKS = {"perplexity": "Perplexity", "passkey": "Passkey"}
_HEAD = """\
---
library_name: {library}
pipeline_tag: text-generation
tags: [longspan, long-context]
---
"""


def model_card(
    title: str,
    methods: Sequence[Method],
    original_length: int,
    target_length: int,
    *,
    how: str,
    loading: str,
    notes: Sequence[str],
    records: Sequence[Record],
    library: str = "transformers",
) -> str:
    """README.md of an exported folder.

    Args:
        how: one paragraph, how the folder says what the methods do.
        loading: code that loads it, with its fence.
        notes: what a reader should know besides, a line each.
        records: measured with these methods.
        library: what loads it, by the model hub's name.
    """
    spelled = format_methods(methods)
    parts = [
        f"{_HEAD.format(library=library)}\n# {title}",
        f"A window of {original_length} tokens made {target_length} by `{spelled}`, factor "
        f"{target_length / original_length:g}.",
        how,
        "## Load it",
        loading,
        *([] if not notes else ["\n".join(f"- {note}" for note in notes)]),
        "## Measured",
        *_measured(records),
    ]
    if methods:
        parts += ["## Methods", "As `longspan methods` prints them: the settings below are the defaults."]
        parts += [f"```text\n{card(name_of(method))}\n```" for method in methods]
    return "\n\n".join([*parts, f"Exported by longspan ({versions()})."]) + "\n"


def _measured(records: Sequence[Record]) -> list[str]:
    parts = []
    for task, title in TASKS.items():
        if records and Results(records).by_length(task):
            table = markdown_table(records, task=task)
            parts += [f"### {title}", table_note(records, task=task), table.rstrip()]
    return parts or ["Nothing yet: `longspan eval` measures a folder by length."]
