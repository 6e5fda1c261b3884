"""An overview as text for a terminal of 100 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from longspan.lengths import format_length
from longspan.planner.assess import Assessment
from longspan.planner.frequencies import sample, touched
from longspan.planner.overview import Overview
from longspan.planner.reach import known_reach
from longspan.registry import format_methods
from longspan.report.formats import format_bytes

WIDTH = 100


def describe(found: Overview, name: str) -> str:
    """Everything but the list of changes; tables are followed by a note that says what stands in them."""
    dtype = str(found.dtype).removeprefix("torch.")
    methods = format_methods(found.plan.methods)
    parts = [
        _head(found, name),
        _wrapped(f"Recommended: {_advice(found)}"),
        _table([_head_of_methods(found), *(_row(item) for item in found.assessments)]),
        _wrapped(_note_on_methods(found)),
        f"{methods}, pairs of a head by their wavelength in tokens:",
        _frequencies(found),
        f"{methods}, one sequence, all in {dtype}:",
        _memory(found),
        _wrapped(
            "(cache: keys and values in transformers' growing cache; un-rotated: in CollinearCache; prefill: one "
            f"forward with {found.works[0].work.attention} and the logits of the last token, beside weights and cache)"
        ),
        f"{methods}, {format_length(found.target_length)} tokens, beside the weights:",
        _works(found),
        _wrapped(
            "(prefill with its cache; training: forward and backward with the gradients there at its peak; AdamW "
            f"keeps {format_bytes(2 * found.memory[0].weights)} more)"
        ),
        f"{methods} on servers, by the rules in their sources:",
        _servers(found),
    ]
    return "\n\n".join(parts)


def _head(found: Overview, name: str) -> str:
    original, target = format_length(found.original_length), format_length(found.target_length)
    head = f"{name}: {original} -> {target} tokens, factor {found.factor:g}; methods in force: {found.in_force}"
    if found.extended_to is None:
        return head
    return (
        f"{head}\nIt is extended to {format_length(found.extended_to)} tokens already: factors count from {original}, "
        "and `longspan extend` takes --again."
    )


def _advice(found: Overview) -> str:
    advice = found.recommendation
    if advice.action == "nothing":
        return f"nothing to do: {advice.reason}."
    ways = {
        "as it is": f"{advice.method}, without training",
        "train": f"{advice.method}, then training at {format_length(found.target_length)}",
        "none reaches": f"no method for sure; try {advice.method}" if advice.method != "none" else "none",
    }
    return f"{ways[advice.action]}: {advice.reason}."


def _head_of_methods(found: Overview) -> list[str]:
    return ["method", "slots", f"at factor {found.factor:g}", "training tokens", "published", "own"]


def _row(item: Assessment) -> list[str]:
    row = item.published
    stated = " / ".join(f"{factor:g}" if factor > 1 else "-" for factor in (row.untrained, row.trained))
    own = "-" if item.own is None else f"{item.own.factor:g}"
    says = item.verdict if item.refusal is None else f"no: {item.refusal}"
    return [item.name, ", ".join(item.slots), textwrap.shorten(says, 40, placeholder=" ..."), row.tokens, stated, own]


def _note_on_methods(found: Overview) -> str:
    own = {(row.size, format_length(row.train_length)) for row in known_reach()}
    small = ", ".join(f"{size} parameters trained at {length} tokens" for size, length in sorted(own))
    return (
        "(published: the largest factor that sources show without / after training on so many tokens, --json names "
        f"them; own: the largest without training in this project's studies, whose models are small ({small}). "
        f"beyond: no source shows factor {found.factor:g}; beside others: lengthens nothing by itself)"
    )


def _frequencies(found: Overview) -> str:
    shown = sample(found.pairs)
    rows = [["pair", "before", "after", "slowed", "turns in the window"]]
    for pair in shown:
        after = "does not turn" if math.isinf(pair.after) else f"{pair.after:,.0f}"
        slowed = "-" if math.isinf(pair.after) else f"{pair.slowed:.3f}"
        rows.append([str(pair.index), f"{pair.before:,.0f}", after, slowed, f"{pair.turns:.2f}"])
    same, full = touched(found.pairs)
    note = f"({len(shown)} of {len(found.pairs)} pairs; {same:.0%} turn as before, {full:.0%} are slowed the most)"
    return f"{_table(rows)}\n{note}"


def _memory(found: Overview) -> str:
    dtype = str(found.dtype).removeprefix("torch.")
    rows = [["length", "weights", "cache", "in 16 bits", "un-rotated", "prefill", "together"]]
    for row in found.memory:
        late = found.caches["collinear"][dtype][row.length]
        half = found.caches["dynamic"]["bfloat16"][row.length]
        sizes = (row.weights, row.cache, half, late, row.prefill, row.total)
        rows.append([format_length(row.length), *map(format_bytes, sizes)])
    return _table(rows)


def _servers(found: Overview) -> str:
    return "\n".join(
        textwrap.fill(
            f"{item.server:14}{'yes' if item.accepted else 'no':5}{item.setting}",
            WIDTH,
            subsequent_indent=" " * 19,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in found.servers
    )


def _works(found: Overview) -> str:
    return _table([[str(row.work), format_bytes(row.bytes)] for row in found.works])


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))
