from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from longspan.errors import ConfigError, DataError
from longspan.systems.discrec.codes import SemanticIds
from longspan.systems.discrec.formats import read_attributes, read_interactions, read_names
from longspan.systems.discrec.interactions import Interactions
from longspan.systems.discrec.prepare import Prepared
from longspan.systems.discrec.rows import Rows, Samples
from longspan.train.batches import EpochBatches

IDS = SemanticIds(np.array([[183, 70, 232, 6], [0, 0, 0, 0], [255, 255, 255, 255]]))
WALK = Interactions.collect({"a": ["1", "2", "10", "3", "2"], "b": ["2", "1", "3", "10"]})


def histories(found: Interactions) -> dict[str, list[str]]:
    rows = zip(found.users, found.histories, strict=True)
    return {user: [found.items[item] for item in row] for user, row in rows}


def test_tokens_count_levels_of_256_from_2() -> None:
    assert IDS.vocabulary == 1026
    assert IDS.tokens.tolist() == [[185, 328, 746, 776], [2, 258, 514, 770], [257, 513, 769, 1025]]


def test_a_short_history_is_padded_between_its_last_item_and_the_end() -> None:
    row = Rows(IDS, history=3).encoder(np.array([0, 1]))
    assert row.tolist() == [185, 328, 746, 776, 2, 258, 514, 770, 0, 0, 0, 0, 1]


def test_with_left_padding_the_end_follows_the_last_item() -> None:
    row = Rows(IDS, history=3, left_padding=True).encoder(np.array([0, 1]))
    assert row.tolist() == [0, 0, 0, 0, 185, 328, 746, 776, 2, 258, 514, 770, 1]


def test_the_newest_items_are_read_and_labels_end() -> None:
    rows = Rows(IDS, history=1)
    assert rows.encoder(np.array([1, 2, 0])).tolist() == [185, 328, 746, 776, 1]
    assert rows.labels(np.array([2])).tolist() == [[257, 513, 769, 1025, 1]]


@pytest.mark.parametrize("left", [False, True])
def test_a_batch_of_samples_is_its_histories_one_by_one(left: bool) -> None:
    rows, places = Rows(IDS, history=2, left_padding=left), [(1, 1), (0, 3), (0, 1), (1, 2)]
    walk = Interactions(("a", "b"), ("x", "y", "z"), (np.array([2, 0, 1, 1]), np.array([1, 2, 0])))
    batch = Samples(walk, rows, places).batch([3, 1, 0])
    for row, (user, place) in enumerate([places[3], places[1], places[0]]):
        history = walk.histories[user]
        pad = [0] * (4 * (2 - min(place, 2)))
        codes = IDS.tokens[history[:place][-2:]].flatten().tolist()
        assert batch["input_ids"][row].tolist() == [*(pad + codes if left else codes + pad), 1]
        assert batch["labels"][row].tolist() == [*IDS.tokens[history[place]].tolist(), 1]
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != 0).long())


def test_the_paper_reads_20_items_as_81_tokens() -> None:
    assert len(Rows(IDS).encoder(np.zeros(30, dtype=np.int64))) == 81


def test_items_are_numbered_as_numbers_where_they_are() -> None:
    assert WALK.items == ("1", "2", "3", "10")


