"""`longspan xlpe`: a study of a made-up language from text files to translations, and what it refuses."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from longspan.records import read_records

Done = Callable[..., str]
SIZES = {"vocab_size": 262, "layers": 1, "width": 8, "heads": 2, "feed_forward": 8}


def write_language(folder: Path) -> dict[str, dict[str, str]]:
    """Sentences `s o v` whose translations are `S V O`, with their alignments; where the files are, by split."""
    rng = random.Random(0)
    splits = {}
    for split, count in (("train", 12), ("dev", 4), ("test", 4)):
        words = [[f"{role}{rng.randrange(3)}" for role in "sov"] for _ in range(count)]
        sides = {
            "source": "".join(f"{' '.join(sentence)} .\n" for sentence in words),
            "target": "".join(f"{s} {v} {o} .\n".upper() for s, o, v in words),
            "alignments": "0-0 1-2 2-1 3-3\n" * count,
        }
        for side, text in sides.items():
            (folder / f"{split}.{side}").write_text(text)
        splits[split] = {side: str(folder / f"{split}.{side}") for side in sides}
    return splits


def write_study(folder: Path, **changes: object) -> Path:
    settings = {
        "name": "svo",
        **write_language(folder),
        "reorderer": {"iterations": 3},
        "translator": SIZES,
        "training": {"steps": 2, "batch_sentences": 4, "warmup": 1},
        "beams": 1,
        "seeds": [0],
        "device": "cpu",
        "arms": {"baseline": {}, "heads": {"heads": 1}, "gold": {"fusion": "tanh", "ranks": "oracle"}},
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared study, read only."""
    from longspan.cli import main

    folder = tmp_path_factory.mktemp("xlpe")
    assert main(["xlpe", "prepare", str(write_study(folder)), "--out", str(folder / "out"), "-q"]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def trained(prepared: Path) -> Path:
    """The same with all its arms."""
    from longspan.cli import main

    assert main(["xlpe", "train", str(prepared), "-q"]) == 0
    return prepared


def test_preparing_learns_the_order_of_the_target(prepared: Path) -> None:
    orders = (prepared / "orders" / "test.parser.txt").read_text().splitlines()
    assert orders == ["0 2 1 3"] * 4
    assert orders == (prepared / "orders" / "test.oracle.txt").read_text().splitlines()


def test_preparing_again_changes_nothing_and_other_settings_are_refused(
    prepared: Path, done: Done, refused: Done
) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.glob("orders/*")}
    study = prepared.parent / "study.yaml"
    done("xlpe", "prepare", study, "--out", prepared, "-q")
    assert before == {path: path.stat().st_mtime_ns for path in prepared.glob("orders/*")}
    said = refused("xlpe", "prepare", study, "--out", prepared, "-q", "--set", "reorderer.iterations=4")
    assert "was prepared from other data or settings (reorderer.iterations): take another folder" in said
    done("xlpe", "prepare", study, "--out", prepared, "-q", "--set", "training.save_every=7")
    done("xlpe", "prepare", study, "--out", prepared, "-q")


def test_arms_of_a_seed_begin_alike_and_are_trained_once(trained: Path, done: Done) -> None:
    assert sorted(run.name for run in (trained / "runs").glob("[!.]*")) == ["baseline-0", "gold-0", "heads-0"]
    before = (trained / "runs" / "heads-0" / "model.safetensors").stat().st_mtime_ns
    done("xlpe", "train", trained, "--arm", "heads", "-q")
    assert (trained / "runs" / "heads-0" / "model.safetensors").stat().st_mtime_ns == before


def test_an_arm_that_has_changed_under_its_name_is_not_taken_for_the_trained_one(
    trained: Path, refused: Done, tmp_path: Path
) -> None:
    study = tmp_path / "out"
    shutil.copytree(trained, study)
    text = (study / "study.yaml").read_text()
    (study / "study.yaml").write_text(text.replace("where: all", "where: first"))
    for command in ("train", "evaluate"):
        assert "was trained with other settings of 'baseline'" in refused("xlpe", command, study, "-q")


