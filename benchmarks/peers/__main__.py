"""`python -m benchmarks.peers --ruler FOLDER --tokenizer FOLDER --out DIR`: tasks of RULER beside ours, by readers.

FOLDER is a copy of github.com/NVIDIA/RULER, whose generators need the packages wonderwords, nltk and tenacity. Both
suites make prompts of one length in the tokens of one tokenizer, and readers (`readers.py`) that see the last tokens of
them answer. Each suite scores the answers to its own prompts, and RULER's scorer those to ours, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from benchmarks.peers.readers import reader_of, recite
from benchmarks.peers.ruler import Prompt, Ruler
from longspan.data.tokenizer import encode
from longspan.evaluate.runner import frame_of, places_of
from longspan.evaluate.task import Bench, Sample, SampleTask
from longspan.evaluate.tasks import find_task
from longspan.evaluate.tasks.needle import Needle
from longspan.intervals import normal_mean, share_difference, wilson
from longspan.jsonl import write_rows
from longspan.lengths import parse_length
from longspan.records import Record

TASKS = ("niah_single_1", "niah_multikey_1", "niah_multikey_2", "vt")
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the length, that a reader sees."""


def our_task(name: str) -> SampleTask:
    """Our task of that name; needles lie in the sentences that repeat, for which neither suite needs a download."""
    task = find_task(name)
    assert isinstance(task, SampleTask)
    return dataclasses.replace(task, hay="noise") if isinstance(task, Needle) and task.hay == "text" else task


@dataclasses.dataclass(frozen=True, slots=True)
class Suites:
    """The prompts of one task in both suites, as tokens."""

    name: str
    task: SampleTask
    ours: list[Sample]
    theirs: list[Prompt]
    their_ids: list[list[int]]
    their_distances: list[int]


def make(ruler: Ruler, tokenizer: PreTrainedTokenizerBase, name: str, length: int, depths: int, trials: int) -> Suites:
    """`depths` times `trials` prompts of either suite; answers have as much room as the longest of ours takes."""
    task = our_task(name)
    bench = Bench(model=None, tokenizer=tokenizer, lengths=[length], depths=depths, trials=trials)
    frame = frame_of(bench, name)
    ours = [task.sample(frame, place) for place in places_of(task, bench, length)]
    room = max(len(sample.answer_ids) for sample in ours)
    theirs = ruler.prompts(name, length, len(ours), answer=room)
    ids = [encode(tokenizer, prompt.text) for prompt in theirs]
    before = [len(encode(tokenizer, prompt.text[: prompt.needed])) for prompt in theirs]
    return Suites(name, task, ours, theirs, ids, [len(row) - place for row, place in zip(ids, before, strict=True)])


def pair(name: str, who: str, length: int, theirs: Sequence[float], ours: Sequence[float]) -> Iterator[Record]:
    """The score of one reader or model in both suites, and the difference."""
    for metric, found in (("RULER", theirs), ("longspan", ours)):
        low, high = wilson(sum(found), len(found))
        yield row(name, who, metric, length, statistics.fmean(found), low, high, len(found))
    apart = share_difference((sum(theirs), len(theirs)), (sum(ours), len(ours)))
    yield row(name, who, "RULER less longspan", length, apart.value, apart.low, apart.high, len(theirs) + len(ours))


def row(
    name: str, who: str, metric: str, length: int, value: float, low: float | None, high: float | None, n: int
) -> Record:
    return Record(
        run="evaluation/peers", method="none", model=who, task=name, metric=metric, value=value, low=low, high=high,
        n=n, length=length,
    )  # fmt: skip


def readings(ruler: Ruler, tokenizer: PreTrainedTokenizerBase, suites: Suites, length: int) -> Iterator[Record]:
    """What readers of every share of the length score, and one that recites all it sees."""
    read = reader_of(suites.name)
    for who, reader, share in [(f"reads the last {share:g}", read, share) for share in SHARES] + [
        ("recites all", recite, 1.0)
    ]:
        window = round(share * length)

        def said(ids: Sequence[int], limit: int) -> str:
            answer = encode(tokenizer, reader(tokenizer.decode(ids[-window:])))  # noqa: B023
            return str(tokenizer.decode(answer[:limit]))

        limit = ruler.new_tokens(suites.name)
        theirs = [
            ruler.score(suites.name, said(ids, limit), prompt.references)
            for prompt, ids in zip(suites.theirs, suites.their_ids, strict=True)
        ]
        answers = [said(sample.prompt_ids, suites.task.new_tokens(sample)) for sample in suites.ours]
        ours = [suites.task.score(answer, sample) for answer, sample in zip(answers, suites.ours, strict=True)]
        yield from pair(suites.name, who, length, theirs, ours)
        again = [
            ruler.score(suites.name, answer, sample.references)
            for answer, sample in zip(answers, suites.ours, strict=True)
        ]
        low, high = wilson(sum(again), len(again))
        yield row(suites.name, who, "longspan, RULER's scorer", length, statistics.fmean(again), low, high, len(again))


def statistics_of(suites: Suites, length: int) -> Iterator[Record]:
    """How long prompts are, and how far back what they ask for stands, as a share of the prompt."""
    found = {
        "RULER": (list(map(len, suites.their_ids)), suites.their_distances),
        "longspan": (
            [len(sample.prompt_ids) for sample in suites.ours],
            [sample.distance or 0 for sample in suites.ours],
        ),
    }
    for who, (sizes, distances) in found.items():
        low, high = normal_mean(sizes)
        yield row(suites.name, who, "prompt tokens", length, statistics.fmean(sizes), low, high, len(sizes))
        shares = [distance / size for distance, size in zip(distances, sizes, strict=True)]
        low, high = normal_mean(shares)
        yield row(
            suites.name, who, "distance, share of prompt", length, statistics.fmean(shares), low, high, len(sizes)
        )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder that may hold nothing but `tokenizer.json`."""
    if (folder / "tokenizer_config.json").exists():
        return AutoTokenizer.from_pretrained(folder)
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def main() -> None:
    """Measure, print, and write `records.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ruler", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS, metavar="TASK")
    parser.add_argument("--length", type=parse_length, default=2048)
    parser.add_argument("--depths", type=int, default=11)
    parser.add_argument("--trials", type=int, default=5)
    told = parser.parse_args()
    tokenizer = load_tokenizer(told.tokenizer)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        ruler = Ruler(told.ruler, Path(folder))
        for name in told.tasks:
            suites = make(ruler, tokenizer, name, told.length, told.depths, told.trials)
            for record in [*statistics_of(suites, told.length), *readings(ruler, tokenizer, suites, told.length)]:
                records.append(record)
                print(
                    f"{name:16} {record.model:20} {record.metric:26} {record.value:9.3f}"
                    + (f" ({record.low:.3f} to {record.high:.3f})" if record.low is not None else "")
                )
            write_rows(told.out / "records.jsonl", records)


if __name__ == "__main__":
    main()
