"""What things cost, as `longspan bench` measured it: lines for a terminal, tables, and charts on logarithmic axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from longspan.files import write_text
from longspan.lengths import format_length
from longspan.records import Record
from longspan.report.charts import Curve, Point
from longspan.report.figures import Figure
from longspan.report.formats import DASH, format_value
from longspan.report.metrics import metric_named
from longspan.report.plots import standalone
from longspan.report.scales import bytes_axis, length_axis, log_axis

EXPONENTS = {"seconds": "exponent", "bytes": "memory exponent"}
"""Costs that are drawn by length, and the metric of their fitted exponents."""
RATIOS = {"ratio": "", "memory ratio": ", memory"}
"""Metrics of ratios, and what they add to the name of the task."""
LIMIT = "limit"
"""The contestant that stands for the physical limit."""


def record_line(record: Record) -> str:
    """One record as a line: where, who, what, and its spread."""
    place = "" if record.length is None else format_length(record.length)
    model = "" if record.model in ("", record.method, record.method.partition(" / ")[0]) else f" ({record.model})"
    where = f"{record.task}{model}"
    what = f"{where:36} {place:>6} {record.method:28} {record.metric}"
    if record.value is None:
        return f"{what}: {record.note}"
    return f"{what} {_value(record)}" + ("" if record.n is None else f", n = {record.n}")


def _value(record: Record) -> str:
    assert record.value is not None
    spread = ""
    if record.low is not None and record.high is not None:
        spread = f" ({_number(record.low, record.metric)}{DASH}{_number(record.high, record.metric)})"
    return _number(record.value, record.metric) + spread


def _number(value: float, metric: str) -> str:
    if metric in EXPONENTS:
        return format_value(value, metric)
    return f"{value:.3g}" if metric.endswith("per second") or value >= 10 else f"{value:.2f}"


def bench_section(records: Sequence[Record], pictures: Sequence[str]) -> str:
    """All that was measured on one machine, as Markdown under its name; `pictures` are links to the charts."""
    latest = max(records, key=lambda record: record.when)
    parts = {
        "": f"Latest number: {latest.when[:10]}; {latest.versions}.",
        "Ratios": ratio_table(records),
        "Shares of the physical limit": limit_table(records),
        "How costs grow": exponent_table(records),
        "Single numbers": seconds_table(records),
        "Left out": left_out_list(records),
        "Time and memory by length": "\n\n".join(f"![{_title(picture)}]({picture})" for picture in pictures),
    }
    told = [f"#### {title}\n\n{text}" if title else text for title, text in parts.items() if text]
    hardware = Counter(record.hardware for record in records).most_common(1)[0][0]
    return "\n\n".join([f"### {hardware}", *told])


def _title(picture: str) -> str:
    return Path(picture).stem.replace("-", " ")


def ratio_table(records: Sequence[Record]) -> str:
    """Paired ratios by length: one row for each task and pair, time and memory apart."""
    ratios = [record for record in records if record.metric in RATIOS and record.value is not None]
    return _by_length(ratios, ("what", "ratio of"), lambda record: f"{_task(record, records)}{RATIOS[record.metric]}")


def limit_table(records: Sequence[Record]) -> str:
    """Shares of the physical limit by length, one row for each task and contestant."""
    shares = [record for record in records if record.metric == "share of limit"]
    return _by_length(shares, ("what", "contestant"), lambda record: _task(record, records))


def exponent_table(records: Sequence[Record]) -> str:
    """Fitted exponents of time and memory, one row for each task and contestant."""
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        if record.metric in EXPONENTS.values() and record.value is not None:
            found.setdefault((_task(record, records), record.method), {})[record.metric] = record
    if not found:
        return ""
    lines = ["| what | contestant | time | memory |", "|---|---|---|---|"]
    for (task, method), row in found.items():
        cells = [_value(row[name]) if name in row else DASH for name in EXPONENTS.values()]
        lines.append(f"| {task} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def seconds_table(records: Sequence[Record]) -> str:
    """Seconds of what has no length, one row for each task and contestant; the machine's rates too."""
    lines = []
    rates = {record.metric: record for record in records if record.task == "machine"}
    for metric, record in rates.items():
        lines.append(f"| the machine | {metric} | {_value(record)} |")
    for record in records:
        if record.metric == "seconds" and record.length is None:
            lines.append(f"| {record.task} | {record.method} | {_value(record)} s |")
    return "\n".join(["| what | contestant | measured |", "|---|---|---|", *lines]) if lines else ""