def test_the_last_item_tests_the_one_before_validates_and_neither_is_learned() -> None:
    assert WALK.training_samples() == [(0, 1), (0, 2), (1, 1)]
    assert WALK.held_out("test") == [(0, 4), (1, 3)]
    assert WALK.held_out("validation") == [(0, 3), (1, 2)]
    assert [row.tolist() for row in WALK.training_histories()] == [[0, 1, 3], [1, 0]]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (["1"], "user 'u' has 1 event, and leaving two out takes 3"),
        (["1", "2"], "has 2 events"),
        (["1", "2", "3"], "no user has 4"),
    ],
)
def test_histories_that_cannot_be_split_are_one_line(history: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Interactions.collect({"u": history}).check()


def test_a_core_leaves_nobody_below_it() -> None:
    rows = {"a": ["1", "2"], "b": ["1", "2"], "c": ["3", "1"], "d": ["3", "4"], "e": ["5"]}
    # without item 4 user d has one event left and goes, then item 3 has one taker left, then user c has one event left
    assert histories(Interactions.collect(rows).filtered(2)) == {"a": ["1", "2"], "b": ["1", "2"]}


def test_an_impossible_core_is_one_line() -> None:
    with pytest.raises(DataError, match="no user and item has 9 events"):
        WALK.filtered(9)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(text.encode("latin-1"))
    return folder


SAME = {"7": ["1", "2", "3", "1"], "8": ["2", "3", "1", "2"]}


def test_all_forms_say_the_same(tmp_path: Path) -> None:
    lines = [(user, item, time) for user, row in SAME.items() for time, item in enumerate(row, start=5)]
    shuffled = sorted(lines, key=lambda line: -line[2])
    forms = {
        "x__inter__json": json.dumps({user: [int(item) for item in row] for user, row in SAME.items()}),
        "x__txt": "".join(f"{user} {' '.join(row)}\n" for user, row in SAME.items()),
        "x__csv": "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},4.0,{t}\n" for u, i, t in shuffled),
        "ordered__csv": "item,user\n" + "".join(f"{i},{u}\n" for u, i, _ in lines),
        "x__inter": "user_id:token\titem_id:token\ttimestamp:float\n"
        + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in shuffled),
        "u__data": "".join(f"{u}\t{i}\t3\t{t}\n" for u, i, t in shuffled),
        "ratings__dat": "".join(f"{u}::{i}::3::{t}\n" for u, i, t in shuffled),
    }
    write(tmp_path, **forms)
    for name in forms:
        assert histories(read_interactions(tmp_path / name.replace("__", "."))) == SAME, name


def test_movielens_brings_names_and_genres(tmp_path: Path) -> None:
    flags = {"1": "0|1|1", "2": "1|0|0", "3": "0|0|0"}
    small = write(
        tmp_path,
        u__data="".join(f"7\t{item}\t3\t{time}\n" for time, item in enumerate("1231")),
        u__genre="unknown|0\nAction|1\nComedy|2\n\n",
        u__item="".join(f"{item}|Film é {item} (1995)|01-Jan-1995||http://x|{flag}\n" for item, flag in flags.items()),
    )
    found = read_interactions(small)
    assert found.names["2"] == "Film é 2 (1995)"
    assert found.attributes["1"] == ["Action", "Comedy", "film", "é", "1", "1995"]
    (tmp_path / "later").mkdir()
    later = write(
        tmp_path / "later",
        ratings__csv="userId,movieId,rating,timestamp\n"
        + "".join(f"7,{item},3,{t}\n" for t, item in enumerate("1231")),
        movies__csv='movieId,title,genres\n1,"Heat, The (2013)",Action|Comedy\n2,Up,\n3,X,Drama\n',
    )
    found = read_interactions(later)
    assert found.names["1"] == "Heat, The (2013)"
    assert found.attributes["1"][:2] == ["Action", "Comedy"]


def test_names_and_attributes_come_from_files_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, n__csv="item_id,title\n1,One\n", a__json='{"1": [4, "red"]}')
    assert read_names(tmp_path / "n.csv") == {"1": "One"}
    assert read_attributes(tmp_path / "a.json") == {"1": ["4", "red"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x__csv", "user,item\n1,2,3\n", r"x.csv, line 2: 3 fields where 2 belong \(user, item\)"),
        ("x__csv", "user,thing\n1,2\n", "no column item or item_id"),
        ("x__csv", "user,item,timestamp\n1,2,noon\n", "line 2: 'noon' is no time"),
        ("x__csv", "user,item\n", "has no rows"),
        ("x__csv", "", "is empty"),
        ("x__json", "[1]", "no JSON object"),
        ("x__json", "{", "no JSON"),
        ("x__json", '{"u": 3}', "user 'u' has 3, not a list of items"),
        ("x__txt", "1 2 3\n1 4\n", "line 2: user '1' stands there twice"),
        ("x__parquet", "", "no interactions in a known form"),
    ],
)
def test_a_broken_file_is_one_line_that_says_where(tmp_path: Path, name: str, text: str, message: str) -> None:
    write(tmp_path, **{name: text})
    with pytest.raises(DataError, match=message) as caught:
        read_interactions(tmp_path / name.replace("__", "."))
    assert "\n" not in str(caught.value)


