from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from longspan.errors import ConfigError
from longspan.train.settings import Length, Settings


class Wheel(Settings):
    radius: Annotated[float, Field(gt=0)] = 1.0
    spokes: int = 36


class Bicycle(Settings):
    name: str
    length: Length = 1024
    front: Wheel = Wheel()
    back: Wheel | None = None


def read(tmp_path: Path, text: str, *overrides: str) -> Bicycle:
    path = tmp_path / "bicycle.yaml"
    path.write_text(text, encoding="utf-8")
    return Bicycle.from_yaml(path, overrides)


def mistake(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, *overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_lengths_and_exponents_are_read_as_people_write_them(tmp_path: Path) -> None:
    bicycle = read(tmp_path, "name: a\nlength: 32k\nfront: {radius: 2e-3}")
    assert bicycle.length == 32768
    assert bicycle.front.radius == 0.002


def test_an_override_replaces_one_value_and_leaves_its_neighbours(tmp_path: Path) -> None:
    bicycle = read(tmp_path, "name: a\nfront: {radius: 3, spokes: 20}", "front.spokes=24", "back.radius=2", "name=b")
    assert (bicycle.name, bicycle.front.radius, bicycle.front.spokes) == ("b", 3, 24)
    assert bicycle.back == Wheel(radius=2)


def test_an_unknown_key_is_named_with_its_place_and_the_nearest_known_one(tmp_path: Path) -> None:
    line = mistake(tmp_path, "name: a\nback: {radus: 3}")
    assert line.endswith("unknown key 'back.radus'; did you mean 'radius'?")
    assert "bicycle.yaml" in line


def test_an_unknown_key_like_no_other_lists_the_known_ones(tmp_path: Path) -> None:
    assert "known here: name, length, front, back" in mistake(tmp_path, "name: a\nxyz: 1")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert "'name' is missing" in mistake(tmp_path, "length: 512")


def test_an_unknown_key_is_named_before_a_missing_one_that_it_may_stand_for(tmp_path: Path) -> None:
    line = mistake(tmp_path, "nmae: a")
    assert "unknown key 'nmae'; did you mean 'name'? (and 1 more mistake)" in line


@pytest.mark.parametrize("text", ["", "null", "# nothing"])
def test_an_empty_file_lacks_its_required_key(tmp_path: Path, text: str) -> None:
    assert "'name' is missing" in mistake(tmp_path, text)


def test_a_wrong_value_is_named_and_shown(tmp_path: Path) -> None:
    line = mistake(tmp_path, "name: a\nfront: {radius: -1}")
    assert "'front.radius': input should be greater than 0, not -1" in line


def test_a_bad_length_is_named(tmp_path: Path) -> None:
    assert "'length': '32q' is not a length" in mistake(tmp_path, "name: a\nlength: 32q")


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    assert mistake(tmp_path, "name: a\nx: 1\ny: 2\nlength: 0").endswith("(and 2 more mistakes)")


def test_a_key_written_twice_is_an_error(tmp_path: Path) -> None:
    line = mistake(tmp_path, "name: a\nlength: 512\nlength: 1k")
    assert "line 3" in line
    assert "'length' is set twice" in line


@pytest.mark.parametrize("text", ["name: [a", "name: a\n  b: c", "? [a]: b", "a: !!python/object:os.system x"])
def test_a_file_that_is_no_plain_yaml_is_an_error_of_one_line(tmp_path: Path, text: str) -> None:
    assert str(tmp_path) in mistake(tmp_path, text)


def test_a_list_instead_of_settings_is_an_error(tmp_path: Path) -> None:
    assert "one `key: value` a line" in mistake(tmp_path, "- a\n- b")


@pytest.mark.parametrize("override", ["name", "=3", ".a=3", "name.x=3", "a..b=1", "front=[1"])
def test_an_override_that_cannot_be_used_is_shown(tmp_path: Path, override: str) -> None:
    assert override in mistake(tmp_path, "name: a", override)


def test_a_file_that_is_missing_or_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.yaml: No such file"):
        Bicycle.from_yaml(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ConfigError, match="it is no text"):
        Bicycle.from_yaml(tmp_path / "binary.yaml")


def test_what_is_written_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    bicycle = read(tmp_path, "name: ä\nback: {spokes: 12}")
    assert read(tmp_path, bicycle.to_yaml()) == bicycle
