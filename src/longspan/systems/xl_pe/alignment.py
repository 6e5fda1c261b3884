"""Sentence pairs and their word alignments, as files hold them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longspan.errors import DataError

Words = tuple[str, ...]
"""The words of a sentence, as ASCII blanks part them."""

_BARS = "|||"
_WORD = re.compile(r"[^ \t\r]+")
_LENGTHS = re.compile(r"(\d+)-(\d+)")
_LINK = re.compile(r"(\d+)[-p](\d+)")


@dataclass(frozen=True, slots=True)
class Alignment:
    """Links between the words of a sentence pair, both counted from 0."""

    source_length: int
    target_length: int
    links: frozenset[tuple[int, int]]

    def targets(self) -> list[set[int]]:
        """The target words that each source word is linked to."""
        found: list[set[int]] = [set() for _ in range(self.source_length)]
        for source, target in self.links:
            found[source].add(target)
        return found

    def transposed(self) -> Alignment:
        """The same links from the target's side."""
        turned = frozenset((target, source) for source, target in self.links)
        return Alignment(self.target_length, self.source_length, turned)

    def __str__(self) -> str:
        return " ".join(f"{source}-{target}" for source, target in sorted(self.links))


def split_words(line: str, where: str) -> Words:
    """The words of a line.

    Raises:
        DataError: it has none; `where` names it.
    """
    words = tuple(_WORD.findall(line))  # an ideographic space may well be a word
    if not words:
        raise DataError(f"{where}: a sentence without words; remove this pair from all files")
    return words


def read_lines(path: Path | str) -> list[str]:
    """The lines of a UTF-8 text file.

    Raises:
        DataError: the file is missing, no text, or empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(f"cannot read {path}: {reason}; give a text file with a sentence a line") from error
    if not text:
        raise DataError(f"{path} is empty: give a text file with a sentence a line")
    return text.removesuffix("\n").split("\n")


def read_sentences(path: Path | str) -> list[Words]:
    """A sentence a line, words parted by blanks.

    Raises:
        DataError: as `read_lines`, or a line has no word.
    """
    return [split_words(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), start=1)]


def read_pairs(path: Path | str) -> list[tuple[Words, Words]]:
    """Sentence pairs, `source ||| target` a line.

    Raises:
        DataError: as `read_lines`, or a line is of another form.
    """
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}, line {number}"
        sides = line.split(f" {_BARS} ")
        if len(sides) != 2:
            raise DataError(f"{where}: not of the form 'source {_BARS} target'; correct that line")
        pairs.append((split_words(sides[0], where), split_words(sides[1], where)))
    return pairs


def read_alignments(
    path: Path | str, pairs: Sequence[tuple[Words, Words]], *, first_index: Literal[0, 1] = 0
) -> list[Alignment]:
    """One alignment a line in Pharaoh's format, `0-0 1-2 ...`; `m-n |||` with both lengths may stand in front.

    Possible links (`ipj`) count as links.

    Args:
        first_index: the number of the first word in the file.

    Raises:
        DataError: as `read_lines`; another number of lines than of pairs; a link that cannot be read or names a word
            that the sentence does not have.
    """
    lines = read_lines(path)
    if len(lines) != len(pairs):
        raise DataError(f"{path} has {len(lines)} lines for {len(pairs)} sentence pairs: give one line a pair")
    return [
        _read_alignment(line, len(source), len(target), first_index, f"{path}, line {number}")
        for number, (line, (source, target)) in enumerate(zip(lines, pairs, strict=True), start=1)
    ]


def _read_alignment(line: str, source_length: int, target_length: int, first_index: int, where: str) -> Alignment:
    head, bars, rest = line.partition(_BARS)
    if bars:
        lengths = _LENGTHS.fullmatch(head.strip())
        if lengths is None or (int(lengths[1]), int(lengths[2])) != (source_length, target_length):
            said = head.strip()
            raise DataError(f"{where}: lengths '{said}' where the pair has {source_length}-{target_length} words")
    links = set()
    for part in (rest if bars else line).split():
        link = _LINK.fullmatch(part)
        if link is None:
            raise DataError(f"{where}: '{part}' is not a link; write links as 0-0 1-2")
        source, target = int(link[1]) - first_index, int(link[2]) - first_index
        if not (0 <= source < source_length and 0 <= target < target_length):
            raise DataError(
                f"{where}: link {part} leads outside the pair of {source_length} and {target_length} words; "
                f"words are counted from {first_index}"
            )
        links.add((source, target))
    return Alignment(source_length, target_length, frozenset(links))


def format_alignments(alignments: Iterable[Alignment]) -> str:
    """Alignments in Pharaoh's format, a line each."""
    return "".join(f"{alignment}\n" for alignment in alignments)
