"""The README picture of a study: perplexity and passkey by length, as one SVG file that reads on light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from longspan.errors import ConfigError, DataError
from longspan.files import write_text
from longspan.records import Record
from longspan.report.charts import Curve, Frame, chart_style, plot
from longspan.report.curves import curves_by_length, training_marks
from longspan.report.results import METRICS, Line, Results, lengths_of
from longspan.report.scales import Axis, length_axis, log_axis, share_axis

TITLES = {"perplexity": "Perplexity (lower is better)", "passkey": "Passkey accuracy (higher is better)"}


def write_picture(
    records: Sequence[Record],
    out: Path,
    *,
    lines: Sequence[tuple[str, str]] | None = None,
    lengths: Sequence[int] | None = None,
) -> Path:
    """Write the picture to `out` (.svg) and return it; bands are the spread of seeds, or an accuracy's interval.

    Args:
        records: of one study.
        out: the file to write.
        lines: (arm, extension) of each line to draw, `plain` being the arm as it was trained; None draws every arm
            plain, or all extensions if there is one arm.
        lengths: the lengths to draw; None draws all.

    Raises:
        ConfigError: `out` is no .svg, or `lines` names what the records do not hold.
        DataError: the records hold neither perplexity nor passkey by length.
    """
    out = Path(out)
    if out.suffix != ".svg":
        raise ConfigError(f"{out}: pictures are written as SVG, choose a name that ends in .svg")
    results = Results(records)
    chosen = _choose(results, lines)
    panels = [task for task in TITLES if lengths_of(results.by_length(task))]
    if not panels:
        raise DataError("the records hold neither perplexity nor passkey by length: measure one of them first")
    room = 30 + max(round(6.9 * len(line.short)) for line in chosen)
    frame = Frame(width=330 + room, height=344, left=48, right=room, top=66, bottom=42)
    drawn = [_panel(results, task, chosen, lengths, frame) for task in panels]
    width = frame.width * len(panels) + 16
    body = "".join(f'<g transform="translate({8 + index * frame.width} 0)">{p}</g>' for index, p in enumerate(drawn))
    write_text(
        out,
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {frame.height}" width="{width}" '
        f'height="{frame.height}" role="img"><title>Perplexity and passkey accuracy by length</title>'
        f"<style>{chart_style()}</style>"
        f'<rect width="{width}" height="{frame.height}" rx="10" style="fill:var(--paper)"/>{body}</svg>\n',
    )
    return out


def _choose(results: Results, lines: Sequence[tuple[str, str]] | None) -> list[Line]:
    if lines is None:
        plain = [line for line in results.lines if line.dash == 0]
        return plain if len(results.arms) > 1 else results.lines
    known = {(line.arm, line.extension): line for line in results.lines}
    missing = [f"{arm} / {extension}" for arm, extension in lines if (arm, extension) not in known]
    if missing:
        there = ", ".join(f"{arm} / {extension}" for arm, extension in known)
        raise ConfigError(f"no record of the line {missing[0]}: the records hold {there}")
    return [known[pair] for pair in lines]


def _panel(results: Results, task: str, chosen: Sequence[Line], lengths: Sequence[int] | None, frame: Frame) -> str:
    cells = results.by_length(task)
    kept = {
        line: {length: cell for length, cell in cells[line].items() if lengths is None or length in lengths}
        for line in chosen
        if line in cells
    }
    curves: list[Curve] = curves_by_length(results, kept, METRICS[task])
    if not lengths_of(kept):
        return ""
    x = length_axis(lengths_of(kept), "tokens in the window")
    title = f'<text class="title" x="{frame.left - 38}" y="24">{TITLES[task]}</text>'
    y: Axis = share_axis("accuracy") if task == "passkey" else _value_axis(curves)
    marks = training_marks(results)
    return title + plot(task, curves, x, y, frame, marks=marks, direct_labels=True)


def _value_axis(curves: Sequence[Curve]) -> Axis:
    return log_axis((point.y for curve in curves for point in curve.points), "perplexity")
