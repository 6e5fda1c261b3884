"""What the reorderer looks at when it splits a span: 102 features an action, and where their weights are found.

An action splits the span b .. e in front of p. Most features depend on fewer than three of b, p and e, so all actions
of a sentence are scored from small tables, one for each set of places that features depend on.

Source: google/topdown-btg-preordering, read in code: 6 features of the tree and 24 templates for each column of words.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from longspan.systems.xl_pe.alignment import Words

PARENTS = 5
"""What a span may be: 0 the whole; else 1 + 2 x the parent's direction + (0 its left half, 1 its right half)."""
_PARENT_TYPE = (0, 1, 1, 2, 2)
_LONGEST = 5
"""Lengths of halves are told apart up to here."""
_TEMPLATES = (
    *("b-1", "b", "p-1", "p", "e-1", "e"),
    *("b-1 b", "b p-1", "b p", "b e-1", "p-1 p", "p-1 e-1", "p e-1", "e-1 e"),
    *("p-2 p-1 p", "b p-1 p", "p-1 p e-1", "p-1 p p+1", "b p-1 p e-1"),
    *("parent b", "parent p-1", "parent p", "parent e-1", "parent b e-1"),
)
"""Words seen together, by their places; with `parent`, beside the kind of span that is split."""
_AXES = ("parent", "b", "p", "e")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def columns(words: Words) -> tuple[Words, ...]:
    """What is seen of each word, without a tagger: itself, its last two characters, the last one, its script."""
    return words, tuple(word[-2:] for word in words), tuple(word[-1] for word in words), tuple(map(_script, words))


@lru_cache(maxsize=1 << 16)
def _script(word: str) -> str:
    """The scripts and kinds of character of a word, in order: HIRAGANA, CJK, LATIN, digit, punctuation, ..."""
    found = [_kind(character) for character in word]
    return "+".join(kind for place, kind in enumerate(found) if place == 0 or kind != found[place - 1])


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    return unicodedata.name(character, "?").split(" ")[0] if category[0] == "L" else category[0]


