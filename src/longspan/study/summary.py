"""One table for the terminal: perplexity and passkey accuracy side by side, arm by arm, length by length."""

from __future__ import annotations

from collections.abc import Sequence

from longspan.lengths import format_length
from longspan.records import Record
from longspan.report.formats import DASH, format_value
from longspan.report.results import METRICS, Results, lengths_of
from longspan.study.config import StudyConfig
from longspan.study.gate import gate_line, gate_records

TASKS = {"perplexity": "perplexity (lower is better)", "passkey": "passkey accuracy (higher is better)"}


def summary_table(study: StudyConfig, records: Sequence[Record]) -> str:
    """Rows are arms with their extensions, columns lengths; means over seeds, without intervals; then the gate."""
    results = Results(records)
    found = {task: cells for task in TASKS if (cells := results.by_length(task))}
    lengths = sorted({length for cells in found.values() for length in lengths_of(cells)})
    lines = [line for line in results.lines if any(line in cells for cells in found.values())]
    first = max(len(line.label) for line in lines)
    header, titles = " " * first, " " * first
    rows = {line: line.label.ljust(first) for line in lines}
    for task, cells in found.items():
        texts = {
            line: [
                format_value(cell.value, METRICS[task]) if (cell := cells.get(line, {}).get(length)) else DASH
                for length in lengths
            ]
            for line in lines
        }
        names = [format_length(length) for length in lengths]
        width = 2 + max(len(text) for row in [names, *texts.values()] for text in row)
        titles += "  |  " + TASKS[task].ljust(width * len(lengths))
        header += "  |" + "".join(name.rjust(width) for name in names) + "  "
        for line in lines:
            rows[line] += "  |" + "".join(text.rjust(width) for text in texts[line]) + "  "
    table = [
        titles.rstrip(),
        header.rstrip(),
        "-" * max(map(len, [titles, header])),
        *(r.rstrip() for r in rows.values()),
    ]
    gate = gate_line(study, gate_records(study, records))
    return "\n".join([*table, *(["", gate] if gate else [])])
