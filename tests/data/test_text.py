"""Documents from files, folders, JSONL and data sets, and every way in which they can be unreadable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longspan.data.text import Document, read_documents
from longspan.errors import DataError


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_folder_is_read_recursively_in_sorted_order(corpus: Path) -> None:
    documents = list(read_documents(corpus))
    assert [document.name for document in documents] == ["a.md", "b.txt", "chapters/c.py"]
    assert documents[1].text == (corpus / "b.txt").read_text()


def test_hidden_and_binary_files_of_a_folder_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.txt").write_text("hidden")
    (tmp_path / "module.pyc").write_bytes(b"\xa7\r\r\n\x00")
    (tmp_path / "empty.py").write_text(" \n")
    (tmp_path / "module.py").write_text("print('shown')")
    assert list(read_documents(tmp_path)) == [Document("module.py", "print('shown')")]


def test_a_file_named_by_itself_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "story.unusual"
    path.write_text("\ufeffOnce upon a time", encoding="utf-8")
    assert list(read_documents(str(path))) == [Document("story.unusual", "Once upon a time")]


def test_line_ends_are_kept_as_written(tmp_path: Path) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes(b"one\r\ntwo\r\n")
    assert next(read_documents(path)).text == "one\r\ntwo\r\n"


def test_jsonl_rows_become_documents(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"body": "first\u2028line"}, {"body": "  "}, {"body": "third", "other": 1}]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    texts = [document.text for document in read_documents(path, field="body")]
    assert texts == ["first\u2028line", "third"]


@pytest.mark.parametrize(
    ("line", "said"),
    [("{not json", "line 2: not JSON"), ("[1]", "not a JSON object"), ('{"body": "x"}', "no text under 'text'")],
)
def test_a_bad_jsonl_line_is_named_by_number(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError) as error:
        list(read_documents(path))
    message = one_line(error)
    assert str(path) in message
    assert "line 2" in message
    assert said in message


def test_jsonl_is_read_line_by_line_and_a_bad_byte_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n{"text": "caf\xe9"}\n')
    documents = read_documents(path)
    assert [next(documents).text, next(documents).text] == ["one", "two"]  # before the bad line is met
    with pytest.raises(DataError) as error:
        next(documents)
    assert "rows.jsonl, line 3: not UTF-8 text (byte 13 of the line)" in one_line(error)


def test_missing_text_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        list(read_documents(tmp_path / "nowhere.txt"))
    assert "nowhere.txt does not exist" in one_line(error)


def test_text_that_is_not_utf8_names_the_file_and_the_byte(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 au lait".encode("latin-1"))
    with pytest.raises(DataError) as error:
        list(read_documents(tmp_path))
    message = one_line(error)
    assert "latin.txt is not UTF-8 text (byte 3)" in message
    assert "convert it" in message


def test_text_that_cannot_be_opened_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").symlink_to(tmp_path / "target-that-is-not-there")
    with pytest.raises(DataError) as error:
        list(read_documents(tmp_path))
    assert "gone.txt cannot be read" in one_line(error)


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_empty_text_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        list(read_documents(path))
    assert "holds no text" in one_line(error)


def test_a_folder_without_text_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError) as error:
        list(read_documents(tmp_path))
    assert "has no text files" in one_line(error)


def test_every_20th_document_is_held_out_and_parts_are_disjoint(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(45)))
    parts = {part: [document.text for document in read_documents(path, part=part)] for part in ("train", "validation")}
    assert parts["validation"] == ["text 19", "text 39"]
    assert len(parts["train"]) == 43
    assert not set(parts["train"]) & set(parts["validation"])


def test_too_few_documents_to_hold_any_out_is_an_error(corpus: Path) -> None:
    with pytest.raises(DataError) as error:
        list(read_documents(corpus, part="validation"))
    assert "3 documents, too few" in one_line(error)


def test_a_local_data_set_is_read_through_the_datasets_library(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert [document.text for document in read_documents(f"datasets:{folder}:train")] == ["one", "two"]
    with pytest.raises(DataError) as error:
        list(read_documents(f"datasets:{folder}:test"))
    assert "cannot be loaded" in one_line(error)


@pytest.mark.parametrize("source", ["datasets:", "datasets:name:", "datasets:a:b:c:d"])
def test_a_data_set_without_a_name_is_refused(source: str) -> None:
    with pytest.raises(DataError) as error:
        list(read_documents(source))
    assert "datasets:NAME[:CONFIG][:SPLIT]" in one_line(error)
