"""The parts of the report page that show charts, each a piece of HTML; empty where nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from longspan.report.charts import COLORS, DASHES, Curve, line_chart
from longspan.report.curves import curves_by_length, line_data, position_curves, training_curves, training_marks
from longspan.report.formats import format_value
from longspan.report.heatmap import LEVELS, heat_map
from longspan.report.results import PLAIN, Line, Results, lengths_of
from longspan.report.scales import Axis, length_axis, linear_axis, log_axis, share_axis
from longspan.report.summary import best

MOST_SHOWN = 10
"""So many lines are switched on at the start; with more, extensions other than the best are hidden."""


def shown_lines(results: Results) -> set[Line]:
    """The lines that are switched on when the page opens."""
    if len(results.lines) <= MOST_SHOWN:
        return set(results.lines)
    kept = {PLAIN if PLAIN in results.extensions else results.extensions[0]}
    cells = results.by_length("perplexity")
    if cells and len(results.arms) * 2 <= MOST_SHOWN + 2:
        extended = {line: row for line, row in cells.items() if line.extension != PLAIN}
        leaders, _ = best(extended, lengths_of(cells)[-1], "perplexity")
        kept.update(line.extension for line in leaders[:1])
    return {line for line in results.lines if line.extension in kept}


def switches(results: Results, shown: set[Line]) -> str:
    """Buttons that show and hide arms and extensions in all charts at once."""
    if len(results.lines) < 2:
        return ""
    groups = []
    one_arm = len(results.arms) == 1
    on_arms, on_extensions = {line.arm for line in shown}, {line.extension for line in shown}
    for key, title, values, on in (
        ("arm", "arm", results.arms, on_arms),
        ("ext", "extension", results.extensions, on_extensions),
    ):
        labels = {line.label for line in results.lines}
        if len(values) < 2 or (key == "ext" and labels == set(results.arms)):
            continue
        buttons = []
        for index, value in enumerate(values):
            color = f"c{index % COLORS}" if (key == "arm") != one_arm else "ink"
            dash = f"d{index % DASHES}" if key == "ext" and not one_arm else "d0"
            swatch = (
                '<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true"><path class="stroke" d="M2 4H20"/></svg>'
            )
            pressed = "true" if value in on else "false"
            buttons.append(
                f'<button type="button" class="chip {color} {dash}" data-{key}="{index}" aria-pressed="{pressed}">'
                f"{swatch}{escape(value)}</button>"
            )
        groups.append(f'<div class="group" data-group="{key}"><span>{title}</span>{"".join(buttons)}</div>')
    return f'<div class="switches">{"".join(groups)}</div>' if groups else ""


def curves_section(results: Results, shown: set[Line]) -> str:
    """Perplexity, passkey and the loss on the answer by length."""
    figures = []
    for task, metric, title, note in (
        ("perplexity", "perplexity", "Perplexity by length", "Lower is better; both axes are logarithmic."),
        ("passkey", "accuracy", "Passkey accuracy by length", "Higher is better; over all depths."),
        ("passkey", "nll", "Loss on the passkey answer", "Lower is better; it moves before accuracy does."),
    ):
        cells = results.by_length(task, metric)
        if not cells:
            continue
        curves = curves_by_length(results, cells, metric, shown)
        x, y = length_axis(lengths_of(cells), "tokens in the window"), _value_axis(curves, metric)
        if metric == "perplexity" and _highest(curves) > y.high:
            note += f" Lines that leave the top go beyond {format_value(y.high, metric)}; the table has the numbers."
        chart = line_chart(f"{task}-{metric}", curves, x, y, marks=training_marks(results))
        figures.append(figure(title, note, chart))
    body = f'<div class="grid2">{"".join(figures)}</div>'
    return section("By length", spread_note(results), body) if figures else ""


def positions_section(results: Results, shown: set[Line]) -> str:
    """Loss by position in the window, and training loss by progress."""
    figures = []
    positions = position_curves(results, shown)
    if positions:
        places = [int(point.x) for curve in positions for point in curve.points]
        x = length_axis(places, "position in the window")
        chart = line_chart("position", positions, x, _value_axis(positions, "nll"), marks=training_marks(results))
        note = "Nats per token in one forward pass of the longest window measured: where a line turns up, it breaks."
        figures.append(figure("Loss by position", note, chart))
    training = training_curves(results, shown)
    if training:
        x = share_axis("share of training", percent=True)
        y = log_axis((point.y for curve in training for point in curve.points), "nats per token")
        chart = line_chart("training", training, x, y)
        figures.append(figure("Training loss", "Nats per token on the training data; logarithmic.", chart))
    body = f'<div class="grid2">{"".join(figures)}</div>'
    return section("Inside the window and during training", "", body) if figures else ""


def heat_section(results: Results, shown: set[Line]) -> str:
    """Passkey by depth and length, a grid for each line."""
    cells = results.by_depth("passkey")
    if not cells:
        return ""
    keys = [key for row in cells.values() for key in row]
    lengths, depths = sorted({length for length, _ in keys}), sorted({depth for _, depth in keys})
    mark = results.train_lengths[0] if len(results.train_lengths) == 1 else None
    maps = []
    for line, row in cells.items():
        data = "".join(f' data-{key}="{value}"' for key, value in line_data(results, line).items())
        off = "" if line in shown else " off"
        drawn = heat_map(row, lengths, depths, mark)
        maps.append(f'<figure class="map{off}"{data}><figcaption>{escape(line.label)}</figcaption>{drawn}</figure>')
    steps = "".join(f'<i class="h{level}"></i>' for level in range(LEVELS))
    scale = f'<p class="scale">accuracy 0 <span>{steps}</span> 1 <i class="absent"></i> not measured</p>'
    note = "Depth (place of the passkey, 0 % is the start of the prompt) by length."
    note += " The vertical line is the training length." if mark else ""
    return section("Passkey by depth", note, f'{scale}<div class="maps">{"".join(maps)}</div>')


def section(title: str, note: str, body: str) -> str:
    """A headed part of the page."""
    told = f'<p class="soft">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{told}{body}</section>"


def figure(title: str, note: str, chart: str) -> str:
    """A chart with its title and what to know in order to read it."""
    return (
        f'<figure class="card"><figcaption><b>{title}</b><span class="soft">{note}</span></figcaption>{chart}</figure>'
    )


def spread_note(results: Results) -> str:
    """What bands and parentheses mean in these results."""
    rows = [*results.by_length("perplexity").values(), *results.by_length("passkey").values()]
    counts = {len(cell.seeds) for row in rows for cell in row.values()}
    single, several = "the 95 % interval", "the lowest and highest seed around their mean"
    if counts == {1}:
        return f"Parentheses: {single}; bands are drawn for accuracies."
    if 1 in counts:
        return f"Bands and parentheses: {several}; where there is one seed, parentheses: {single}."
    return f"Bands and parentheses: {several}."


def _value_axis(curves: Sequence[Curve], metric: str) -> Axis:
    values = [point.y for curve in curves for point in curve.points]
    if metric == "accuracy":
        return share_axis("accuracy")
    if metric == "perplexity":
        return log_axis(values, "perplexity")
    return linear_axis(values, "nats per token")


def _highest(curves: Sequence[Curve]) -> float:
    return max(point.y for curve in curves for point in curve.points)
