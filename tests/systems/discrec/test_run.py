from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from longspan.errors import CheckpointError, ConfigError, DataError, TrainingError
from longspan.records import read_records
from longspan.systems.discrec.evaluate import Protocol, measure
from longspan.systems.discrec.metrics import recall
from longspan.systems.discrec.model import DiscRec
from longspan.systems.discrec.prepare import Prepared
from longspan.systems.discrec.run import find_runs, read_run, train_study
from longspan.systems.discrec.settings import StudySettings
from longspan.systems.discrec.trainer import RecommendationTrainer

CPU = torch.device("cpu")
STUDIES = Path(__file__).parents[3] / "results" / "discrec"


def settings(study: Path, *overrides: str) -> StudySettings:
    return StudySettings.from_yaml(study, overrides)


def train(study: Path, out: Path, *overrides: str) -> list[Path]:
    return train_study(settings(study, *overrides), out, progress=False)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint" / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_every_arm_learns_and_keeps_its_best_weights(study: Path, tmp_path: Path) -> None:
    tiger, discrec = train(study, tmp_path / "runs", "epochs=6", "learning_rate=0.01")
    for run, arm in ((tiger, "tiger"), (discrec, "discrec")):
        records = read_records(run)
        losses = [record.value for record in records if record.metric == "validation_loss"]
        assert len(losses) == 6
        assert losses[0] is not None
        assert min(filter(None, losses)) < losses[0] - 0.3
        assert {record.method for record in records} == {arm}
        assert not (run / "state").exists()
    assert not any("branch" in name for name in weights(tiger))
    assert sum("branch" in name for name in weights(discrec)) == 2 * 15


def test_the_kept_weights_have_the_lowest_validation_loss(study: Path, tmp_path: Path) -> None:
    (run,) = train(study, tmp_path / "runs", "epochs=3", "learning_rate=0.05", "arms={discrec: }")
    kept = min(record.value for record in read_records(run) if record.metric == "validation_loss" and record.value)
    _, data, model = read_run(run, CPU)
    from longspan.systems.discrec.rows import Samples
    from longspan.systems.discrec.run import rows_of

    held = Samples(data.interactions, rows_of(model, data), data.interactions.held_out("validation"))
    rows = [held[place] for place in range(len(held))]
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}  # 30 users: one batch of at most 64
    assert model(**batch).loss.item() == pytest.approx(kept, abs=1e-5)


