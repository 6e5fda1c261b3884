"""The matrix of continual training in reports: heat maps of stages by domains, and the six means of each arm.

Of window extension, too, where rows are trained lengths and columns test lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from longspan.lengths import format_length
from longspan.matrix import METRICS, TASK, Matrix, length_matrix, stage_matrices
from longspan.records import Record
from longspan.report.formats import DASH
from longspan.report.heatmap import LEVELS
from longspan.report.sections import section

TITLES = {
    "current": "current",
    "final": "final",
    "seen": "seen",
    "unseen": "unseen",
    "forgetting": "forgetting",
    "unseen_gain": "unseen gain",
}
_CELL_WIDTH, _CELL_HEIGHT, _LEFT, _TOP = 58, 22, 104, 20
_LIGHT = LEVELS // 2
"""From this step of the scale on, a number stands in the colour of the paper."""


def matrix_table(records: Sequence[Record]) -> str:
    """The six means of each arm over orders and seeds, and what a stage costs, in Markdown; empty without matrices."""
    arms = summaries(records)
    if not arms:
        return ""
    head = ["arm", *TITLES.values(), "seconds a stage", "extra MB"]
    rows = [head, [":--", *("--:" for _ in head[1:])]]
    for arm, found in arms.items():
        rows.append([arm, *(_cell(found.get(metric)) for metric in METRICS), *_costs(records, arm)])
    counts = sorted({record.n or 1 for found in arms.values() for record in found.values()})
    told = (
        f"Accuracy after fine-tuning, mean over orders and seeds ({' or '.join(map(str, counts))} together); in"
        f" parentheses the 95 % interval over them; {DASH}: not part of that arm.\n\n"
    )
    return told + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def summaries(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """The means over orders and seeds by arm and metric: the records that have no seed and no domain."""
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        if record.task == TASK and record.metric in METRICS and record.seed is None and record.domain is None:
            found.setdefault(record.model, {})[record.metric] = record
    return found


def matrix_section(records: Sequence[Record]) -> str:
    """Heat maps of stages by domains, one for each arm and order, means over seeds; empty without such records."""
    grids: dict[tuple[str, str], list[Matrix]] = {}
    for (run, arm, _), matrix in stage_matrices(records).items():
        grids.setdefault((run, arm), []).append(matrix)
    maps = []
    for (run, arm), matrices in grids.items():
        first = matrices[0]
        names = ["initial", *(f"{i} {name}" for i, name in enumerate(map(str, first.rows), start=1))]
        own = {(row, column) for column, row in enumerate(first.learned) if row is not None}
        title = f"{arm}, order {run.rpartition('/')[2]}"
        maps.append(_figure(title, names, [str(column) for column in first.columns], _mean(matrices), own))
    if not maps:
        return ""
    note = (
        "Accuracy on the domain of the column after the stage of the row; the framed cell is the domain just learned."
    )
    return section("Stages by domains", note, f'{_means(records)}{_scale()}<div class="grid2">{"".join(maps)}</div>')


def length_section(records: Sequence[Record]) -> str:
    """Passkey of trained length by test length, for results of more than one trained length; else empty."""
    by_arm: dict[str, list[Record]] = {}
    for record in records:
        by_arm.setdefault(record.method, []).append(record)
    maps = []
    for method, found in by_arm.items():
        matrix = length_matrix(found)
        if len(matrix.rows) > 1:
            names = [format_length(int(length)) for length in matrix.rows]
            columns = [format_length(int(length)) for length in matrix.columns]
            own = {(row - 1, column) for column, row in enumerate(matrix.learned) if row is not None}
            maps.append(_figure(method, names, columns, [list(row) for row in matrix.scores[1:]], own))
    if not maps:
        return ""
    note = (
        "Passkey accuracy: rows are trained lengths, columns test lengths; framed: the first that was trained so far."
    )
    return section("Trained length by test length", note, f'{_scale()}<div class="grid2">{"".join(maps)}</div>')


def _figure(
    title: str, rows: Sequence[str], columns: Sequence[str], scores: list[list[float | None]], own: set[tuple[int, int]]
) -> str:
    """One grid as inline SVG with its numbers; cells of `own` are framed."""
    width, height = _LEFT + _CELL_WIDTH * len(columns) + 4, _TOP + _CELL_HEIGHT * len(rows) + 4
    parts = []
    for column, name in enumerate(columns):
        at = _LEFT + (column + 0.5) * _CELL_WIDTH
        parts.append(f'<text x="{at}" y="{_TOP - 7}" text-anchor="middle">{escape(_short(name, 9))}</text>')
    for row, name in enumerate(rows):
        top = _TOP + row * _CELL_HEIGHT
        parts.append(f'<text x="{_LEFT - 6}" y="{top + 15}" text-anchor="end">{escape(_short(name, 16))}</text>')
        for column, score in enumerate(scores[row]):
            parts.append(_square(_LEFT + column * _CELL_WIDTH, top, score, framed=(row, column) in own))
    drawn = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f'<figure class="card"><figcaption><b>{escape(title)}</b></figcaption>{drawn}</figure>'


def _square(left: float, top: float, score: float | None, *, framed: bool) -> str:
    box = f'd="M{left + 1} {top + 1}h{_CELL_WIDTH - 2}v{_CELL_HEIGHT - 2}h-{_CELL_WIDTH - 2}z"'
    if score is None:
        return f'<path class="absent" {box}/>'
    level = round(min(max(score, 0.0), 1.0) * (LEVELS - 1))
    ink = "paper" if level > _LIGHT else "ink"
    middle = f'x="{left + _CELL_WIDTH / 2}" y="{top + 15}" text-anchor="middle"'
    frame = f'<path class="edge" {box}/>' if framed else ""
    return f'<path class="h{level}" {box}/>{frame}<text {middle} style="fill:var(--{ink})">{100 * score:.1f}</text>'


def _scale() -> str:
    steps = "".join(f'<i class="h{level}"></i>' for level in range(LEVELS))
    return f'<p class="scale">0 % <span>{steps}</span> 100 % <i class="absent"></i> not measured</p>'


def _means(records: Sequence[Record]) -> str:
    """The six means of each arm as an HTML table."""
    arms = summaries(records)
    if not arms:
        return ""
    head = "".join(f'<th scope="col">{title}</th>' for title in ("arm", *TITLES.values()))
    rows = "".join(
        f'<tr><th scope="row">{escape(arm)}</th>'
        + "".join(f"<td>{_cell(found.get(metric))}</td>" for metric in METRICS)
        + "</tr>"
        for arm, found in arms.items()
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(record: Record | None) -> str:
    """A mean in percent with its interval."""
    if record is None or record.value is None:
        return DASH
    text = f"{100 * record.value:.2f}"
    if record.low is not None and record.high is not None:
        text += f" ({100 * record.low:.2f} to {100 * record.high:.2f})"
    return text


def _costs(records: Sequence[Record], arm: str) -> list[str]:
    """Mean seconds of a stage, and the most megabytes kept beside the model."""
    found: dict[str, list[float]] = {}
    for record in records:
        if record.task == "stage" and record.model == arm and record.value is not None:
            found.setdefault(record.metric, []).append(record.value)
    seconds, extra = found.get("seconds"), found.get("extra_bytes")
    return [f"{fmean(seconds):.1f}" if seconds else DASH, f"{max(extra) / 1e6:.1f}" if extra else DASH]


def _mean(matrices: Sequence[Matrix]) -> list[list[float | None]]:
    """Cell by cell, over the matrices that have it."""
    rows = []
    for row in range(len(matrices[0].scores)):
        cells = []
        for column in range(len(matrices[0].columns)):
            values = [value for matrix in matrices if (value := matrix.scores[row][column]) is not None]
            cells.append(fmean(values) if values else None)
        rows.append(cells)
    return rows


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
