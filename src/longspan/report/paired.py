"""Two lines compared on what both have scored: the same documents, prompts or seeds.

The interval of one line says how documents differ, which is the same for all lines; the interval of the difference on
the same documents says how the lines do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from longspan.intervals import mcnemar, paired_ratio_difference
from longspan.report.results import Line, Results
from longspan.scores import Score

Unit = Literal["document", "prompt", "seed"]
Place = tuple[float | None, str]
"""Depth and name of a scored text."""

ROWS_METRIC = {"perplexity": "nll"}
"""The metric of the scores behind a metric of the records, where it is another."""
OF_DOCUMENTS = frozenset({"perplexity", "context_gain"})
"""Tasks whose scored texts are documents; those of all others are prompts."""
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """First line minus second; of perplexities, first over second minus 1."""

    value: float
    low: float
    high: float
    """95 % interval over documents or prompts, or the lowest and highest seed."""
    unit: Unit
    n: int
    """How many of them both lines have scored."""
    p_value: float | None = None
    """McNemar's, exact, where each prompt was answered once and is right or wrong."""

    @property
    def tells_apart(self) -> bool:
        """Whether chance is ruled out at 95 %; of seeds, whether all of them say the same."""
        if self.p_value is not None:
            return self.p_value < SIGNIFICANT
        return self.low > 0 or self.high < 0


class Pairs:
    """The differences between lines that the records and scores of a report allow."""

    def __init__(self, results: Results, scores: Iterable[Score] = ()) -> None:
        self._results = results
        self._scores: dict[tuple[Line, str, int | None], dict[int | None, dict[Place, Score]]] = {}
        self._known: dict[tuple[Line, Line, str, str, int], Difference | None] = {}
        for score in scores:
            line = results.line_named(score.run, score.model, score.method)
            if line is not None:
                cell = self._scores.setdefault((line, score.task, score.length), {})
                cell.setdefault(score.seed, {})[score.depth, score.sample] = score

    def difference(self, first: Line, second: Line, task: str, metric: str, length: int) -> Difference | None:
        """`first` minus `second` at `length`; None where they share neither scored texts nor two seeds."""
        key = (first, second, task, metric, length)
        if key not in self._known:
            by_text = self._by_text(first, second, task, metric, length)
            self._known[key] = by_text or self._by_seed(first, second, task, metric, length)
        return self._known[key]

    def _by_text(self, first: Line, second: Line, task: str, metric: str, length: int) -> Difference | None:
        """Bootstrap over the texts that both scored under the same seeds; a text counts once, whatever the seeds."""
        name = ROWS_METRIC.get(metric, metric)
        ours, theirs = (self._scores.get((line, task, length), {}) for line in (first, second))
        pairs = [
            (place, score, theirs[seed][place])
            for seed in ours
            for place, score in ours[seed].items()
            if place in theirs.get(seed, {}) and name in score.values and name in theirs[seed][place].values
        ]
        sums: dict[Place, list[float]] = {}
        for place, mine, other in pairs:
            found = sums.setdefault(place, [0.0, 0.0, 0.0])
            found[0] += mine.values[name] * mine.weight
            found[1] += other.values[name] * mine.weight
            found[2] += mine.weight
        if len(sums) < 2:
            return None
        difference = paired_ratio_difference(*zip(*sums.values(), strict=True))
        assert difference.low is not None
        assert difference.high is not None
        ends = [difference.value, difference.low, difference.high]
        value, low, high = map(math.expm1, ends) if metric == "perplexity" else ends
        once = metric == "accuracy" and len(pairs) == len(sums)
        rights = [(bool(mine.values[name]), bool(other.values[name])) for _, mine, other in pairs]
        p_value = mcnemar(*zip(*rights, strict=True)).p_value if once else None
        return Difference(value, low, high, "document" if task in OF_DOCUMENTS else "prompt", len(sums), p_value)

    def _by_seed(self, first: Line, second: Line, task: str, metric: str, length: int) -> Difference | None:
        """Lowest and highest difference between models of the same seed."""
        ours, theirs = (self._seeds(line, task, metric, length) for line in (first, second))
        both = [seed for seed in ours if seed in theirs]
        if len(both) < 2:
            return None
        relative = metric == "perplexity"
        values = [math.log(ours[s] / theirs[s]) if relative else ours[s] - theirs[s] for s in both]
        ends = [sum(values) / len(values), min(values), max(values)]
        value, low, high = map(math.expm1, ends) if relative else ends
        return Difference(value, low, high, "seed", len(both))

    def _seeds(self, line: Line, task: str, metric: str, length: int) -> dict[int | None, float]:
        cell = self._results.by_length(task, metric).get(line, {}).get(length)
        return {} if cell is None else {seed: value for seed, value in cell.seeds if math.isfinite(value)}
