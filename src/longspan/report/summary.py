"""What the numbers say, in sentences that claim no more than the numbers do."""

from __future__ import annotations

from collections.abc import Mapping

from longspan.lengths import format_length
from longspan.report.contest import Contest, contest, names
from longspan.report.formats import count, format_cell, format_value
from longspan.report.paired import Difference, Pairs
from longspan.report.results import PLAIN, Cell, Line, Results, lengths_of

REACH = 0.5
"""Passkey accuracy that counts as reached, at every depth."""
LEARNED = 0.95
"""Passkey accuracy inside the training window below which nothing follows from longer windows."""


MOST_WEAK = 4
"""So many lines that have not learned retrieval are named."""


def reach(results: Results, line: Line) -> int | None:
    """The longest length at which, as at each shorter one measured, passkey is at least 0.5 at every depth.

    None if there is none. Lines without numbers by depth are judged by their accuracy over all depths.
    """
    worst: dict[int, float] = {}
    for (length, _), cell in results.by_depth("passkey").get(line, {}).items():
        worst[length] = min(cell.value, worst.get(length, cell.value))
    if not worst:
        worst = {length: cell.value for length, cell in results.by_length("passkey").get(line, {}).items()}
    reached = None
    for length in sorted(worst):
        if worst[length] < REACH:
            break
        reached = length
    return reached


def sentences(results: Results, pairs: Pairs | None = None) -> list[str]:
    """The headline of a report: perplexity at the training length and at the longest, and the reach of retrieval.

    Args:
        pairs: differences between lines; None allows what the records alone hold, pairs of seeds.
    """
    found = [*_perplexity(results, pairs or Pairs(results)), *_retrieval(results)]
    return found or [f"{count(len(results.records), 'record')}; none is of perplexity or passkey by length."]


def _perplexity(results: Results, pairs: Pairs) -> list[str]:
    cells = results.by_length("perplexity")
    lengths = lengths_of(cells)
    if not lengths:
        return []
    trained = results.train_lengths[0] if len(results.train_lengths) == 1 else None
    told = []
    for length in dict.fromkeys([trained if trained in lengths else lengths[0], lengths[-1]]):
        assert length is not None
        found = contest(results, pairs, "perplexity", "perplexity", length)
        if found is None:
            continue
        where = f"At {format_length(length)} tokens"
        if trained and length == trained:
            where += ", the training length,"
        elif trained and length > trained:
            where += f", {length / trained:g} times the training length,"
        leaders = found.leaders
        value = format_cell(cells[leaders[0]][length], "perplexity")
        text = f"{where} the lowest perplexity is {value} by {names(leaders)}"
        most = max(len(row[length].seeds) for row in cells.values() if length in row)
        if len(cells[leaders[0]][length].seeds) == 1 < most:
            text += " (one seed; others have more)"
        told.append(f"{text}{_beside(found, cells)}." + _plain_beside(results, cells, length, leaders))
    return told


def _beside(found: Contest, cells: Mapping[Line, Mapping[int, Cell]]) -> str:
    """How sure it is that the others are behind."""
    if not found.rivals:
        return ""
    next_line, first = found.rivals[0]
    value = format_value(cells[next_line][found.length].value, "perplexity")
    if found.close:
        unit = found.close[0][1].unit
        lines = names([line for line, _ in found.close])
        return f"; paired by {unit}, {lines} cannot be told from it"
    if first is None:
        return f"; whether the next, {next_line.label} ({value}), differs the records do not tell"
    return f"; the next, {next_line.label}, is {_more_by(first)}"


def _more_by(difference: Difference) -> str:
    """How much a rival's perplexity is above the leader's: `3.1 % higher (1.2 to 5.0 %, ...)`."""
    value, low, high = (1 / (1 + end) - 1 for end in (difference.value, difference.high, difference.low))
    each = f"paired by {difference.unit}, n = {difference.n}"
    return f"{_percent(value)} % higher ({_percent(low)} to {_percent(high)} %, {each})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}" if share < 0.995 else f"{100 * share:.0f}"


def _plain_beside(results: Results, cells: Mapping[Line, Mapping[int, Cell]], length: int, leaders: list[Line]) -> str:
    arms = list(dict.fromkeys(line.arm for line in leaders))
    plain = {line.arm: line for line in cells if line.extension == PLAIN and line not in leaders}
    texts = [
        f"{arm} without an extension has {format_value(cells[plain[arm]][length].value, 'perplexity')}"
        for arm in arms
        if arm in plain and length in cells[plain[arm]] and len(leaders) == 1
    ]
    return f" {texts[0][0].upper()}{texts[0][1:]}." if texts else ""


def _retrieval(results: Results) -> list[str]:
    cells = results.by_length("passkey")
    if not cells:
        return []
    reached: dict[int, list[Line]] = {}
    for line in cells:
        reached.setdefault(reach(results, line) or 0, []).append(line)
    farthest = max(reached)
    rule = f"passkey of at least {REACH:g} at every depth, at that length and each shorter one"
    if farthest == 0:
        told = [f"No line reaches {rule}."]
    else:
        told = [
            f"Retrieval reaches farthest, {format_length(farthest)} tokens, with {names(reached[farthest])} ({rule})."
        ]
    weak = []
    for line, row in cells.items():
        inside = [cell.value for length, cell in row.items() if length in results.trained(line)]
        if line.extension == PLAIN and inside and min(inside) < LEARNED:
            weak.append((line, min(inside)))
    if weak:
        worst = ", ".join(f"{line.label} ({format_value(value, 'accuracy')})" for line, value in weak[:MOST_WEAK])
        more = f" and {len(weak) - MOST_WEAK} more" if len(weak) > MOST_WEAK else ""
        told.append(
            f"Passkey at the training length itself is below {LEARNED:g} for {worst}{more}: "
            "longer windows say little about retrieval there."
        )
    return told