@lru_cache(maxsize=1 << 18)
def _fingerprint(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mixed(*parts: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """One fingerprint of several, in their order; broadcasts."""
    mixed = np.zeros(1, dtype=np.uint64)
    for part in parts:
        mixed = (mixed ^ part) * _MIX
        mixed = mixed ^ (mixed >> _SHIFT)
    return mixed


class Triples(NamedTuple):
    """All actions of a sentence but for their directions: b < p < e, each [M]."""

    b: Int64[np.ndarray, " M"]
    p: Int64[np.ndarray, " M"]
    e: Int64[np.ndarray, " M"]


@lru_cache(maxsize=64)
def triples(length: int) -> Triples:
    """The n (n^2 - 1) / 6 triples of a sentence of n words."""
    b, p, e = np.ogrid[: length + 1, : length + 1, : length + 1]
    return Triples(*np.nonzero((b < p) & (p < e)))


def triple_numbers(length: int, b: np.ndarray, p: np.ndarray, e: np.ndarray) -> Int64[np.ndarray, " m"]:
    """Where the triples (b, p, e) stand among those of a sentence."""
    size = length + 1
    every = triples(length)
    return np.searchsorted((every.b * size + every.p) * size + every.e, (b * size + p) * size + e)


Tables = dict[tuple[str, ...], np.ndarray]
"""By the axes that features depend on: numbers or fingerprints [features, *sizes of the axes].

The axes: `parent` of size 5; `b`, `p` and `e` of size n + 1; `left` and `right`, the lengths of the halves, likewise.
`("b", "p", "e")` has one axis instead, the triples.
"""


def fingerprints(sentence: Sequence[Words]) -> Tables:
    """Fingerprints of all features of a sentence, whose words are given in columns of equal length."""
    length = len(sentence[0])
    grouped: dict[tuple[str, ...], list[np.ndarray]] = {}
    for number, (axes, values) in enumerate([*_tree_features(length), *_word_features(sentence)]):
        mixed = _mixed(np.full(1, number, dtype=np.uint64), *values)
        grouped.setdefault(axes, []).append(np.broadcast_to(mixed, _shape(axes, length)))
    return {axes: np.stack(found) for axes, found in grouped.items()}


def _shape(axes: tuple[str, ...], length: int) -> tuple[int, ...]:
    if axes == ("b", "p", "e"):
        return (len(triples(length).b),)
    return tuple(PARENTS if axis == "parent" else length + 1 for axis in axes)


Feature = tuple[tuple[str, ...], list[UInt64[np.ndarray, "..."]]]
"""The axes that a feature depends on, and its parts, which broadcast to them."""


def _tree_features(length: int) -> list[Feature]:
    places = np.arange(length + 1, dtype=np.int64)
    left, right = places[:, None], places[None, :]
    kinds = np.arange(PARENTS)
    found: list[tuple[tuple[str, ...], list[np.ndarray]]] = [
        (("parent",), []),
        (("left", "right"), [np.sign(right - left)]),
        (("b", "e"), [right - left]),
        (("left", "right"), [np.minimum(left, _LONGEST), np.minimum(right, _LONGEST)]),
        (("parent",), [np.array(_PARENT_TYPE)]),
        (("parent",), [kinds]),
    ]
    return [(axes, [part.astype(np.uint64) for part in parts]) for axes, parts in found]


def _word_features(sentence: Sequence[Words]) -> list[Feature]:
    length = len(sentence[0])
    where, kinds = triples(length), np.arange(PARENTS, dtype=np.uint64)
    found: list[Feature] = []
    for column in sentence:
        inner = [_fingerprint(word) for word in column]
        padded = np.array([0, 0, *inner, 1, 1], dtype=np.uint64)  # two places outside at either end
        for template in _TEMPLATES:
            terms = [(term, 0) if term == "parent" else (term[0], int(term[1:] or 0)) for term in template.split(" ")]
            axes = tuple(axis for axis in _AXES if axis in dict(terms))
            parts = []
            for axis, offset in terms:
                values = kinds if axis == "parent" else padded[2 + offset : 3 + offset + length]
                if axes == ("b", "p", "e"):
                    parts.append(values[getattr(where, axis)])
                else:
                    parts.append(_along(values, axes.index(axis), len(axes)))
            found.append((axes, parts))
    return found


def _along(values: np.ndarray, axis: int, count: int) -> np.ndarray:
    """`values` as the axis number `axis` of an array of `count` axes."""
    return values.reshape([-1 if place == axis else 1 for place in range(count)])


class FeatureSpace:
    """The features that have a weight, each with a number; all others have the last number, whose weight is 0."""

    def __init__(self, keys: UInt64[np.ndarray, " K"]) -> None:
        self.keys = keys

    @classmethod
    def of(cls, sentences: Iterable[Tables]) -> FeatureSpace:
        """All features that occur; those of a single sentence as well, without which learning goes astray."""
        found = np.sort(np.concatenate([table.ravel() for tables in sentences for table in tables.values()]))
        return cls(found[np.diff(found, prepend=~found[:1]) != 0])  # np.unique is many times slower at this size

    def __len__(self) -> int:
        return len(self.keys) + 1

    def numbers(self, tables: Tables) -> Tables:
        """The numbers of the features in tables of fingerprints."""
        return {axes: self._number(table) for axes, table in tables.items()}

    def _number(self, table: np.ndarray) -> np.ndarray:
        if not len(self.keys):
            return np.zeros(table.shape, dtype=np.int32)
        place = np.searchsorted(self.keys, table).astype(np.int32)
        known = self.keys[np.minimum(place, len(self.keys) - 1)] == table
        return np.where(known, place, np.int32(len(self.keys)))