def test_ready_ids_are_read_as_they_are_published(tmp_path: Path) -> None:
    path = tmp_path / "x.index.json"
    path.write_text(json.dumps(IDS.save()))
    assert json.loads(path.read_text())["0"] == ["<a_183>", "<b_70>", "<c_232>", "<d_6>"]
    assert np.array_equal(SemanticIds.read(path, ["2", "0"]).codes, IDS.codes[[2, 0]])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"0": ["<a_1>"]}, "no codes for item '1'"),
        ({"0": ["<a_1>", "<b_1>"], "1": ["<a_1>"]}, "item '1' has 1 codes and the first 2"),
        ({"0": ["<a_1>", "<a_1>"], "1": ["<a_1>", "<b_2>"]}, "item '0' has"),
        ({"0": ["7"], "1": ["8"]}, "not codes such as"),
    ],
)
def test_ids_that_do_not_fit_are_one_line(tmp_path: Path, table: dict[str, list[str]], message: str) -> None:
    path = tmp_path / "x.index.json"
    path.write_text(json.dumps(table))
    with pytest.raises(DataError, match=message):
        SemanticIds.read(path, ["0", "1"])


def test_collisions_are_the_share_of_items_without_codes_of_their_own() -> None:
    assert SemanticIds(np.array([[1, 2], [1, 2], [1, 2], [3, 4]])).collisions == 0.5


def test_prepared_data_comes_back_as_it_was(prepared: Prepared, tmp_path: Path) -> None:
    summary = prepared.write(tmp_path / "data", {"ids": "made"})
    assert (summary["users"], summary["items"], summary["collisions"]) == (30, 40, 1 / 40)
    again = Prepared.read(tmp_path / "data")
    assert np.array_equal(again.ids.codes, prepared.ids.codes)
    assert again.ids.codebook_size == 8
    assert histories(again.interactions) == histories(prepared.interactions)
    assert again.interactions.names == prepared.interactions.names
    assert read_interactions(tmp_path / "data").events == prepared.interactions.events


def test_a_folder_with_other_files_is_not_replaced(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear all")
    with pytest.raises(ConfigError, match="holds no prepared data"):
        prepared.write(tmp_path, {})
    assert (tmp_path / "letter.txt").exists()


def test_a_damaged_folder_is_one_line(prepared_folder: Path) -> None:
    (prepared_folder / "items.json").write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        Prepared.read(prepared_folder)


def test_beauty_has_the_counts_of_the_authors_log(data_dir: Callable[[str], Path]) -> None:
    folder = data_dir("rec") / "letter_semantic_ids/Beauty"
    found = read_interactions(folder).check()
    assert (len(found.users), len(found.items), found.events) == (22_363, 12_101, 198_502)
    samples = found.training_samples()
    assert len(samples) == 131_413
    assert EpochBatches(len(samples), 256, 1, 0).per_epoch == 514
    held = dict(found.held_out("validation"))
    assert all(place < held[user] for user, place in samples)
    ids = SemanticIds.read(folder / "Beauty.index.json", found.items)
    assert (len(set(ids.groups.tolist())), len(np.unique(ids.codes[:, 0])), ids.vocabulary) == (12_088, 197, 1026)


def test_the_two_public_beauty_sets_are_the_same_events(data_dir: Callable[[str], Path]) -> None:
    letter = read_interactions(data_dir("rec") / "letter_semantic_ids/Beauty")
    s3rec = read_interactions(data_dir("rec") / "s3rec_amazon/Beauty.txt")
    assert all(np.array_equal(a, b) for a, b in zip(letter.histories, s3rec.histories, strict=True))