def test_an_arm_killed_in_any_epoch_goes_on_to_the_same_weights(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longspan.systems.xl_pe.preparing import StudyFolder
    from longspan.systems.xl_pe.trainer import TranslationTrainer
    from longspan.systems.xl_pe.training import train_arm

    def study(name: str) -> StudyFolder:
        shutil.copytree(prepared, tmp_path / name, ignore=shutil.ignore_patterns("runs", "work"))
        text = (tmp_path / name / "study.yaml").read_text()
        text = text.replace("steps: 2", "steps: 9").replace("save_every: 500", "save_every: 2")  # 3 steps an epoch
        (tmp_path / name / "study.yaml").write_text(text.replace("dropout: 0.2", "dropout: 0.5"))
        return StudyFolder(tmp_path / name)

    whole, stopped = study("whole"), study("stopped")
    expected = train_arm(whole, "heads", 0, progress=False)
    step = TranslationTrainer.training_step

    def killed_at(place: int) -> None:
        def killed(self: TranslationTrainer, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == place:
                raise RuntimeError("killed")
            return step(self, *args, **kwargs)

        monkeypatch.setattr(TranslationTrainer, "training_step", killed)

    for place in (1, 5, 7):
        killed_at(place)
        with pytest.raises(RuntimeError, match="killed"):
            train_arm(stopped, "heads", 0, progress=False)
    monkeypatch.setattr(TranslationTrainer, "training_step", step)
    found = train_arm(stopped, "heads", 0, progress=False)
    for name in ("model.safetensors", "losses.json"):
        assert (found / name).read_bytes() == (expected / name).read_bytes()
    assert not (stopped.work("heads", 0) / "state").exists()


def test_states_of_an_arm_that_has_changed_are_refused(prepared: Path, tmp_path: Path, refused: Done) -> None:
    study = tmp_path / "out"
    shutil.copytree(prepared, study, ignore=shutil.ignore_patterns("runs", "work"))
    work = study / "work" / "heads-0"
    (work / "state" / "step-000000001").mkdir(parents=True)
    (work / "arm.json").write_text('{"heads": 2}')
    assert "work/heads-0 was begun with other settings of this arm" in refused(
        "xlpe", "train", study, "--arm", "heads", "-q"
    )


def test_scores_stand_in_records_and_the_table(trained: Path, done: Done) -> None:
    pytest.importorskip("sacrebleu")
    table = done("xlpe", "evaluate", trained, "-q")
    assert [line.split(" | ")[0] for line in table.splitlines()[2:5]] == ["| baseline", "| heads", "| gold"]
    assert "tok:13a" in table
    records = read_records(trained)
    measured = {(record.model, record.metric) for record in records}
    assert {("gold", "bleu"), ("gold", "bleu_p"), ("heads", "chrf"), ("baseline", "dev_loss")} <= measured
    assert ("baseline", "bleu_p") not in measured
    assert all(record.seed == 0 for record in records)


def test_a_sentence_is_translated_with_its_order(trained: Path, done: Done, tmp_path: Path) -> None:
    text, result = tmp_path / "text.txt", tmp_path / "result.json"
    text.write_text("s0 o1 v2 .\nnew\n")
    lines = done("xlpe", "translate", trained / "runs" / "heads-0", "--text", text, "--show-order", "--json", result)
    assert lines.startswith("s0 v2 o1 .\t")
    rows = json.loads(result.read_text())["translations"]
    assert [row["order"] for row in rows] == [[0, 2, 1, 3], [0]]


def test_bad_calls_are_one_line(trained: Path, refused: Done, tmp_path: Path) -> None:
    empty, long = tmp_path / "empty.txt", tmp_path / "long.txt"
    empty.write_text("s0\n\n")
    long.write_text("s0 " * 200 + "\n")
    run = trained / "runs" / "heads-0"
    for arguments, said in (
        (("translate", run, "--text", empty), "empty.txt, line 2: a sentence without words"),
        (("translate", run, "--text", long), "sentence 1 has"),
        (("translate", trained / "runs" / "gold-0", "--text", empty), "line 2: a sentence without words"),
        (("translate", trained, "--text", empty), "line 2"),
        (("train", trained, "--arm", "nobody"), "the study has no arm 'nobody': its arms are baseline, heads, gold"),
        (("train", trained, "--dtype", "bfloat16"), "--dtype has no effect here"),
        (("train", trained, "--seed", "7"), "the study has no seed 7: its seeds are 0"),
        (("train", tmp_path), "holds no prepared study: run `longspan xlpe prepare` first"),
    ):
        assert said in refused("xlpe", *arguments, "-q")
    text = tmp_path / "text.txt"
    text.write_text("s0\n")
    assert "this arm is a control" in refused("xlpe", "translate", trained / "runs" / "gold-0", "--text", text, "-q")
    assert "holds no trained arm" in refused("xlpe", "translate", trained, "--text", text, "-q")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("train.alignments", "0-0 1\n" + "0-0\n" * 11, "train.alignments, line 1: '1' is not a link"),
        ("train.source", "a\n" * 11 + "\n", "train.source, line 12: a sentence without words"),
        ("train.target", "a\n" * 11, "has 12 lines and"),
        ("train.alignments", "\n" * 12, "no pair has an order that can be learned"),
    ],
)
def test_broken_data_are_one_line(tmp_path: Path, refused: Done, file: str, text: str, said: str) -> None:
    study = write_study(tmp_path)
    (tmp_path / file).write_text(text)
    assert said in refused("xlpe", "prepare", study, "--out", tmp_path / "out", "-q")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"a": {"ranks": "random"}}}, "'ranks' random has no effect"),
        ({"arms": {"a": {"heads": 3}}}, "'arms.a.heads' 3 is more than the 2 there are"),
        ({"arms": {"a": {"head": 1}}}, "unknown key 'arms.a.head'"),
        ({"baseline": "b"}, "'baseline' b is not among the arms"),
        ({"translator": {"width": 6, "heads": 2}}, "must give each of 2 heads an even number"),
    ],
)
def test_settings_without_sense_are_one_line(tmp_path: Path, refused: Done, changes: object, said: str) -> None:
    study = write_study(tmp_path, **changes)  # type: ignore[arg-type]
    assert said in refused("xlpe", "prepare", study, "--out", tmp_path / "out", "-q")


