"""From the settings to the matrix, through the commands; and what is refused, in one line each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM

from longspan.cli import main
from longspan.errors import ConfigError, DataError
from longspan.records import read_records
from longspan.systems.hprompt_cpt.config import CptConfig
from longspan.systems.hprompt_cpt.run import evaluate, finetune, train
from longspan.systems.hprompt_cpt.tuning import macro_f1
from longspan.systems.hprompt_cpt.windows import Masker, Stream, Windows

Make = Callable[..., CptConfig]
ARMS = {"sequential": {}, "hprompt": {"prompt": {"length": 2, "components": 3}, "agreement": {}, "disagreement": {}}}


@pytest.fixture
def settings_file(cpt_config: Make, tmp_path: Path) -> Path:
    path = tmp_path / "cpt.yaml"
    config = cpt_config(arms=ARMS, orders={"up": ["a", "b", "c"], "down": ["c", "b", "a"]})
    path.write_text(yaml.safe_dump(config.to_json()))
    return path


def test_the_commands_fill_the_matrix_and_tune_without_a_domain(
    settings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["cpt", "train", str(settings_file), "--out", out, "-q"]) == 0
    assert main(["cpt", "evaluate", str(settings_file), "--out", out, "-q"]) == 0
    records = read_records(Path(out))
    cells = [r for r in records if r.task == "matrix" and r.metric == "accuracy"]
    # three stages of two arms in two orders on three domains; row 0 once for each order
    assert len(cells) == 3 * 2 * 2 * 3 + 2 * 3
    assert all(0 <= (r.value or 0) <= 1 and r.low is not None and r.n for r in cells)
    summary = {(r.model, r.metric): r for r in records if r.task == "matrix" and r.seed is None}
    assert {arm for arm, _ in summary} == set(ARMS)
    assert summary["hprompt", "unseen_gain"].n == 2
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Stages by domains" in page
    assert "hprompt, order down" in page
    assert "unseen gain" in capsys.readouterr().out
    cell_files = sorted((tmp_path / "run" / "cells").glob("*.jsonl"))
    assert [path.stem for path in cell_files] == [
        "hprompt-down-0", "hprompt-up-0", "initial-0", "sequential-down-0", "sequential-up-0"
    ]  # fmt: skip
    before = [path.read_text() for path in cell_files]
    assert main(["cpt", "evaluate", str(settings_file), "--out", out, "-q"]) == 0
    assert [path.read_text() for path in cell_files] == before
    tuned = [
        "cpt",
        "finetune",
        str(settings_file),
        "--out",
        out,
        "-q",
        "--order",
        "down",
        "--into",
        str(tmp_path / "t"),
    ]
    assert main([*tuned, "--arm", "hprompt", "--stage", "1", "--domain", "a"]) == 0  # a domain that is yet unseen
    told = json.loads((tmp_path / "t" / "score.json").read_text())
    assert told["n"] == 20
    same = [r for r in cells if (r.run, r.model, r.stage, r.domain) == ("tiny/down", "hprompt", 1, "a")]
    assert told["accuracy"] == same[0].value
    AutoModelForMaskedLM.from_pretrained(tmp_path / "t" / "model")


@pytest.mark.parametrize("family", ["llama", "modernbert"])
def test_causal_and_rotary_masked_models_go_the_same_way(cpt_config: Make, tmp_path: Path, family: str) -> None:
    prompt = {**ARMS["hprompt"], "prompt": {"length": 2, "components": 3, "position": "negative"}}
    model = {"family": family, "size": "tiny", "vocab_size": 300}
    config = cpt_config(model=model, arms={"hprompt": prompt}, pretrain={"steps": 1, "rows": 2})
    train(config, tmp_path, progress=False)
    evaluate(config, tmp_path, progress=False)
    assert "hprompt" in (tmp_path / "table.md").read_text()


def test_a_given_model_is_taken_as_it_is(cpt_config: Make, tmp_path: Path) -> None:
    train(cpt_config(pretrain={"steps": 1, "rows": 2}), tmp_path / "first", progress=False)
    source = tmp_path / "first" / "initial-0" / "model"
    given = {"model": {"from": str(source), "kind": "masked"}, "base": None, "pretrain": {"steps": 1, "rows": 2}}
    train(cpt_config(**given), tmp_path / "second", progress=False)
    one, two = (path / "runs/sequential-given-0/stage-03/model/model.safetensors" for path in
                (tmp_path / "first", tmp_path / "second"))  # fmt: skip
    assert one.read_bytes() == two.read_bytes()


def test_further_arms_join_and_changed_ones_are_refused(cpt_config: Make, tmp_path: Path) -> None:
    short = {"pretrain": {"steps": 1, "rows": 2}}
    train(cpt_config(arms={"one": {}}, **short), tmp_path, progress=False)
    first = tmp_path / "runs/one-given-0/stage-03"
    when = first.stat().st_mtime_ns
    train(cpt_config(arms={"one": {}, "two": {"replay": {}}}, **short), tmp_path, progress=False)
    assert first.stat().st_mtime_ns == when
    with pytest.raises(ConfigError, match=r"one-given-0 was made with other settings \(arm\.replay\)"):
        train(cpt_config(arms={"one": {"replay": {}}}, **short), tmp_path, progress=False)
    base = {**cpt_config().to_json()["base"], "steps": 3}
    with pytest.raises(ConfigError, match=r"initial-0 was made with other settings \(base\.steps\)"):
        train(cpt_config(arms={"one": {}}, base=base, **short), tmp_path, progress=False)


def test_cells_of_another_tuning_or_another_test_are_not_mixed(cpt_config: Make, texts: Path, tmp_path: Path) -> None:
    config = cpt_config(pretrain={"steps": 1, "rows": 2})
    train(config, tmp_path / "run", progress=False)
    evaluate(config, tmp_path / "run", progress=False)
    cells = tmp_path / "run" / "cells"
    before = (cells / "sequential-given-0.jsonl").read_bytes()
    finetune = {**config.to_json()["finetune"], "steps": 3, "prompts": "drop"}
    changed = {"pretrain": {"steps": 1, "rows": 2}, "finetune": finetune}
    with pytest.raises(
        ConfigError, match=r"other settings \(finetune\.steps, finetune\.prompts\): set them back, or move"
    ):
        evaluate(cpt_config(**changed), tmp_path / "run", progress=False)
    domains = config.to_json()["domains"]
    other = {**domains, "a": {**domains["a"], "test": str(texts / "b-test.jsonl")}}
    with pytest.raises(ConfigError, match=r"other settings \(tasks\.a\)"):
        evaluate(cpt_config(pretrain={"steps": 1, "rows": 2}, domains=other), tmp_path / "run", progress=False)
    assert (cells / "sequential-given-0.jsonl").read_bytes() == before
    shutil.move(cells, tmp_path / "cells-before")
    evaluate(cpt_config(**changed), tmp_path / "run", progress=False)
    assert (cells / "sequential-given-0.jsonl").read_bytes() != before


def test_arm_by_arm_is_the_same_as_all_at_once(cpt_config: Make, tmp_path: Path) -> None:
    domains = {name: cpt_config().to_json()["domains"][name] for name in "ab"}
    short = {"pretrain": {"steps": 1, "rows": 2}, "finetune": {"steps": 1, "rows": 2}, "domains": domains}
    config = cpt_config(arms={"one": {}, "two": {"replay": {}}}, **short)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for do in (train, evaluate):
        do(config, whole, progress=False)
        for arm in ("two", "one"):
            do(config, parts, arms=[arm], progress=False)
    assert not (parts / "records.jsonl").exists()
    evaluate(config, parts, progress=False)
    one, two = ([replace(r, when="") for r in read_records(out) if r.task == "matrix"] for out in (whole, parts))
    assert len(one) > 20
    assert one == two


def test_a_stage_of_another_tokenizer_is_refused(cpt_config: Make, tmp_path: Path) -> None:
    config = cpt_config(pretrain={"steps": 1, "rows": 2})
    train(config, tmp_path, progress=False)
    shutil.rmtree(tmp_path / "runs/sequential-given-0/stage-03")
    tokenizer = tmp_path / "runs/sequential-given-0/stage-02/model/tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"<pad>"', '"<fill>"'))
    with pytest.raises(DataError, match="stage-02/model was trained with another tokenizer than this run has"):
        train(config, tmp_path, progress=False)


def test_bad_settings_are_one_line(cpt_config: Make, texts: Path) -> None:
    good = cpt_config().to_json()
    domains = good["domains"]
    wrong = {
        "lists one domain": {"domains": {"a": domains["a"]}, "orders": None},
        r"'orders\.up' must list every domain once": {"orders": {"up": ["a", "b"]}},
        "set one of 'base'": {"base": None},
        "names one twice": {"seeds": [1, 1]},
        "needs the environment variable NOT_SET_HERE": {"name": "${NOT_SET_HERE}"},
        "'train' and 'test' belong together": {"domains": {**domains, "a": {"train": "x.jsonl"}}},
        "has nothing to read": {"domains": {**domains, "a": {}}},
        "'arms.initial'": {"arms": {"initial": {}}},
        "'agreement' needs random prompts": {"arms": {"x": {"agreement": {}}}},
        "'disagreement' needs random prompts": {"arms": {"x": {"disagreement": {}}}},
        "'ewc' has no effect without an earlier stage": {"arms": {"x": {"domains": "joint", "ewc": {}}}},
        "'chosen' has no effect on kind hypernetwork": {"arms": {"x": {"prompt": {"chosen": 2}}}},
        "'chosen' 9 is more than the 3": {"arms": {"x": {"prompt": {"kind": "pool", "components": 3, "chosen": 9}}}},
        "unknown key 'arms.x.agrement'": {"arms": {"x": {"agrement": {}}}},
        "unknown size 'huge'": {"model": {"size": "huge"}},
        "'from' needs 'kind'": {"model": {"from": "x"}, "base": None},
    }  # fmt: skip
    for message, changes in wrong.items():
        with pytest.raises(ConfigError, match=message) as caught:
            CptConfig.parse({**good, **changes}, "cpt.yaml")
        assert "\n" not in str(caught.value)


def test_bad_domains_are_one_line(cpt_config: Make, texts: Path, tmp_path: Path) -> None:
    rows = [{"text": "a b c d e f g h i j k l m n o p", "label": label} for label in ("l0", "l2")]
    (tmp_path / "unseen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "nolabel.jsonl").write_text(json.dumps({"text": "x"}) + "\n")
    (tmp_path / "short.txt").write_text("too short")
    good = cpt_config().to_json()["domains"]
    a = {part: str(texts / f"a-{part}.jsonl") for part in ("train", "test")}
    wrong = {
        r"label 'l2' of .*unseen\.jsonl has no training sample": {**a, "test": str(tmp_path / "unseen.jsonl")},
        r"empty\.jsonl holds no text": {"train": str(tmp_path / "empty.jsonl"), "test": a["test"]},
        r"nolabel\.jsonl, line 1: no text under 'text' or no 'label'": {**a, "test": str(tmp_path / "nolabel.jsonl")},
        "fewer than one window of 12": {"text": str(tmp_path / "short.txt")},
        "does not exist": {"text": str(tmp_path / "nothing.txt")},
    }
    for number, (message, domain) in enumerate(wrong.items()):
        with pytest.raises(DataError, match=message) as caught:
            train(cpt_config(domains={**good, "a": domain}), tmp_path / str(number), progress=False)
        assert "\n" not in str(caught.value)


def test_what_does_not_fit_the_run_is_one_line(cpt_config: Make, tmp_path: Path) -> None:
    config = cpt_config(pretrain={"steps": 1, "rows": 2})
    negative = {"x": {"prompt": {"length": 2, "components": 2, "position": "negative"}}}
    with pytest.raises(ConfigError, match="negative needs rotary positions"):
        train(cpt_config(arms=negative), tmp_path / "other", progress=False)
    chosen = {"arm": "sequential", "order": "given", "seed": 0, "stage": 1, "domain": "a", "into": tmp_path / "t"}
    with pytest.raises(ConfigError, match="stage 1 has not been trained"):
        evaluate(config, tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="no arm 'x' in these settings: choose one of sequential"):
        finetune(config, tmp_path / "run", **{**chosen, "arm": "x"})
    with pytest.raises(ConfigError, match="no arm 'y' in these settings: choose one of sequential"):
        train(config, tmp_path / "run", arms=["y"], progress=False)
    with pytest.raises(ConfigError, match="has no stage 7"):
        finetune(config, tmp_path / "run", **{**chosen, "stage": 7})
    with pytest.raises(DataError, match=r"domains\.c has no labels to tune on"):
        finetune(config, tmp_path / "run", **{**chosen, "stage": 0, "domain": "c"})


def test_a_format_that_is_ignored_is_refused(settings_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cpt", "train", str(settings_file), "--dtype", "bfloat16"]) == 2
    assert "--dtype has no effect here" in capsys.readouterr().err


def test_masking_predicts_15_percent_as_bert_does() -> None:
    ids = np.full(40_000, 7)
    seen, labels = Masker(3, 1000, frozenset({0})).mask(ids, np.random.default_rng(0))
    chosen = labels != -100
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)
    assert (seen[chosen] == 3).mean() == pytest.approx(0.8, abs=0.02)
    assert (seen[chosen] == 7).mean() == pytest.approx(0.1, abs=0.02)
    assert (seen[~chosen] == 7).all()
    for place in range(50):  # of few tokens one at least
        assert (Masker(3, 1000, frozenset()).mask(ids[:3], np.random.default_rng(place))[1] != -100).any()
    assert (Masker(3, 1000, frozenset({7})).mask(ids, np.random.default_rng(0))[1] == -100).all()


def test_replayed_rows_are_among_the_first_windows_of_earlier_domains() -> None:
    one, two = (Windows(name, np.arange(base, base + 500), 8, 0, None) for name, base in (("one", 0), ("two", 1000)))
    stream = Stream((two,), 20, 0, earlier=(one,), share=0.5, kept=3)
    rows = torch.cat([stream.batch(step).input_ids for step in range(10)])
    old = rows[rows[:, 0] < 1000]
    assert len(old) == pytest.approx(100, abs=25)
    assert {row[0].item() for row in old} == {int(one.row(index)[0][0]) for index in range(3)}


def test_macro_f1_is_the_one_worked_out_by_hand() -> None:
    """Class 0: precision 1/2, recall 1; class 1: precision 1, recall 1/2: both 2/3. Class 2: never found, 0."""
    assert macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
