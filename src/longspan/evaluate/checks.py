"""`python -m longspan.evaluate.checks [TASK ...] --out DIR`: the evaluators judged by models whose answers are known.

For every task of prompts: what the oracle scores (1), what a blind model scores (0), and for a model with a window the
share of prompts on which it is right exactly where all that the answer needs lies within its window (1).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from longspan.data.tokenizer import train_tokenizer
from longspan.errors import LengthError
from longspan.evaluate.known_models import known_model
from longspan.evaluate.runner import frame_of, outcomes, places_of
from longspan.evaluate.task import Bench, Sample, SampleTask
from longspan.evaluate.tasks import all_tasks
from longspan.evaluate.words import paragraph
from longspan.intervals import wilson
from longspan.jsonl import write_rows
from longspan.lengths import parse_lengths
from longspan.records import Record

LENGTHS = (2048,)
_VOCABULARY = 600


def check_task(name: str, tokenizer: PreTrainedTokenizerBase, lengths: Sequence[int] = LENGTHS) -> Iterator[Record]:
    """Three records a length: the task's own metric of the oracle and the blind model, and `agreement` of the window.

    Raises:
        LengthError: a length too short for the task.
    """
    task = all_tasks()[name]
    assert isinstance(task, SampleTask)
    for length in lengths:
        bench = Bench(model=None, tokenizer=tokenizer, lengths=[length], trials=1, depths=5)
        frame, places = frame_of(bench, name), places_of(task, bench, length)
        samples = [task.sample(frame, place) for place in places]
        window = round(statistics.median(sample.distance or 0 for sample in samples))
        judged: list[tuple[str, list[Sample], int | None]] = [
            ("oracle", samples, None),
            ("blind", [], None),
            (f"window of {window}", samples, window),
        ]
        for who, told, sees in judged:
            model = known_model(
                told, len(tokenizer), bos=tokenizer.bos_token_id, end=tokenizer.eos_token_id or 0, window=sees
            )
            found = outcomes(task, dataclasses.replace(bench, model=model), frame, places)
            scores = [outcome.score for outcome in found]
            if sees is not None:
                scores = [float(s == ((o.sample.distance or 0) <= sees)) for s, o in zip(scores, found, strict=True)]
            low, high = wilson(sum(scores), len(scores))
            yield Record(
                run="evaluation/checks", method="none", model=who, task=name, length=length, seed=bench.seed,
                metric=task.metric if sees is None else "agreement", value=sum(scores) / len(scores),
                low=low, high=high, n=len(scores),
            )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Check tasks, all that make their own prompts if none is named, and write `records.jsonl`."""
    names = [name for name, task in all_tasks().items() if isinstance(task, SampleTask) and not task.needs_data]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", default=names, help="all that need no files if none is named"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), metavar="LENGTHS")
    told = parser.parse_args(arguments)
    unknown = sorted(set(told.tasks) - set(names))
    if unknown:
        parser.error(f"unknown task '{unknown[0]}': choose from {', '.join(names)}")
    try:
        lengths = parse_lengths(told.lengths)
    except LengthError as error:
        parser.error(str(error))
    prose = [paragraph(np.random.default_rng(number)) for number in range(200)]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(prose, _VOCABULARY, Path(folder) / "tokenizer")
    records = []
    for name in told.tasks:
        for record in check_task(name, tokenizer, lengths):
            records.append(record)
            print(f"{name:16} {record.length:6} {record.model:16} {record.metric:10} {record.value:.3f}")
    write_rows(told.out / "records.jsonl", records)


if __name__ == "__main__":
    main()
