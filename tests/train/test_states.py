from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from longspan.errors import StorageError
from longspan.train import states


def save(folder: Path, step: int) -> None:
    states.save_state(folder, step, {"model": {"w": torch.full((4,), float(step))}}, {"progress": {"step": step}})


def test_a_state_reads_back_what_was_written(tmp_path: Path) -> None:
    save(tmp_path, 7)
    state, warnings = states.newest_state(tmp_path)
    assert state is not None
    assert (states.state_step(state), warnings) == (7, [])
    assert load_file(state / "model.safetensors")["w"].tolist() == [7.0] * 4
    assert states.read_value(state, "progress") == {"step": 7}


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    for step in (5, 90, 1000, 20000):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001000", "step-000020000"]


@pytest.mark.parametrize("damaged", ["model.safetensors", "progress.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "no manifest"])
def test_a_damaged_state_is_passed_over_for_the_one_before(tmp_path: Path, damage: str, damaged: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    weights, manifest = (tmp_path / "step-000000002" / name for name in (damaged, "manifest.json"))
    content = weights.read_bytes()
    if damage == "truncate":
        weights.write_bytes(content[:-3])
    elif damage == "flip":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "remove":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text("[1", encoding="utf-8")
    else:
        manifest.unlink()
    state, warnings = states.newest_state(tmp_path)
    assert state == tmp_path / "step-000000001"
    assert len(warnings) == 1
    assert "step-000000002 is damaged" in warnings[0]


@pytest.mark.parametrize("error", [SafetensorError("I/O error"), Exception("No space left on device (os error 28)")])
def test_failed_writes_of_safetensors_and_tokenizers_are_storage_errors(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(StorageError, match="free some space"), states.writing_folder(tmp_path / "new"):
        raise error
    assert not list(tmp_path.iterdir())


def test_other_errors_pass_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), states.writing_folder(tmp_path / "new"):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_had_begun_to_write_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".step-000000001.abc", ".checkpoint.abc"):
        (tmp_path / name).mkdir()
    for name in (".run.yaml.abc", ".lock", ".gitignore", "run.yaml"):
        (tmp_path / name).touch()
    states.remove_leftovers(tmp_path, "run.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", ".lock", "run.yaml"]


def test_no_state_is_none(tmp_path: Path) -> None:
    assert states.newest_state(tmp_path / "nowhere") == (None, [])


def test_a_full_disk_leaves_the_states_before_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(states, "save_file", full)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert states.newest_state(tmp_path)[0] == tmp_path / "step-000000001"
