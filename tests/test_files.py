"""Files and folders are whole or as they were, wherever a kill falls."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from longspan import files
from longspan.errors import StorageError
from longspan.files import recover_folder, replacing_folder, write_text


class KilledError(BaseException):
    """Stands for a kill."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def kill_when(monkeypatch: pytest.MonkeyPatch, moved: str) -> None:
    """Die instead of moving what is called `moved` to its place; nothing is tidied up afterwards."""
    replace = Path.replace

    def move(self: Path, target: Path) -> Path:
        if self.name.startswith(moved):
            raise KilledError
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", move)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)


def test_a_folder_takes_its_place_whole(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replacing_folder(tmp_path / "out") as part:
            (part / "inner").mkdir()
            (part / "inner" / text).write_text(text)
        assert names(tmp_path) == ["out"]
        assert names(tmp_path / "out" / "inner") == [text]


def test_a_folder_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(files, "_flush", lambda path: flushed.append(path.name))
    with replacing_folder(tmp_path / "out") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("x")
    assert sorted(flushed[:2]) == ["file", "inner"]
    assert flushed[2:] == [part.name, tmp_path.name]


def test_a_failed_write_leaves_the_old_folder_alone(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "out") as part:
        (part / "old").write_text("")
    with pytest.raises(StorageError, match="No space left"), replacing_folder(tmp_path / "out") as part:
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


@pytest.mark.parametrize("name", ["out", "out[1]*"])
def test_a_folder_that_a_kill_left_aside_is_put_back(tmp_path: Path, name: str) -> None:
    with replacing_folder(tmp_path / name) as part:
        (part / "old").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        kill_when(patch, f".{name}.")
        with pytest.raises(KilledError), replacing_folder(tmp_path / name):
            pass
    assert not (tmp_path / name).exists()
    recover_folder(tmp_path / name)
    assert names(tmp_path / name) == ["old"]
    assert not list(tmp_path.glob(".*.old.*"))


def test_the_next_write_puts_it_back_too(tmp_path: Path) -> None:
    aside = tmp_path / ".out.old.abc" / "out"
    aside.mkdir(parents=True)
    (aside / "old").write_text("")
    with pytest.raises(StorageError), replacing_folder(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


def test_what_was_replaced_before_a_kill_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.old.abc" / "out").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "new").write_text("")
    recover_folder(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["new"]
    recover_folder(tmp_path / "nowhere" / "out")


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "first")
    with pytest.MonkeyPatch.context() as patch:
        kill_when(patch, ".file.")
        with pytest.raises(KilledError):
            write_text(tmp_path / "file", "second")
    assert (tmp_path / "file").read_text() == "first"
    assert names(tmp_path) == ["file"]
