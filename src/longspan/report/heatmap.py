"""Passkey heat maps: depth by length, one compact grid for each line."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from longspan.lengths import format_length
from longspan.report.formats import format_cell
from longspan.report.results import Cell

LEVELS = 11
"""Steps of the colour scale in chart.css, h0 (accuracy 0) to h10 (accuracy 1)."""
_CELL_WIDTH, _CELL_HEIGHT, _LEFT, _TOP, _BOTTOM = 30, 13, 38, 4, 22


def heat_map(cells: Mapping[tuple[int, float], Cell], lengths: list[int], depths: list[float], mark: int | None) -> str:
    """One grid as inline SVG: columns `lengths`, rows `depths` (0 at the top), a vertical line after length `mark`.

    Cells of one length and colour are one path, and what the page shows at a touch stands in one attribute: a page of
    fifty grids stays small.
    """
    width = _LEFT + _CELL_WIDTH * len(lengths) + 6
    height = _TOP + _CELL_HEIGHT * len(depths) + _BOTTOM
    levels: dict[tuple[int, str], list[str]] = {}
    texts = []
    for row, depth in enumerate(depths):
        for column, length in enumerate(lengths):
            cell = cells.get((length, depth))
            level = "absent" if cell is None else f"h{round(min(max(cell.value, 0.0), 1.0) * (LEVELS - 1))}"
            place = f"M{_LEFT + column * _CELL_WIDTH} {_TOP + row * _CELL_HEIGHT}"
            levels.setdefault((length, level), []).append(
                f"{place}h{_CELL_WIDTH - 1}v{_CELL_HEIGHT - 1}h-{_CELL_WIDTH - 1}z"
            )
            texts.append(format_cell(cell, "accuracy").split(" ")[0])
    paths = "".join(
        f'<path class="{level}" data-length="{length}" d="{"".join(found)}"/>'
        for (length, level), found in sorted(levels.items())
    )
    columns = ",".join(format_length(length) for length in lengths)
    rows = ",".join(f"{depth:.0%}" for depth in depths)
    grid = f'data-x0="{_LEFT}" data-y0="{_TOP}" data-w="{_CELL_WIDTH}" data-h="{_CELL_HEIGHT}"'
    return (
        f'<svg class="heat" viewBox="0 0 {width} {height}" role="img" aria-label="passkey accuracy by depth and '
        f'length" {grid} data-cols="{columns}" data-rows="{rows}" data-cells="{escape(",".join(texts))}">'
        f"{paths}{_labels(lengths, depths)}{_mark(lengths, len(depths), mark)}</svg>"
    )


def _labels(lengths: list[int], depths: list[float]) -> str:
    bottom = _TOP + _CELL_HEIGHT * len(depths)
    every = 1 if len(lengths) <= 8 else 2
    texts = [
        f'<text class="{_parity(len(lengths) - 1 - column)}" x="{_middle(column):.1f}" '
        f'y="{bottom + 13}" text-anchor="middle">{format_length(length)}</text>'
        for column, length in enumerate(lengths)
        if (len(lengths) - 1 - column) % every == 0
    ]
    for row in sorted({0, len(depths) // 2, len(depths) - 1}):
        at = _TOP + (row + 0.5) * _CELL_HEIGHT + 4
        texts.append(f'<text x="{_LEFT - 5}" y="{at:.1f}" text-anchor="end">{depths[row]:.0%}</text>')
    return "".join(texts)


def _middle(column: int) -> float:
    return _LEFT + (column + 0.5) * _CELL_WIDTH


def _parity(place: int) -> str:
    """By which a narrow page leaves out every other label, the last one never."""
    return "odd" if place % 2 else "even"


def _mark(lengths: list[int], rows: int, mark: int | None) -> str:
    inside = sum(length <= mark for length in lengths) if mark else 0
    if not 0 < inside < len(lengths):
        return ""
    at = _LEFT + inside * _CELL_WIDTH - 0.5
    return f'<path class="edge" d="M{at} 0V{_TOP + rows * _CELL_HEIGHT + 3}"/>'
