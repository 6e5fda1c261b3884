"""`python -m benchmarks.peers --ruler FOLDER --tokenizer FOLDER --out DIR`: tasks of RULER beside ours.

FOLDER is a copy of github.com/NVIDIA/RULER, whose generators need the packages wonderwords, nltk and tenacity. Both
suites make prompts of one length in the tokens of one tokenizer. Readers (`readers.py`) that see the last tokens of
them answer, and with `--model` a model. Each suite scores the answers to its own prompts, and RULER's scorer those to
ours, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.peers.measure import greedy, readers, readings, statistics_of
from benchmarks.peers.ruler import opened
from benchmarks.peers.suites import TASKS, make
from longspan.jsonl import write_rows
from longspan.lengths import parse_length
from longspan.models import load_model


def main() -> None:
    """Measure, print, and write `records.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ruler", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a model that answers beside the readers")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS, metavar="TASK")
    parser.add_argument("--length", type=parse_length, default=2048)
    parser.add_argument("--depths", type=int, default=11)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    model = None if told.model is None else load_model(str(told.model), device="cpu")
    records = []
    with opened(told.ruler, told.tokenizer) as (ruler, tokenizer):
        for name in told.tasks:
            suites = make(ruler, tokenizer, name, told.length, told.depths, told.trials, told.seed)
            who = list(readers(tokenizer, name, told.length))
            if model is not None:
                who.append((str(told.model), greedy(model, tokenizer)))
            found = [row for one, say in who for row in readings(ruler, suites, told.length, one, say)]
            for record in [*statistics_of(suites, told.length), *found]:
                records.append(record)
                print(
                    f"{name:16} {record.model:20} {record.metric:26} {record.value:9.3f}"
                    + (f" ({record.low:.3f} to {record.high:.3f})" if record.low is not None else "")
                )
            write_rows(told.out / "records.jsonl", records)


if __name__ == "__main__":
    main()
