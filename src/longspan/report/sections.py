"""The parts of the report page that show charts, each a piece of HTML; empty where nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from longspan.lengths import format_length
from longspan.report.charts import COLORS, DASHES, Frame, line_chart, room_for
from longspan.report.contest import best
from longspan.report.curves import line_data
from longspan.report.figures import Figure, inside_figures, length_figures
from longspan.report.heatmap import LEVELS, heat_map
from longspan.report.metrics import is_score
from longspan.report.results import PLAIN, Line, Results, lengths_of

MOST_SHOWN = 10
"""So many lines are switched on at the start; with more, extensions other than the best are hidden."""
_SWATCH = '<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true"><path class="stroke" d="M2 4H20"/></svg>'


def shown_lines(results: Results) -> set[Line]:
    """The lines that are switched on when the page opens."""
    cells = results.by_length("perplexity")
    if len(results.lines) <= MOST_SHOWN or not cells:
        return set(results.lines)
    kept = {PLAIN if PLAIN in results.extensions else results.extensions[0]}
    if len(results.arms) * 2 <= MOST_SHOWN + 2:
        extended = {line: row for line, row in cells.items() if line.extension != PLAIN}
        leaders, _ = best(extended, lengths_of(cells)[-1], "perplexity")
        kept.update(line.extension for line in leaders[:1])
    lines = [line for line in results.lines if line.extension in kept or results.alone(line)]
    arms = _leading_arms(results, lines)
    return {line for line in lines if line.arm in arms}


def _leading_arms(results: Results, lines: Sequence[Line]) -> set[str]:
    """All arms of `lines`; of too many, the first and those with the lowest perplexity at the longest length."""
    arms = list(dict.fromkeys(line.arm for line in lines))
    cells = {line: row for line, row in results.by_length("perplexity").items() if line in lines}
    if len(arms) <= MOST_SHOWN or not cells:
        return set(arms)
    leaders, others = best(cells, lengths_of(cells)[-1], "perplexity")
    order = dict.fromkeys([arms[0], *(line.arm for line in [*leaders, *others])])
    return set(list(order)[:MOST_SHOWN])


def filters(results: Results, shown: set[Line]) -> str:
    """Buttons that show and hide arms, extensions, tasks and lengths in everything below at once."""
    one_arm = len(results.arms) == 1
    on_arms = {results.arms.index(line.arm) for line in shown}
    on_extensions = {results.extensions.index(line.extension) for line in shown if not results.alone(line)}
    used = {line.extension for line in results.lines if not results.alone(line)}
    extensions = [(i, name) for i, name in enumerate(results.extensions) if name in used]
    groups = [
        _group("arm", "arm", list(enumerate(results.arms)), colored=not one_arm, on=on_arms),
        _group("ext", "extension", extensions, colored=one_arm, dashed=not one_arm, on=on_extensions),
        _group("task", "task", [(task, task) for task in _filtered_tasks(results, shown)]),
        _group("length", "length", [(length, format_length(length)) for length in all_lengths(results)]),
    ]
    found = "".join(groups)
    if not found:
        return ""
    count = '<output class="soft" id="count"></output>' if len(results.lines) > 1 else ""
    return f'<div class="filters" role="group" aria-label="filters">{found}{count}</div>'


def _group(
    key: str,
    title: str,
    values: Sequence[tuple[int | str, str]],
    *,
    colored: bool = False,
    dashed: bool = False,
    on: set[int] | None = None,
) -> str:
    """One row of buttons; nothing where there is no choice."""
    if len(values) < 2:
        return ""
    buttons = []
    for value, name in values:
        number = value if isinstance(value, int) else 0
        color = f"c{number % COLORS}" if colored else "ink"
        look = (
            f'<span class="{color} d{number % DASHES if dashed else 0}">{_SWATCH}</span>' if colored or dashed else ""
        )
        pressed = "true" if on is None or value in on else "false"
        buttons.append(
            f'<button type="button" class="chip" data-value="{escape(str(value), quote=True)}" '
            f'aria-pressed="{pressed}">{look}{escape(name)}</button>'
        )
    every = '<button type="button" class="every">all</button>'
    return f'<div class="group" data-key="{key}"><span>{title}</span>{every}{"".join(buttons)}</div>'


def _filtered_tasks(results: Results, shown: set[Line]) -> list[str]:
    """Every task that a part of the page shows."""
    return list(dict.fromkeys([*tasks_of(results), *(item.task for item in inside_figures(results, shown))]))


def tasks_of(results: Results) -> list[str]:
    """Tasks that are measured by length, in the order of the records."""
    return list(dict.fromkeys(task for task, _ in results.measures))


def all_lengths(results: Results) -> list[int]:
    """Every length at which something was measured over all depths."""
    return sorted({n for task, metric in results.measures for n in lengths_of(results.by_length(task, metric))})


def curves_section(results: Results, shown: set[Line]) -> str:
    """Every task by length."""
    figures = _grid(length_figures(results, shown), results)
    return section("By length", spread_note(results), figures) if figures else ""


def inside_section(results: Results, shown: set[Line]) -> str:
    """Loss by position in the window, and training loss by progress."""
    figures = _grid(inside_figures(results, shown), results)
    return section("Inside the window and during training", "", figures) if figures else ""


def costs_section(results: Results, shown: set[Line]) -> str:
    """Memory and speed by length."""
    figures = _grid(length_figures(results, shown, costs=True), results)
    return section("Memory and speed by length", "Measured on the hardware named below.", figures) if figures else ""


def _grid(figures: Sequence[Figure], results: Results) -> str:
    names = [line.short for line in results.lines] if len(results.lines) > 1 else []
    frame = Frame(right=room_for(names) if names else 14)
    drawn = []
    for item in figures:
        chart = line_chart(item.name, item.curves, item.x, item.y, marks=item.marks, frame=frame)
        caption = f'<figcaption><b>{escape(item.title)}</b><span class="soft">{escape(item.note)}</span></figcaption>'
        drawn.append(f'<figure class="card" data-task="{escape(item.task, quote=True)}">{caption}{chart}</figure>')
    return f'<div class="grid2">{"".join(drawn)}</div>' if drawn else ""


def heat_sections(results: Results, shown: set[Line]) -> str:
    """Every score by depth and length, a grid for each line."""
    return "".join(_heat_section(results, shown, task, metric) for task, metric in results.measures if is_score(metric))


def _heat_section(results: Results, shown: set[Line], task: str, metric: str) -> str:
    cells = results.by_depth(task, metric)
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
    steps = "".join(
        f'<svg viewBox="0 0 15 12"><path class="h{level}" d="M0 0h15v12h-15z"/></svg>' for level in range(LEVELS)
    )
    scale = f'<p class="scale">{escape(metric)} 0 <span>{steps}</span> 1 <i class="none"></i> not measured</p>'
    note = "Depth (place of what is asked for, 0 % is the start of the prompt) by length in tokens."
    note += " The vertical line is the training length." if mark else ""
    body = f'{scale}<div class="maps">{"".join(maps)}</div>'
    return section(f"By depth: {task}", note, body, task)


def section(title: str, note: str, body: str, task: str | None = None) -> str:
    """A headed part of the page; of one task, if it is named."""
    told = f'<p class="soft">{escape(note)}</p>' if note else ""
    data = f' data-task="{escape(task, quote=True)}"' if task else ""
    return f"<section{data}><h2>{escape(title)}</h2>{told}{body}</section>"


def spread_note(results: Results) -> str:
    """What bands and parentheses mean in these results."""
    rows = [*results.by_length("perplexity").values(), *results.by_length("passkey").values()]
    counts = {len(cell.seeds) for row in rows for cell in row.values()}
    single, several = "the 95 % interval", "the lowest and highest seed around their mean"
    if counts <= {1}:
        return (
            f"Parentheses: {single}; bands are drawn for scores. A perplexity's interval says how documents differ, "
            "which is common to all lines."
        )
    if 1 in counts:
        return f"Bands and parentheses: {several}; where there is one seed, parentheses: {single}."
    return f"Bands and parentheses: {several}."
