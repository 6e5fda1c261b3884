"""Tasks whose prompts stand in files of the user: questions, how they are fitted to a length, and their measuring."""

from __future__ import annotations

import functools
import itertools
import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from longspan.errors import ConfigError, LengthError
from longspan.evaluate.external.reading import Parts
from longspan.evaluate.task import Bench, Outcome, Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame
    from longspan.records import Record

_log = logging.getLogger(__name__)

OVERLONG = ("leave-out", "cut")
_LEAST = 8
"""Tokens of a prompt that is left when its middle is cut out, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt of an external set and its right answers."""

    prompt: str
    references: tuple[str, ...]
    """Right answers; the best score by one of them counts, and the loss is that of the first."""
    classes: tuple[str, ...] = ()
    """Names that an answer may be, for classification."""
    evidence: int | None = None
    """Character of the prompt from which on the answer needs it."""
    chat: bool = True
    """Whether a chat model is asked in a turn of its own; not for examples that are to be gone on with."""
    row: int = 0
    """Which row it comes from, where several questions are one: the endings of a multiple choice."""
    endings: int = 1
    """How many questions that row makes."""
    right: bool = True
    """Whether this ending is the right one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSample(Sample):
    """A question as the model is asked it."""

    question: Question


@dataclass(frozen=True, slots=True)
class Fitted:
    """Samples of one file at one length."""

    samples: list[FileSample]
    cut: int
    """Samples whose prompt lost its middle."""
    left_out: int
    """Questions that were longer than the length."""


class FileTask(SampleTask):
    """A task that reads its prompts from a file of `--data`; a length is the most that prompt and answer may have.

    At each length a sample that is longer is left out, or its prompt cut in the middle, and the records say how many.
    Where a set comes in files of several sizes, the greatest whose prompts all fit is read.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"data", "overlong", "max_samples", "chat", "keep_samples"})
    needs_data: ClassVar[bool] = True
    has_depth: ClassVar[bool] = False
    overlong: ClassVar[str] = "leave-out"
    """What happens to samples that are longer than the length, unless `--overlong` says."""

    @property
    def score_name(self) -> str:
        """Metric of the records."""
        return self.metric

    @property
    def answer_tokens(self) -> int:
        """Tokens that an answer may have."""
        return 32

    @abstractmethod
    def files(self, folder: str | None) -> list[Path]:
        """The files to choose from, that of the shortest prompts first.

        Raises:
            ConfigError, DataError: there is none.
        """

    @abstractmethod
    def questions(self, path: Path, most: int | None, depth: float | None) -> Parts:
        """The questions of a file, or the first `most` of its rows; `depth` is where their evidence shall stand.

        Raises:
            DataError: none can be used.
        """

    @abstractmethod
    def score_by(self, answer: str, question: Question) -> float:
        """0 to 1, for a whole answer."""

    def judged(self, found: Sequence[Outcome]) -> list[Outcome]:
        """What counts as a sample, made of what the model made of each question."""
        return list(found)

    def sample(self, frame: Frame, place: Place) -> Sample:
        raise NotImplementedError("prompts of a file come by length, see `fit`")

    def score(self, answer: str, sample: Sample) -> float:
        assert isinstance(sample, FileSample)
        return self.score_by(answer, sample.question)

    def new_tokens(self, sample: Sample) -> int:
        return self.answer_tokens

    def fit(self, frame: Frame, questions: Sequence[Question], length: int, overlong: str) -> Fitted:
        """The questions as samples of at most `length` tokens, the room for the answer included."""
        samples, cut = [], 0
        for question in questions:
            prompt, answer, evidence = _encoded(frame, question)
            room = length - max(len(answer), self.answer_tokens)
            if len(prompt) > room:
                if overlong == "leave-out" or room < _LEAST:
                    continue
                # both ends may hold the instruction, so the middle goes, as in LongBench
                prompt = [*prompt[: room - room // 2], *prompt[-(room // 2) :]]
                cut, evidence = cut + 1, None
            samples.append(
                FileSample(
                    prompt_ids=prompt,
                    answer_ids=answer,
                    references=question.references,
                    distance=None if evidence is None else len(prompt) - evidence,
                    question=question,
                )
            )
        return Fitted(samples, cut, len(questions) - len(samples))

    def settings(self, bench: Bench, name: str) -> dict[str, Any]:
        from longspan.files import file_hash

        read: dict[str, Any] = {
            f"{name} overlong": _overlong(self, bench),
            "chat": bench.chat,
            f"{name} max_samples": bench.options.get("max_samples"),
        }
        for length in bench.lengths:
            parts, _ = choose(self, bench, name, length, None)
            read[f"{name} at {length}"] = f"{parts.path.name} {file_hash(parts.path)[:12]}"
            read[f"malformed rows of {parts.path.name}"] = parts.malformed
        return read

    def measure(self, bench: Bench, name: str) -> list[Record]:
        return measure_files(self, bench, name)


def _encoded(frame: Frame, question: Question) -> tuple[list[int], list[int], int | None]:
    """Tokens of the prompt and of the first right answer, and the token from which on the prompt is needed."""
    from longspan.data.pieces import common_prefix
    from longspan.data.talk import plain_talk
    from longspan.data.tokenizer import encode

    talk = frame.talk if question.chat else plain_talk(frame.tokenizer)
    # a template's opening is text, which may melt into the prompt; a plain one is a token of its own
    opening = [] if talk.opening else list(talk.opening_ids)
    text = talk.opening + question.prompt + (talk.between if talk.opening else "")
    blank = "" if text[-1:].isspace() else " "
    prompt = encode(frame.tokenizer, text)
    whole = encode(frame.tokenizer, f"{text}{blank}{question.references[0].strip()}")
    shared = common_prefix(prompt, whole)
    evidence = None
    if question.evidence is not None:
        before = talk.opening + question.prompt[: question.evidence]
        evidence = len(opening) + len(encode(frame.tokenizer, before))
    return opening + whole[:shared], whole[shared:], evidence


def _overlong(task: FileTask, bench: Bench) -> str:
    chosen = (bench.options.get("overlong") if "overlong" in task.reads else None) or task.overlong
    if chosen not in OVERLONG:
        raise ConfigError(f"unknown way with overlong samples '{chosen}': use {' or '.join(OVERLONG)}")
    return str(chosen)


def choose(task: FileTask, bench: Bench, name: str, length: int, depth: float | None) -> tuple[Parts, Fitted]:
    """The file for a length and its samples: the greatest of several whose prompts all fit, or else the first.

    Raises:
        ConfigError, DataError: the files cannot be used.
        LengthError: nothing fits the length.
    """
    from longspan.evaluate.runner import frame_of

    frame, overlong = frame_of(bench, name), _overlong(task, bench)
    found: tuple[Parts, Fitted] | None = None
    for path in task.files(bench.options.get("data")):
        parts = task.questions(path, bench.options.get("max_samples"), depth)
        fitted = task.fit(frame, parts.parsed, length, overlong)
        if found is not None and fitted.cut + fitted.left_out:
            break
        found = parts, fitted
    assert found is not None, "a task finds a file, or says why not"
    parts, fitted = found
    if not fitted.samples:
        raise LengthError(
            f"no sample of {parts.path.name} fits {length} tokens with the {task.answer_tokens} of an answer: choose "
            "greater lengths" + (", or --overlong cut" if overlong == "leave-out" else "")
        )
    if fitted.cut or fitted.left_out:
        said = f"{fitted.cut} cut in the middle" if fitted.cut else f"{fitted.left_out} left out"
        _log.warning("%s at %d: of %d samples, those that are longer: %s", name, length, len(parts.parsed), said)
    return found


def measure_files(task: FileTask, bench: Bench, name: str) -> list[Record]:
    """Score and answer NLL by length, and how many samples were cut or left out.

    Returns:
        Task `name`, for each length (and depth, where a task has it): `task.score_name` with a Wilson interval, `nll`
        of the first right answer in nats a token, `cut` and `left_out` as counts, n = samples (of `left_out`: all).
    """
    from longspan.evaluate.journal import Journal
    from longspan.evaluate.runner import cell_records, depth_grid

    journal = Journal(bench.model, name, **{"seed": bench.seed, **bench.columns})
    depths: list[float | None] = [*depth_grid(bench.depths)] if task.has_depth else [None]
    metrics = (task.score_name, "nll", "cut", "left_out")

    def measure(length: int, depth: float | None) -> list[Record]:
        _, fitted = choose(task, bench, name, length, depth)
        found = task.judged(_outcomes(task, bench, fitted, length, depth))
        if bench.on_outcomes is not None:
            bench.on_outcomes(name, found)
        counts = {"length": length, "depth": depth}
        return [
            *cell_records(journal, task.score_name, found),
            journal.record("cut", fitted.cut, n=len(found), **counts),
            journal.record("left_out", fitted.left_out, n=len(found) + fitted.left_out, **counts),
        ]

    for length, depth in itertools.product(bench.lengths, depths):
        journal.cell(metrics, length, depth, functools.partial(measure, length, depth))
    return journal.records


def _outcomes(task: FileTask, bench: Bench, fitted: Fitted, length: int, depth: float | None) -> list[Outcome]:
    """What the model makes of the samples; those of one length share a forward."""
    from longspan.evaluate.answering import answer_all

    order = sorted(range(len(fitted.samples)), key=lambda number: fitted.samples[number].length)
    found: dict[int, Outcome] = {}
    for _, group in itertools.groupby(order, key=lambda number: fitted.samples[number].length):
        alike = list(group)
        answers = answer_all(
            bench.model,
            bench.tokenizer,
            task,
            [fitted.samples[number] for number in alike],
            batch_size=bench.batch_size,
        )
        for number, answer in zip(alike, answers, strict=True):
            found[number] = Outcome(
                place=Place(bench.seed, length, depth, number),
                sample=fitted.samples[number],
                score=answer.score,
                nll=answer.nll,
                answer=answer.text,
            )
    return [found[number] for number in range(len(fitted.samples))]
