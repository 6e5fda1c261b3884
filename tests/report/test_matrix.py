"""Matrices in reports: what stands in a map, which cell is framed, and when a section is there at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from longspan.records import Record, append_records
from longspan.report.matrix import length_section, matrix_section, matrix_table
from longspan.report.page import write_report


def cell(stage: int, domain: str, value: float, model: str = "arm", seed: int = 0) -> Record:
    columns = {"run": "x/up", "method": "none", "task": "matrix", "metric": "accuracy"}
    return Record(model=model, stage=stage, domain=domain, value=value, seed=seed, **columns)


@pytest.fixture
def records() -> list[Record]:
    """Two domains, one arm, two seeds that differ by 0.2 in one cell; the means over them, and what a stage costs."""
    found = []
    for seed in (0, 1):
        found += [cell(0, "<a>", 0.1, "initial", seed), cell(0, "b", 0.2, "initial", seed)]
        found += [cell(1, "<a>", 0.5 + 0.2 * seed, seed=seed), cell(1, "b", 0.3, seed=seed)]
        found += [cell(2, "<a>", 0.4, seed=seed), cell(2, "b", 1.0, seed=seed)]
    for stage, domain in ((1, "<a>"), (2, "b")):
        for metric, value in (("seconds", 2.0 * stage), ("extra_bytes", 3e6)):
            columns = {"run": "x/up", "method": "none", "model": "arm", "task": "stage", "seed": 0}
            found.append(Record(metric=metric, value=value, stage=stage, domain=domain, **columns))
    gain = {"run": "x", "method": "none", "model": "arm", "task": "matrix", "metric": "unseen_gain"}
    return [*found, Record(value=0.1, low=-0.02, high=0.22, n=2, **gain)]


def test_a_map_shows_means_over_seeds_in_percent_and_frames_what_was_just_learned(records: list[Record]) -> None:
    page = matrix_section(records)
    assert page.count("<svg") == 1
    assert re.findall(r">(\d+\.\d)</text>", page) == ["10.0", "20.0", "60.0", "30.0", "40.0", "100.0"]
    assert page.count('class="edge"') == 2
    framed = re.findall(r'class="edge"[^>]*/><text[^>]*>(\d+\.\d)<', page)
    assert framed == ["60.0", "100.0"]
    assert "&lt;a&gt;" in page
    assert "<a>" not in page


def test_the_table_has_means_with_intervals_and_costs(records: list[Record]) -> None:
    row = matrix_table(records).splitlines()[-1]
    assert row == "| arm | – | – | – | – | – | 10.00 (-2.00 to 22.00) | 3.0 | 3.0 |"
    assert "2 together" in matrix_table(records)


def test_without_stages_there_is_no_section() -> None:
    other = Record(run="r", method="rope", model="m", task="perplexity", metric="perplexity", value=3.0, length=8)
    assert matrix_section([other]) == length_section([other]) == matrix_table([other]) == ""


def test_trained_lengths_make_a_map_when_there_are_several() -> None:
    columns = {"run": "r", "method": "yarn", "model": "m", "task": "passkey", "metric": "accuracy"}
    one = [Record(value=0.9, train_length=256, length=length, **columns) for length in (256, 512)]
    assert length_section(one) == ""
    two = [Record(value=0.4, train_length=512, length=length, **columns) for length in (256, 512)]
    page = length_section([*one, *two])
    assert re.findall(r">(\d+\.\d)</text>", page) == ["90.0", "90.0", "40.0", "40.0"]
    assert re.findall(r'class="edge"[^>]*/><text[^>]*>(\d+\.\d)<', page) == ["90.0", "40.0"]


def test_the_page_of_a_run_has_the_matrix(records: list[Record], tmp_path: Path) -> None:
    append_records(tmp_path / "records.jsonl", records)
    text = write_report([tmp_path], tmp_path).read_text()
    assert "Stages by domains" in text
    assert "arm, order up" in text
