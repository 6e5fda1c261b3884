from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from longspan.cli import main
from longspan.records import read_records
from longspan.systems.discrec.evaluate import Measured, Protocol
from longspan.systems.discrec.results import result_records, results_table


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """MovieLens in small: 24 users walk through 30 films."""
    folder = tmp_path / "films"
    folder.mkdir()
    rows = [(user, (user * 5 + step) % 30, step) for user in range(24) for step in range(6 + user % 4)]
    ratings = "".join(f"{user},{film},4,{time}\n" for user, film, time in rows)
    films = "".join(f"{film},Film {film},{('Drama', 'War', 'Comedy')[film // 10]}\n" for film in range(30))
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + ratings)
    (folder / "movies.csv").write_text("movieId,title,genres\n" + films)
    return folder


TOKENIZER = ["codes=6", "code_width=4", "hidden=[8]", "epochs=20", "start_restarts=1", "start_iterations=2"]


def prepared(events: Path, tmp_path: Path) -> Path:
    sets = [part for setting in TOKENIZER for part in ("--set", setting)]
    assert main(["discrec", "prepare", str(events), "--out", str(tmp_path / "data"), *sets, "-q"]) == 0
    return tmp_path / "data"


def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(
        f"name: films\ndata: {tmp_path / 'data'}\narms: {{tiger: {{branch: none}}, discrec: }}\nseeds: [1, 2]\n"
        "size: {layers: 1, width: 16, heads: 2, head_width: 8, feed_forward: 16}\nhistory: 4\nepochs: 1\n"
    )
    return path


def test_from_ratings_to_films_for_one_user(events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepared(events, tmp_path)
    told = capsys.readouterr().out
    assert re.search(r"users +24\nitems +30\nevents +180\n", told)
    assert "collisions before" in told
    assert json.loads((data / "data.json").read_text())["tokenizer"]["codes"] == 6
    runs = tmp_path / "runs"
    assert main(["discrec", "train", str(study(tmp_path)), "--out", str(runs), "-q"]) == 0
    assert capsys.readouterr().out.split() == [
        str(runs / name) for name in ("tiger-1", "discrec-1", "tiger-2", "discrec-2")
    ]
    assert main(["discrec", "evaluate", str(runs), "-q"]) == 0
    table = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[4:] if line] == [
        "tiger",
        "discrec",
        "discrec - tiger",
    ]
    assert (runs / "test.md").read_text().strip() == table.strip()
    assert len(read_records(runs / "test.jsonl")) == 4 * (4 + 2 + 1)
    out = tmp_path / "found.json"
    asked = ["discrec", "recommend", str(runs / "discrec-1"), "--top", "3", "--json", str(out)]
    assert main([*asked, "--user", "3", "--unseen"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"  1 +-\d+\.\d+  \d+  Film \d+", lines[0])
    rows = json.loads(out.read_text())["recommendations"]
    assert not {row["item"] for row in rows} & {str((15 + step) % 30) for step in range(9)}
    assert main([*asked, "--items", "4, 5,6"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "99"], "unknown user '99': the data has 24"),
        (["--items", "4,x"], "unknown item 'x': the data has 30"),
        ([], "give a user of the data or the items"),
        (["--user", "3", "--items", "4"], "and not both"),
    ],
)
def test_a_history_that_is_not_there_is_one_line(
    events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    prepared(events, tmp_path)
    one = ["--set", "arms={discrec: }", "--seed", "1"]
    assert main(["discrec", "train", str(study(tmp_path)), "--out", str(tmp_path / "runs"), "-q", *one]) == 0
    capsys.readouterr()
    assert main(["discrec", "recommend", str(tmp_path / "runs/discrec-1"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({"x.csv": "user,item\nann,1\n"}, [], "user 'ann' has 1 event, and leaving two out takes 3"),
        ({"x.csv": "user,item\nann\n"}, [], "line 2: 1 fields where 2 belong"),
        ({"x.csv": "user,item\n" + "ann,1\n" * 5}, [], "1 items with 1 attributes make no vectors"),
        (
            {"x.csv": "user,item\n" + "".join(f"ann,{i}\nbob,{i + 5}\n" for i in range(9))},
            [],
            "14 items cannot fill codebooks",
        ),
        ({"x.csv": "user,item\n" + "ann,1\n" * 5}, ["--core", "6"], "no user and item has 6 events"),
        ({"x.csv": "user,item\n" + "ann,1\n" * 5}, ["--ids", "y.json"], "y.json cannot be read"),
        ({"x.csv": "user,item\n" + "ann,1\n" * 5}, ["--vectors", "y.npy"], "y.npy cannot be read as vectors"),
        ({"x.csv": "user,item\n" + "ann,1\n" * 5}, ["--ids", "y", "--vectors", "z"], "have no effect"),
        ({"x.csv": "user,item\n" + "ann,1\n" * 5}, ["--set", "levels=30"], "'levels'"),
        ({"x.inter.json": '{"a": [1, 2, 3, 4]}', "x.index.json": '{"1": ["<a_1>"]}'}, [], "no codes for item '2'"),
        ({"x.inter.json": '{"a": [1, 1, 1, 1]}', "x.index.json": '{"1": ["<a_1>"]}'}, ["--seed", "1"], "ready IDs"),
    ],
)
def test_data_that_cannot_be_prepared_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main(["discrec", "prepare", next(iter(files)), "--out", "data", *arguments, "-q"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_vectors_of_ones_own_are_taken_as_they_are(events: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32))
    sets = [part for setting in TOKENIZER for part in ("--set", setting)]
    paths = ["--vectors", str(tmp_path / "v.npy"), "--out", str(tmp_path / "data")]
    assert main(["discrec", "prepare", str(events), *paths, *sets, "-q"]) == 0


def measured(arm: str, seed: int, ranks: list[int], baseline: bool) -> Measured:
    return Measured("s", arm, seed, baseline, 1000, 0.001, np.array(ranks))


def test_differences_are_paired_by_user_with_the_seeds_averaged() -> None:
    runs = [
        measured("discrec", 1, [1, 0, 3, 0], False),
        measured("discrec", 2, [1, 1, 0, 0], False),
        measured("tiger", 1, [0, 0, 3, 0], True),
        measured("tiger", 2, [1, 0, 0, 0], True),
    ]
    records = result_records(runs, Protocol())
    found = {(r.method, r.seed): r for r in records if r.metric == "recall@5"}
    assert found["discrec", 1].value == found["discrec", 2].value == 0.5
    assert found["discrec", None].value == 0.5
    low, high = found["discrec", 1].low, found["discrec", 1].high
    assert (low, high) == pytest.approx((0.1500, 0.8500), abs=1e-4)  # Wilson's for 2 of 4
    assert found["tiger", None].value == 0.25
    difference = found["discrec - tiger", None]
    # by user: 1 - 0.5, 0.5 - 0, 0.5 - 0.5, 0
    assert difference.value == pytest.approx(0.25)
    assert difference.n == 4
    assert difference.low is not None
    assert difference.low >= 0
    row = results_table(runs, records).splitlines()[-1]
    assert row.startswith("| discrec - tiger |")
    assert "+0.2500" in row