def left_out_list(records: Sequence[Record]) -> str:
    """Who was not measured, from which length on, and why."""
    return "\n".join(
        f"- {_task(record, records)}"
        + ("" if record.method == record.task else f", {record.method}")
        + ("" if record.length is None else f", from {format_length(record.length)} on")
        + f": {record.note}"
        for record in records
        if record.metric == "left out"
    )


def _task(record: Record, records: Sequence[Record]) -> str:
    """The task, with the model where several were measured at it."""
    models = {other.model for other in records if other.task == record.task and other.method == record.method}
    return f"{record.task}, {record.model.removeprefix('llama, ')}" if len(models) > 1 else record.task


def _by_length(records: Sequence[Record], heads: tuple[str, str], name: Callable[[Record], str]) -> str:
    if not records:
        return ""
    lengths = sorted({record.length for record in records if record.length is not None})
    rows: dict[tuple[str, str], dict[int | None, Record]] = {}
    for record in records:
        rows.setdefault((name(record), record.method), {})[record.length] = record
    lines = [f"| {heads[0]} | {heads[1]} | " + " | ".join(format_length(length) for length in lengths) + " |"]
    lines.append("|---|---|" + "---|" * len(lengths))
    for (task, method), row in rows.items():
        cells = [_value(row[length]) if length in row else DASH for length in lengths]
        lines.append(f"| {task} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bench_figures(records: Sequence[Record]) -> list[Figure]:
    """Time and memory by length, a chart for each task and model, the fitted exponents in the names of the lines."""
    kinds = dict.fromkeys(
        (record.metric, record.task, _shared_model(record))
        for record in records
        if record.metric in EXPONENTS and record.length is not None
    )
    figures = [_figure(records, *kind) for kind in kinds]
    return [figure for figure in figures if figure is not None]


def _shared_model(record: Record) -> str:
    """The model in which all contestants met; none where a contestant is a model of its own."""
    return "" if record.model == record.method else record.model


def _figure(records: Sequence[Record], metric: str, task: str, model: str) -> Figure | None:
    points: dict[str, list[Point]] = {}
    slopes: dict[str, float] = {}
    for record in records:
        if record.task != task or _shared_model(record) != model or record.value is None or record.length is None:
            continue
        if record.metric == EXPONENTS[metric]:
            slopes[record.method] = record.value
        elif record.metric == metric:
            told = _value(record)
            point = Point(record.length, record.value, record.low, record.high, format_length(record.length), told)
            points.setdefault(record.method, []).append(point)
    lengths = sorted({int(point.x) for row in points.values() for point in row})
    if len(lengths) < 2:
        return None
    curves = []
    for index, (method, row) in enumerate(points.items()):
        label = f"{method}: {_power(slopes[method])}" if method in slopes else method
        color, dash = (7, 1) if method == LIMIT else (index, 0)
        curves.append(Curve(label, sorted(row, key=lambda point: point.x), color=color, dash=dash))
    where = f"{task}, {model}" if model else task
    title = f"{where[0].upper()}{where[1:]}: {metric}"
    name = "-".join("".join(letter if letter.isalnum() else " " for letter in f"{where} {metric}").split())
    values = [point.y for row in points.values() for point in row]
    known = metric_named(metric)
    y = bytes_axis(values, known.title) if metric == "bytes" else log_axis(values, known.title, widest=1e9)
    return Figure(name, title, known.advice, task, curves, length_axis(lengths, "tokens"), y)


def _power(exponent: float) -> str:
    """`n^1.9`, n being the length."""
    return f"n^{exponent:.1f}"


def write_bench_plots(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write each chart to `folder` as SVG; their paths. One length alone makes no chart."""
    written = []
    for figure in bench_figures(records):
        path = Path(folder) / f"{figure.name}.svg"
        write_text(path, standalone(figure))
        written.append(path)
    return written
