"""Word alignments by eflomal where none are given (package `eflomal`, extra `align`)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from longspan.errors import ConfigError
from longspan.systems.xl_pe.alignment import Alignment, Words, read_alignments

_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


def align(pairs: Sequence[tuple[Words, Words]]) -> list[Alignment]:
    """Links that eflomal finds in both directions, and those of one direction beside them (grow-diag).

    eflomal samples without a seed: two calls differ a little.

    Raises:
        ConfigError: eflomal is not installed.
    """
    try:
        from eflomal import Aligner
    except ImportError as error:
        raise ConfigError(
            "aligning needs eflomal, which is not installed: pip install 'longspan[align]', or give alignments"
        ) from error
    with tempfile.TemporaryDirectory() as name:
        forward, reverse = Path(name, "forward"), Path(name, "reverse")
        sides = [[" ".join(pair[side]) for pair in pairs] for side in (0, 1)]
        Aligner().align(*sides, links_filename_fwd=str(forward), links_filename_rev=str(reverse))
        found = [read_alignments(path, pairs) for path in (forward, reverse)]
    return [grow_diagonal(first, second) for first, second in zip(*found, strict=True)]


def grow_diagonal(forward: Alignment, reverse: Alignment) -> Alignment:
    """Links of both directions, and then again and again those of one that touch a link and serve a word without one.

    Source: Koehn, Och, Marcu 2003, grow-diag; links are visited by source word, then target word.
    """
    links = set(forward.links & reverse.links)
    union = forward.links | reverse.links
    grown = True
    while grown:
        grown = False
        for source, target in sorted(links):
            for down, right in _NEIGHBOURS:
                link = (source + down, target + right)
                serves = all(link[0] != other for other, _ in links) or all(link[1] != other for _, other in links)
                if link in union and link not in links and serves:
                    links.add(link)
                    grown = True
    return Alignment(forward.source_length, forward.target_length, frozenset(links))
