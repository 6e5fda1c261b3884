"""The prompts of one task in both suites."""

from __future__ import annotations

import dataclasses

from transformers import PreTrainedTokenizerBase

from benchmarks.peers.ruler import Prompt, Ruler
from longspan.data.tokenizer import encode
from longspan.evaluate.runner import frame_of, places_of
from longspan.evaluate.task import Bench, Sample, SampleTask
from longspan.evaluate.tasks import find_task
from longspan.evaluate.tasks.needle import Needle

NEEDLES = (
    "niah_single_1", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multivalue", "niah_multiquery"
)  # fmt: skip
TASKS = (*NEEDLES, "vt")


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


def make(
    ruler: Ruler, tokenizer: PreTrainedTokenizerBase, name: str, length: int, depths: int, trials: int, seed: int
) -> Suites:
    """`depths` times `trials` prompts of either suite; answers have as much room as the longest of ours takes."""
    task = our_task(name)
    bench = Bench(model=None, tokenizer=tokenizer, lengths=[length], depths=depths, trials=trials, seed=seed)
    frame = frame_of(bench, name)
    ours = [task.sample(frame, place) for place in places_of(task, bench, length)]
    room = max(len(sample.answer_ids) for sample in ours)
    theirs = ruler.prompts(name, length, len(ours), answer=room, seed=seed)
    ids = [encode(tokenizer, prompt.text) for prompt in theirs]
    before = [len(encode(tokenizer, prompt.text[: prompt.needed])) for prompt in theirs]
    return Suites(name, task, ours, theirs, ids, [len(row) - place for row, place in zip(ids, before, strict=True)])
