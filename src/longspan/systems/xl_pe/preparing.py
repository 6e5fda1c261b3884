"""What all arms of a study share, made once: alignments, the reorderer, orders of all sentences, sub-words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from longspan.data.tokenizer import train_tokenizer
from longspan.errors import ConfigError, DataError
from longspan.files import alone_in, file_hash, write_json, write_text
from longspan.models.config_file import read_json
from longspan.systems.xl_pe.aligner import align
from longspan.systems.xl_pe.alignment import (
    Alignment,
    Words,
    format_alignments,
    read_alignments,
    read_lines,
    read_pairs,
)
from longspan.systems.xl_pe.config import StudySettings
from longspan.systems.xl_pe.corpus import Pair, read_split
from longspan.systems.xl_pe.parser import Reorderer, train_reorderer
from longspan.systems.xl_pe.ranks import span_ranks
from longspan.systems.xl_pe.saved import load_reorderer, save_reorderer
from longspan.systems.xl_pe.validation import learnable, make_examples
from longspan.train.config import changed_keys

SPLITS = ("train", "dev", "test")
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Where a study keeps what."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """All settings, defaults filled in."""
        return self.root / "study.yaml"

    @property
    def reorderer(self) -> Path:
        """The trained reorderer."""
        return self.root / "reorderer.safetensors"

    @property
    def tokenizer(self) -> Path:
        """The sub-words of both languages."""
        return self.root / "tokenizer"

    @property
    def records(self) -> Path:
        """All numbers."""
        return self.root / "records.jsonl"

    def alignments(self, split: str) -> Path:
        """Word alignments that were made, in Pharaoh's format."""
        return self.root / "alignments" / f"{split}.txt"

    def orders(self, split: str, source: str) -> Path:
        """Source words in target order, a sentence a line, by the `parser` or as an `oracle`."""
        return self.root / "orders" / f"{split}.{source}.txt"

    def run(self, arm: str, seed: int) -> Path:
        """A trained arm."""
        return self.root / "runs" / f"{arm}-{seed}"

    def work(self, arm: str, seed: int) -> Path:
        """An arm in training: its settings and saved states."""
        return self.root / "work" / f"{arm}-{seed}"

    def settings(self) -> StudySettings:
        """The settings of the study.

        Raises:
            ConfigError: the folder holds none.
        """
        if not self.settings_file.is_file():
            raise ConfigError(f"{self.root} holds no prepared study: run `longspan xlpe prepare` first")
        return StudySettings.from_yaml(self.settings_file)


def prepare(settings: StudySettings, root: Path, *, progress: bool = True, say: Say = lambda text: None) -> StudyFolder:
    """Fill the folder `root`; what is there already is kept, so that a second call goes on.

    Raises:
        DataError: sentences or alignments that cannot be used.
        ConfigError: the folder holds a study of other data or settings, or eflomal is needed and not installed.
    """
    folder = StudyFolder(Path(root))
    pairs = {split: read_split(getattr(settings, split)) for split in SPLITS}
    with alone_in(folder.root):
        _claim(folder, settings)
        alignments = _alignments(folder, settings, pairs, say) if settings.needs_alignments() else {}
        if not folder.reorderer.exists():
            save_reorderer(_reorderer(settings, pairs, alignments, say), folder.reorderer)
        if not folder.tokenizer.exists():
            texts = (f" {' '.join(words)}" for pair in pairs["train"] for words in pair)
            train_tokenizer(texts, settings.translator.vocab_size, folder.tokenizer)
        reorderer = load_reorderer(folder.reorderer)
        for split in SPLITS:
            _write_orders(folder, split, pairs[split], alignments.get(split), reorderer, progress)
    return folder


