"""The charts of a report, each with what a reader has to know; the page, the plots and the Markdown draw the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from longspan.report.charts import Curve
from longspan.report.curves import curves_by_length, position_curves, training_curves, training_marks
from longspan.report.formats import format_value
from longspan.report.metrics import Metric, metric_named
from longspan.report.results import Line, Results, lengths_of
from longspan.report.scales import Axis, bytes_axis, length_axis, linear_axis, log_axis, share_axis

_WIDEST = 20.0
"""A perplexity axis ends at so many times its lowest value: one exploding line shall not flatten the others."""
_TITLES = {
    ("perplexity", "perplexity"): "Perplexity by length",
    ("passkey", "accuracy"): "Passkey accuracy by length",
    ("passkey", "nll"): "Loss on the passkey answer",
    ("context_gain", "nll"): "Loss by visible context",
    ("context_gain", "gain"): "What further context is worth",
}
_NOTES = {
    ("perplexity", "perplexity"): "Lower is better; both axes are logarithmic.",
    ("passkey", "accuracy"): "Higher is better; over all depths.",
    ("passkey", "nll"): "Lower is better; it moves before accuracy does.",
    ("context_gain", "nll"): "Lower is better; the same tokens, by the window that they are read in.",
    ("context_gain", "gain"): "How much lower the loss is than in the shortest window; below 0 context harms.",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart."""

    name: str
    """An identifier, unique in the report."""
    title: str
    note: str
    task: str
    curves: Sequence[Curve]
    x: Axis
    y: Axis
    marks: Sequence[tuple[float, str]] = ()


def length_figures(results: Results, shown: set[Line], *, costs: bool = False) -> list[Figure]:
    """How good the lines are by length; with `costs`, what they take instead. One length alone makes no chart."""
    wanted = [place for place in results.measures if metric_named(place[1]).is_cost == costs and not _is_double(*place)]
    figures = [_length_figure(results, shown, task, metric) for task, metric in wanted]
    return [figure for figure in figures if figure is not None]


def _is_double(task: str, metric: str) -> bool:
    """Whether another metric of the task shows the same."""
    return metric.startswith("predicted") or (task == "perplexity" and metric != "perplexity")


def _length_figure(results: Results, shown: set[Line], task: str, metric: str) -> Figure | None:
    cells = results.by_length(task, metric)
    lengths = lengths_of(cells)
    if len(lengths) < 2:
        return None
    known = metric_named(metric)
    curves = curves_by_length(results, cells, metric, shown)
    values = [point.y for curve in curves for point in curve.points]
    y = _value_axis(values, metric, known)
    title = _TITLES.get((task, metric), f"{task}: {known.title} by length")
    note = _NOTES.get((task, metric), known.advice)
    if metric == "perplexity" and max(values) > y.high:
        note += f" Lines that leave the top go beyond {format_value(y.high, metric)}; the table has the numbers."
    x = length_axis(lengths, "tokens in the window")
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{task}-{metric}")
    return Figure(name, title, note, task, curves, x, y, training_marks(results))


def inside_figures(results: Results, shown: set[Line]) -> list[Figure]:
    """Loss by position in the window, and training loss by progress."""
    figures = []
    positions = position_curves(results, shown)
    if positions:
        places = [int(point.x) for curve in positions for point in curve.points]
        x = length_axis(places, "position in the window")
        y = linear_axis((point.y for curve in positions for point in curve.points), "nats per token")
        note = "Nats per token in one forward pass of the longest window measured: where a line turns up, it breaks."
        marks = training_marks(results)
        figures.append(Figure("position", "Loss by position", note, "position", positions, x, y, marks))
    training = training_curves(results, shown)
    if training:
        x = share_axis("share of training", percent=True)
        y = log_axis((point.y for curve in training for point in curve.points), "nats per token")
        note = "Nats per token on the training data; logarithmic."
        figures.append(Figure("training", "Training loss", note, "train", training, x, y))
    return figures


def _value_axis(values: Sequence[float], metric: str, known: Metric) -> Axis:
    if known.scale == "share":
        return share_axis(known.title)
    if metric.endswith("bytes"):
        return bytes_axis(values, known.title)
    if known.scale == "log":
        return log_axis(values, known.title, widest=_WIDEST if metric == "perplexity" else 1e6)
    return linear_axis(values, known.title)