def test_the_reorderer_is_judged_by_cross_validation(tmp_path: Path, done: Done) -> None:
    pairs, links, records = tmp_path / "pairs.txt", tmp_path / "links.txt", tmp_path / "records.jsonl"
    pairs.write_text("".join(f"s{n % 3} o{n % 2} v{n % 4} ||| S V O\n" for n in range(12)))
    links.write_text("1-1 2-3 3-2\n" * 12)
    options = ("--folds", 3, "--iterations", 3, "--first-index", 1, "--records", records, "-q")
    printed = done("xlpe", "validate", "--pairs", pairs, "--alignments", links, *options)
    found = {(one.task, one.model, one.metric): one for one in read_records(records)}
    assert found["reordering", "monotone", "tau"].value == pytest.approx(2 / 3)
    assert found["reordering", "learned", "tau"].value == 1.0
    assert found["reordering_all", "learned", "complete_match"].n == 12
    assert "learned" in printed


def test_the_study_of_the_project_is_whole() -> None:
    from longspan.systems.xl_pe.config import StudySettings

    path = Path(__file__).parents[2] / "results" / "xl-pe" / "translation.yaml"
    settings = StudySettings.from_yaml(path)
    assert {arm.ranks for arm in settings.arms.values()} == {"parser", "identity", "random", "other", "oracle"}
    assert len(settings.seeds) == 2
