"""A study from end to end: equal terms, nothing twice, nothing lost."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from longspan.data.tokenizer import train_tokenizer
from longspan.errors import ConfigError, DataError, LengthError, TrainingError
from longspan.records import Record, read_records
from longspan.scores import read_scores
from longspan.study import measure
from longspan.study.arm import ArmRun
from longspan.study.config import StudyConfig
from longspan.study.inputs import open_held_out, perplexity_documents
from longspan.study.measure import Measurer
from longspan.study.run import compare, read_study


def by_place(records: list[Record], task: str, metric: str) -> dict[tuple[str, str, int | None], float | None]:
    return {(r.model, r.method, r.length): r.value for r in records if (r.task, r.metric) == (task, metric)}


def count_cells(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[tuple[str, str, int]]:
    """Note each cell that is measured, and press Ctrl-C after `stop_after` of them."""
    measured: list[tuple[str, str, int]] = []
    perplexity = measure.perplexity

    def counted(model: Any, ids: Any, **settings: Any) -> list[Record]:
        if stop_after is not None and len(measured) == stop_after:
            raise KeyboardInterrupt
        found = perplexity(model, ids, **settings)
        measured.append((model.config.name_or_path, found[0].method, found[0].length or 0))
        return found

    monkeypatch.setattr(measure, "perplexity", counted)
    return measured


def test_a_study_measures_every_cell_and_reports(study: StudyConfig, finished: Path) -> None:
    records = read_records(finished)
    found = by_place(records, "perplexity", "perplexity")
    rope = {("rope", method, n) for method in ("rope", "pi", "yarn", "dynamic_ntk(factor=2.0)") for n in study.lengths}
    coca = {("coca", method, n) for method in ("coca", "coca+pi") for n in study.lengths}
    assert set(found) == rope | coca
    assert all(value is not None and math.isfinite(value) for value in found.values())
    assert {(r.run, r.seed, r.train_length) for r in records} == {("small", 0, 64)}
    assert {r.model for r in records if r.task == "train"} == {"rope", "coca"}
    table = (finished / "table.md").read_text()
    assert "| coca | pi |" in table
    assert "<html" in (finished / "report.html").read_text()
    assert read_study(finished).arms == study.arms
    bits = by_place(records, "perplexity", "bits_per_byte")
    assert set(bits) == set(found)
    # this text is ASCII, and a token of it is one character or more
    nll = by_place(records, "perplexity", "nll")
    assert all(0 < (bits[place] or 0) < (nll[place] or 0) / math.log(2) for place in bits)
    measuring = json.loads((finished / "data.json").read_text())["measuring"]
    # the default stride: a quarter of the window
    settings = {"attention": "sdpa", "dtype": "float32", "stride": {"64": 16, "128": 32, "256": 64}}
    assert set(measuring) == {"rope-0", "coca-0"}
    assert settings.items() <= measuring["rope-0"].items()
    assert measuring["coca-0"]["attention"] == "sdpa"


def test_every_arm_and_extension_scores_the_same_documents(finished: Path) -> None:
    scored: dict[tuple[str, str, int | None], list[str]] = {}
    for score in read_scores(finished):
        scored.setdefault((score.model, score.method, score.length), []).append(score.sample)
    # four extensions of rope, two of coca, three lengths; matched targets, so one text everywhere
    assert len(scored) == (4 + 2) * 3
    assert len({tuple(names) for names in scored.values()}) == 1
    assert all(len(names) == 2 for names in scored.values())


def test_at_the_training_length_extensions_of_factor_1_are_equal(finished: Path) -> None:
    found = by_place(read_records(finished), "perplexity", "perplexity")
    assert len({found["rope", method, 64] for method in ("rope", "pi", "yarn", "dynamic_ntk(factor=2.0)")}) == 1
    assert len({found["rope", method, 128] for method in ("rope", "pi", "yarn", "dynamic_ntk(factor=2.0)")}) == 4
    assert found["coca", "coca+pi", 64] == found["coca", "coca", 64]


def test_a_cell_is_what_transformers_gives_with_its_own_scaling(finished: Path) -> None:
    """The PI cell at 256, against transformers' own linear scaling and its own loss."""
    from transformers import AutoConfig, AutoModelForCausalLM

    study = read_study(finished)
    run = ArmRun(study, finished, "rope", 0)
    config = AutoConfig.from_pretrained(run.folder / "checkpoint")
    config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    model = AutoModelForCausalLM.from_pretrained(run.folder / "checkpoint", config=config)
    losses = []
    for document in perplexity_documents(study, open_held_out(finished)):
        # a stride of 64 moves windows of [BOS] + 255; targets are the 32 tokens from 256 on, all in the second window
        row = torch.cat([torch.tensor([config.bos_token_id]), document[64 : 64 + 255]])
        labels = torch.full_like(row, -100)
        labels[256 - 64 + 1 : 288 - 64 + 1] = row[256 - 64 + 1 : 288 - 64 + 1]
        with torch.no_grad():
            losses.append(model(row[None], labels=labels[None]).loss.item())
    found = by_place(read_records(finished), "perplexity", "nll")
    assert found["rope", "pi", 256] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_stopped_study_goes_on_without_measuring_a_cell_twice(
    study: StudyConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_records(finished)
    with monkeypatch.context() as patch:
        first = count_cells(patch, stop_after=5)
        with pytest.raises(KeyboardInterrupt):
            compare(study, tmp_path / "out", progress=False)
    with monkeypatch.context() as patch:
        second = count_cells(patch)
        compare(study, tmp_path / "out", progress=False)
    assert len(first) == 5
    # at 64 one measurement stands for all extensions: 1 + 2 x 4 of rope, 1 + 2 x 2 of coca
    assert len(first) + len(second) == 9 + 5
    resumed = read_records(tmp_path / "out")
    assert by_place(resumed, "perplexity", "nll") == by_place(whole, "perplexity", "nll")
    with monkeypatch.context() as patch:
        third = count_cells(patch)
        compare(study, tmp_path / "out", progress=False)
    assert third == []


def test_a_changed_setting_of_the_measuring_is_measured_anew(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["arms"] = {"rope": {"extensions": ["none"]}}
    del values["extensions"]
    values["evaluate"]["position"] = None
    compare(StudyConfig.parse(values, "first"), tmp_path / "out", progress=False)
    measured = count_cells(monkeypatch)
    values["evaluate"]["perplexity"]["max_targets"] = 16
    compare(StudyConfig.parse(values, "second"), tmp_path / "out", progress=False)
    assert [length for _, _, length in measured] == [64, 128, 256]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_study_refuses_other_settings_of_its_runs_and_stays_as_it_is(
    values: dict[str, Any], tmp_path: Path
) -> None:
    out = compare(StudyConfig.parse(values, "first"), tmp_path / "out", progress=False)
    before = contents(out)
    values["run"]["steps"] = 5
    with pytest.raises(ConfigError, match=r"rope-0 holds a run with other settings \(steps\)"):
        compare(StudyConfig.parse(values, "second"), out, progress=False)
    assert contents(out) == before


def test_runs_are_not_mixed_with_runs_on_another_text(values: dict[str, Any], tmp_path: Path) -> None:
    study = StudyConfig.parse(values, "study")
    out = compare(study, tmp_path / "out", progress=False)
    before = (out / "data.json").read_bytes()
    (tmp_path / "train" / "0.txt").write_text("other words " * 500)
    with pytest.raises(DataError, match=r"the training text .* has changed since the study in .* began"):
        compare(study, out, progress=False)
    assert (out / "data.json").read_bytes() == before


def test_a_model_with_another_tokenizer_than_the_held_out_text_is_not_measured(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["arms"] = {"rope": {"extensions": ["none"]}}
    del values["extensions"]
    study = StudyConfig.parse(values, "study")
    out = compare(study, tmp_path / "out", progress=False)
    checkpoint = ArmRun(study, out, "rope", 0).folder / "checkpoint"
    train_tokenizer(["quite another text"], 270, tmp_path / "tokenizer")
    shutil.copyfile(tmp_path / "tokenizer" / "tokenizer.json", checkpoint / "tokenizer.json")
    with pytest.raises(DataError, match="another tokenizer than the held-out tokens"):
        Measurer(study, "rope", 0, checkpoint, open_held_out(out), tmp_path / "cells")


def test_a_passkey_longer_than_the_shortest_window_is_found_before_training(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["evaluate"]["passkey"] = {}
    with pytest.raises(LengthError, match=r"a passkey prompt takes at least .* more than the length 64"):
        compare(StudyConfig.parse(values, "study"), tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "runs").exists()


def test_one_failed_arm_leaves_the_others(values: dict[str, Any], tmp_path: Path) -> None:
    values["arms"]["rope"]["set"] = {"optimizer.learning_rate": 1e30, "optimizer.clip": 1e30}
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=r"1 of 2 runs failed; rope-0"):
        compare(StudyConfig.parse(values, "study"), out, progress=False)
    assert {record.model for record in read_records(out)} == {"coca"}


def test_too_short_held_out_text_is_found_before_training(values: dict[str, Any], tmp_path: Path) -> None:
    values["lengths"] = [64, "32k"]
    with pytest.raises(DataError, match="has 0 documents of 33280 tokens or more, not 2"):
        compare(StudyConfig.parse(values, "study"), tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "runs").exists()


def test_two_studies_in_one_folder_do_not_meet(study: StudyConfig, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(ConfigError, match="another process is at work"):
        compare(study, tmp_path / "out", progress=False)