def _claim(folder: StudyFolder, settings: StudySettings) -> None:
    """Write down what the folder is for; another set of arms or seeds may join, other data or sizes may not.

    Raises:
        ConfigError: others than before; names the settings.
    """
    files = [getattr(settings, split) for split in SPLITS]
    paths = [path for files_of in files for path in (files_of.source, files_of.target, files_of.alignments)]
    paths += [] if settings.gold is None else [settings.gold.pairs, settings.gold.alignments]
    hashes = {str(path): file_hash(path) for path in paths if path is not None}
    fixed = settings.model_dump(mode="json", exclude={"arms", "seeds", "baseline", "device"})
    for free in ("log_every", "save_every"):
        del fixed["training"][free]
    claim = folder.root / "data.json"
    if claim.exists():
        before = read_json(claim)
        changed = changed_keys(before["settings"], fixed)
        changed += [path for path in hashes if before["files"].get(path, hashes[path]) != hashes[path]]
        if changed:
            raise ConfigError(
                f"{folder.root} was prepared from other data or settings ({', '.join(changed)}): take another folder"
            )
    write_json(claim, {"files": hashes, "settings": fixed})
    write_text(folder.settings_file, settings.to_yaml())


def _alignments(
    folder: StudyFolder, settings: StudySettings, pairs: dict[str, list[Pair]], say: Say
) -> dict[str, list[Alignment]]:
    """Alignments of all splits: those given, and those made of the splits without."""
    given = {split: getattr(settings, split).alignments for split in SPLITS}
    missing = [split for split in SPLITS if given[split] is None]
    if any(not folder.alignments(split).exists() for split in missing):
        every = [pair for split in missing for pair in pairs[split]]
        say(f"aligning {len(every)} pairs by eflomal")
        made = iter(align(every))
        for split in missing:
            write_text(folder.alignments(split), format_alignments(next(made) for _ in pairs[split]))
    paths = {split: given[split] or folder.alignments(split) for split in SPLITS}
    return {split: read_alignments(path, pairs[split]) for split, path in paths.items()}


def _reorderer(
    settings: StudySettings, pairs: dict[str, list[Pair]], alignments: dict[str, list[Alignment]], say: Say
) -> Reorderer:
    wanted = settings.reorderer
    if settings.gold is None:
        lessons, links = pairs["train"][: wanted.sentences], alignments["train"][: wanted.sentences]
    else:
        lessons = read_pairs(settings.gold.pairs)
        links = read_alignments(settings.gold.alignments, lessons, first_index=settings.gold.first_index)
        lessons, links = lessons[: wanted.sentences], links[: wanted.sentences]
    classes = learnable(links, wanted.longest)
    if not classes:
        raise DataError("no pair has an order that can be learned: check that the alignments belong to these sentences")
    say(f"the reorderer learns from {len(classes)} of {len(lessons)} pairs, whose order BTG can make")
    space, examples = make_examples([source for source, _ in lessons], classes)

    def report(iteration: int, errors: int) -> None:
        say(f"reorderer: iteration {iteration}, {errors} of {len(examples)} sentences in another order")

    reorderer, _ = train_reorderer(
        space, list(examples.values()), iterations=wanted.iterations, beam=wanted.beam, on_iteration=report
    )
    return reorderer


def oracle_order(alignment: Alignment) -> list[int]:
    """Source words in the order of the reference; words without a link go with the next that has one."""
    return np.argsort(span_ranks(alignment, unlinked="right"), kind="stable").tolist()


def _write_orders(
    folder: StudyFolder,
    split: str,
    pairs: Sequence[Pair],
    alignments: Sequence[Alignment] | None,
    reorderer: Reorderer,
    progress: bool,
) -> None:
    learned, oracle = folder.orders(split, "parser"), folder.orders(split, "oracle")
    if not learned.exists():
        bar = tqdm(pairs, desc=f"reorder {split}", unit="sentence", mininterval=1, disable=not progress)
        write_text(learned, _order_lines(reorderer.order(source) for source, _ in bar))
    if alignments is not None and not oracle.exists():
        write_text(oracle, _order_lines(oracle_order(alignment) for alignment in alignments))


def _order_lines(orders: Iterable[Sequence[int]]) -> str:
    return "".join(" ".join(map(str, order)) + "\n" for order in orders)


def read_orders(path: Path, sentences: Sequence[Words]) -> list[list[int]]:
    """Orders of `sentences` that `prepare` has written.

    Raises:
        DataError: the file is missing or does not fit.
    """
    orders = [[int(word) for word in line.split()] for line in read_lines(path)]
    if [sorted(order) for order in orders] != [list(range(len(words))) for words in sentences]:
        raise DataError(f"{path} does not fit the sentences: remove it and prepare the study again")
    return orders