def test_a_run_killed_in_an_epoch_goes_on_to_the_same_weights(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = ("arms={discrec: }", "epochs=2", "save_every=4", "size.dropout=0.1")
    (whole,) = train(study, tmp_path / "whole", *only)
    step = RecommendationTrainer.training_step

    def killed(self: RecommendationTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 10:
            raise RuntimeError("killed")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(RecommendationTrainer, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(study, tmp_path / "stopped", *only)
    monkeypatch.setattr(RecommendationTrainer, "training_step", step)
    (resumed,) = train(study, tmp_path / "stopped", *only)
    assert same(whole, resumed)
    first, second = ([(r.metric, r.value, r.n) for r in read_records(run)] for run in (whole, resumed))
    assert first == second


def test_arms_see_the_same_samples_in_the_same_order(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    step = RecommendationTrainer.training_step

    def noted(self: RecommendationTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(inputs["labels"].flatten().tolist())
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(RecommendationTrainer, "training_step", noted)
    train(study, tmp_path / "runs", "epochs=1")
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_a_finished_run_is_left_alone_and_another_one_refused(study: Path, tmp_path: Path) -> None:
    only = ("arms={discrec: }", "epochs=1")
    (run,) = train(study, tmp_path / "runs", *only)
    before = (run / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    train(study, tmp_path / "runs", *only, "threads=1", "save_every=5")
    assert (run / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"other settings \(size.heads, batch\)"):
        train(study, tmp_path / "runs", *only, "batch=16", "size.heads=1")


def test_other_data_under_the_same_name_is_noticed(study: Path, prepared: Prepared, tmp_path: Path) -> None:
    only = ("arms={discrec: }", "epochs=1")
    train(study, tmp_path / "runs", *only)
    changed = Prepared(prepared.interactions, type(prepared.ids)(prepared.ids.codes[::-1].copy(), 8))
    changed.write(tmp_path / "data", {})
    with pytest.raises(ConfigError, match="fingerprint"):
        train(study, tmp_path / "runs", *only)


def test_training_ends_when_validation_has_not_become_better_for_long(study: Path, tmp_path: Path) -> None:
    (run,) = train(
        study, tmp_path / "runs", "arms={discrec: }", "learning_rate=1e-12", "weight_decay=0", "epochs=50", "patience=2"
    )
    losses = [record.value for record in read_records(run) if record.metric == "validation_loss"]
    best = int(np.argmin(np.array(losses, dtype=float)))
    assert len(losses) == best + 3 < 50


def test_a_loss_that_is_no_number_ends_in_one_line(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecommendationTrainer, "_validation_loss", lambda self: math.nan)
    with pytest.raises(TrainingError, match="became no number before step"):
        train(study, tmp_path / "runs", "epochs=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arms={a: {branch: none, gate: sum}}", "have no effect without a branch"),
        ("steps=5", "set one of 'epochs' and 'steps'"),
        ("seeds=[1, 1]", "names one twice"),
        ("arms={a b: }", "names a folder"),
        ("arms={a: {branch: items}}", "arms.a.branch"),
        ("size.branch_heads=3", "does not divide"),
        ("history=0", "history"),
        ("patiense=3", "did you mean 'patience'"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(study: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        settings(study, override)
    assert "\n" not in str(caught.value)


def test_the_defaults_are_those_of_the_papers_code() -> None:
    found = StudySettings.parse({"name": "x", "data": "y"}, "here")
    assert (found.epochs, found.batch, found.learning_rate, found.weight_decay) == (200, 256, 5e-4, 1e-2)
    assert (found.warmup, found.patience, found.seeds, found.history) == (0.01, 20, [1024], 20)


def test_the_committed_study_has_a_baseline_and_every_ablation_at_the_papers_schedule() -> None:
    found = StudySettings.from_yaml(STUDIES / "beauty.yaml")
    defaults = StudySettings.parse({"name": "x", "data": "y"}, "here").decisive("discrec", 0)
    assert found.decisive("discrec", 0) == defaults
    assert len({str(arm) for arm in found.arms.values()}) == len(found.arms) == 9
    assert found.arms["tiger"].branch == "none"
    assert len(found.seeds) == 2


@pytest.mark.parametrize("name", ["beauty-gpu", "beauty-cpu", "small"])
def test_the_reduced_studies_can_be_read(name: str) -> None:
    assert list(StudySettings.from_yaml(STUDIES / f"{name}.yaml").arms)[:2] == ["tiger", "discrec"]


def test_arms_may_be_named_and_an_unknown_one_is_one_line(study: Path, tmp_path: Path) -> None:
    folders = train_study(settings(study, "epochs=1"), tmp_path, arms=["tiger"], progress=False)
    assert [folder.name for folder in folders] == ["tiger-1"]
    with pytest.raises(ConfigError, match="the study has no arm 'lion': its arms are tiger, discrec"):
        train_study(settings(study), tmp_path, arms=["lion"], progress=False)


def test_more_validation_users_than_there_are_is_one_line(study: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation_users is 31, and there are 30"):
        train(study, tmp_path / "runs", "validation_users=31")


def test_a_run_without_its_weights_or_with_other_data_is_one_line(
    study: Path, prepared: Prepared, tmp_path: Path
) -> None:
    (run,) = train(study, tmp_path / "runs", "arms={discrec: }", "epochs=1")
    Prepared(prepared.interactions, type(prepared.ids)(prepared.ids.codes[::-1].copy(), 8)).write(tmp_path / "data", {})
    with pytest.raises(CheckpointError, match=r"is not what .* was trained on"):
        read_run(run, CPU)
    file = run / "checkpoint" / "model.safetensors"
    kept = load_file(file)
    save_file({name: value for name, value in kept.items() if "scores" not in name}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks weights"):
        read_run(run, CPU)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="no run that can be read"):
        read_run(run, CPU)


def test_a_folder_without_runs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no trained run"):
        find_runs(tmp_path)


def test_data_with_other_levels_than_the_model_is_refused(study: Path, prepared: Prepared, tmp_path: Path) -> None:
    (run,) = train(study, tmp_path / "runs", "arms={discrec: }", "epochs=1")
    codes = np.concatenate([prepared.ids.codes, prepared.ids.codes[:, :1]], axis=1)
    Prepared(prepared.interactions, type(prepared.ids)(codes, 8)).write(tmp_path / "data", {})
    with pytest.raises(CheckpointError, match="the model has 4 levels of 8 codes and the data 5 of 8"):
        read_run(run, CPU)


def test_ranks_are_kept_and_measured_anew_only_when_asked_otherwise(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = train(study, tmp_path / "runs", "arms={discrec: }", "epochs=1")
    first = measure(run, Protocol(), device=CPU, progress=False)
    assert len(first.ranks) == 30
    assert 0 <= first.ranks.min() <= first.ranks.max() <= 20
    monkeypatch.setattr(DiscRec, "forward", lambda *_, **__: pytest.fail("measured again"))
    assert np.array_equal(measure(run, Protocol(), device=CPU, progress=False).ranks, first.ranks)
    with pytest.raises(pytest.fail.Exception):
        measure(run, Protocol(users=5), device=CPU, progress=False)


@pytest.mark.slow
def test_a_walk_through_the_items_is_learned_from_codes_to_ranks(study: Path, tmp_path: Path) -> None:
    size = "size={layers: 1, width: 32, heads: 2, head_width: 16, feed_forward: 64, dropout: 0}"
    (run,) = train(study, tmp_path / "runs", "arms={discrec: }", size, "epochs=50", "learning_rate=0.005")
    ranks = measure(run, Protocol(), device=CPU, progress=False).ranks
    assert recall(ranks, 1).mean() > 0.4  # by chance 1 of 39


def test_a_run_tells_what_it_was_trained_by(study: Path, tmp_path: Path) -> None:
    (run,) = train(study, tmp_path / "runs", "arms={left: {left_padding: true}}", "epochs=1")
    values = yaml.safe_load((run / "run.yaml").read_text())
    assert (values["study"], values["arm_name"], values["seed"]) == ("tiny", "left", 1)
    assert values["arm"]["left_padding"] is True
    assert read_run(run, CPU)[2].config.left_padding
