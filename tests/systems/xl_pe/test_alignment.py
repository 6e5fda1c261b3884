"""Word alignments: files read and refused, symmetrised by hand-made examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from longspan.errors import DataError
from longspan.systems.xl_pe.aligner import grow_diagonal
from longspan.systems.xl_pe.alignment import (
    Alignment,
    format_alignments,
    read_alignments,
    read_pairs,
    read_sentences,
)

PAIRS = [(("a", "b", "c"), ("x", "y"))]


def read(tmp_path: Path, text: str, first_index: int = 0) -> list[Alignment]:
    path = tmp_path / "links.txt"
    path.write_text(text, encoding="utf-8")
    return read_alignments(path, PAIRS, first_index=first_index)


@pytest.mark.parametrize(
    ("text", "first_index"), [("0-1 2-0\n", 0), ("3-2 ||| 0-1 2-0\n", 0), ("1-2 3p1", 1), ("2-0 0-1 0-1", 0)]
)
def test_every_form_of_a_line_gives_the_same_links(tmp_path: Path, text: str, first_index: int) -> None:
    (alignment,) = read(tmp_path, text, first_index)
    assert alignment == Alignment(3, 2, frozenset({(0, 1), (2, 0)}))
    assert alignment.targets() == [{1}, set(), {0}]
    assert alignment.transposed().targets() == [{2}, {0}]
    assert format_alignments([alignment]) == "0-1 2-0\n"


def test_a_pair_without_links_is_an_empty_line(tmp_path: Path) -> None:
    (alignment,) = read(tmp_path, "\n")
    assert alignment.targets() == [set(), set(), set()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0-1 2:0", "links.txt, line 1: '2:0' is not a link; write links as 0-0 1-2"),
        ("0-1 3-0", "links.txt, line 1: link 3-0 leads outside the pair of 3 and 2 words"),
        ("4-2 ||| 0-0", "links.txt, line 1: lengths '4-2' where the pair has 3-2 words"),
        ("0-0\n1-1\n", "links.txt has 2 lines for 1 sentence pairs"),
        ("", "links.txt is empty"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sentences_without_words_are_named(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("a b\n \t\n")
    with pytest.raises(DataError, match=r"text.txt, line 2: a sentence without words"):
        read_sentences(path)
    path.write_text("a b ||| c\na ||| \n")
    with pytest.raises(DataError, match="line 2: a sentence without words"):
        read_pairs(path)
    path.write_text("a b c\n")
    with pytest.raises(DataError, match=r"line 1: not of the form 'source \|\|\| target'"):
        read_pairs(path)
    with pytest.raises(DataError, match="cannot read"):
        read_sentences(tmp_path / "nowhere")


def test_an_ideographic_space_is_a_word_where_blanks_part_words(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("a \u3000 b\r\n", encoding="utf-8")
    assert read_sentences(path) == [("a", "\u3000", "b")]


def test_links_of_one_direction_grow_from_those_of_both() -> None:
    # 1-1 touches 0-0 and serves words without a link; 2-2 then touches 1-1; 3-0 touches none
    forward = Alignment(4, 3, frozenset({(0, 0), (1, 1), (3, 0)}))
    reverse = Alignment(4, 3, frozenset({(0, 0), (2, 2)}))
    assert grow_diagonal(forward, reverse).links == {(0, 0), (1, 1), (2, 2)}
    # 0-1 touches 0-0, but both its words are served by then
    forward = Alignment(2, 2, frozenset({(0, 0), (1, 1), (0, 1)}))
    reverse = Alignment(2, 2, frozenset({(0, 0), (1, 1)}))
    assert grow_diagonal(forward, reverse).links == {(0, 0), (1, 1)}
