"""Processes that share an evaluation, forked here: all get the records of one alone, and fail together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from longspan.errors import DataError
from longspan.evaluate.task import Bench
from longspan.evaluate.tasks import find_task
from longspan.models import load_model, load_tokenizer
from longspan.processes import ALONE, Processes
from longspan.records import Record

COUNT = 2


def forked(folder: Path, work: Callable[[Processes], Any]) -> list[Any]:
    """What `work` gives in each of two processes."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def begin(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=COUNT)
        try:
            answers.put((rank, work(Processes(rank, COUNT, dist.group.WORLD))))
        except BaseException as error:
            answers.put((rank, repr(error)))

    workers = [context.Process(target=begin, args=(rank,), daemon=True) for rank in range(COUNT)]
    for worker in workers:
        worker.start()
    found = dict(answers.get() for _ in workers)
    for worker in workers:
        worker.join()
    return [found[rank] for rank in range(COUNT)]


def numbers(record: Record) -> list[float | None]:
    return [record.value, record.low, record.high]


@pytest.mark.parametrize("name", ["perplexity", "position", "context_gain", "passkey", "copying"])
def test_two_processes_find_the_records_of_one(name: str, model_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(str(model_folder), device="cpu"), load_tokenizer(str(model_folder))
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(3, len(tokenizer), (size,), generator=generator) for size in (300, 260, 281)]

    def measured(processes: Processes) -> tuple[list[Record], list[str], int]:
        scored: list[str] = []
        bench = Bench(
            model=model,
            tokenizer=tokenizer,
            lengths=[160, 200],
            documents=documents,
            trials=3,
            depths=2,
            batch_size=2,
            processes=processes,
            on_scores=lambda scores: scored.extend(score.sample for score in scores),
        )
        rows = 0

        def count(_: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal rows
            rows += len(kwargs.get("input_ids", inputs[0] if inputs else ()))

        held = model.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
        records = find_task(name).measure(bench, name)
        held.remove()
        return records, scored, rows

    alone, scored, rows = measured(ALONE)
    assert len(alone) > 0
    parts = []
    for records, theirs, read in forked(tmp_path, measured):
        for ours, one in zip(records, alone, strict=True):
            assert (ours.metric, ours.length, ours.depth, ours.n) == (one.metric, one.length, one.depth, one.n)
            assert numbers(ours) == pytest.approx(numbers(one), rel=1e-5, abs=1e-5)
        assert theirs == scored
        parts.append(read)
    # the work is shared, not done twice
    assert sum(parts) == rows
    assert max(parts) < rows


def test_what_fails_in_one_process_ends_all_and_is_said_once(tmp_path: Path) -> None:
    def failing(processes: Processes) -> None:
        def work(items: Any) -> list[int]:
            if 3 in items:
                raise DataError("three")
            return list(items)

        processes.share(range(4), work)

    assert forked(tmp_path, failing) == ["SystemExit(2)", "DataError('three')"]


def test_fewer_items_than_processes_are_done_once_and_known_to_all(tmp_path: Path) -> None:
    found = forked(tmp_path, lambda processes: processes.share([7], lambda items: [(processes.rank, *items)]))
    assert found == [[(1, 7)], [(1, 7)]]
