"""What a task is. Light: no torch, so that tasks can be listed at once.

Two kinds. A `SampleTask` makes prompts whose right answer is known; one runner measures all of them (`runner`). Any
other `Task` measures in its own way: on documents, say. A task is a frozen dataclass in a file of its own in
`longspan.evaluate.tasks`; its docstring is its card, its fields are its settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from longspan.evaluate.sample import Place as Place
from longspan.evaluate.sample import Sample as Sample
from longspan.processes import ALONE, Processes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longspan.evaluate.frame import Frame
    from longspan.evaluate.journal import OnScores
    from longspan.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a task measures on, and the settings of the call; each task reads those that concern it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    lengths: Sequence[int]
    documents: Sequence[Tensor] = ()
    """Token ids of the user's text, without BOS; empty if none was named."""
    haystack: Sequence[int] | None = None
    """Token ids of the text that needles are hidden in; None: each task's own."""
    chat: bool = False
    """Whether prompts go through the tokenizer's chat template."""
    trials: int = 10
    depths: int | Sequence[float] = 11
    seed: int = 0
    decoding: str = "auto"
    batch_size: int | None = None
    reuse: bool | None = None
    """Whether prompts that begin alike share the keys and values of that beginning; None: where that is faster."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of single tasks by name: stride, variant, max_targets, data, overlong, ..."""
    progress: bool = False
    processes: Processes = ALONE
    """Those that share the work: each holds the model, reads a part of the prompts or windows, and gets all numbers."""
    columns: dict[str, Any] = field(
        default_factory=lambda: (
            dict.fromkeys(("method", "model_name", "train_length", "on_records")) | {"run": "", "done": ()}
        )
    )
    """Columns of the records, and run, done, on_records: as in `longspan.evaluate.perplexity`."""
    on_scores: OnScores | None = None
    """Called with what each prompt or document of a cell scored, before its records are handed on."""
    on_outcomes: Callable[[str, Sequence[Outcome]], Any] | None = None
    """Called with a task's name and the outcomes of each cell measured now: keeps prompts and answers."""

    @property
    def vocab_size(self) -> int:
        """Entries of the model's embedding."""
        return int(self.model.get_input_embeddings().weight.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A sample and what the model made of it."""

    place: Place
    sample: Sample
    score: float
    """0 (wrong) to 1 (right)."""
    nll: float
    """Negative log-likelihood of the right answer, teacher forced, in nats per unit of the task."""
    answer: str
    """The greedy answer, as far as it was read."""


class Task(ABC):
    """Something that can be measured on a model."""

    needs_text: ClassVar[bool] = False
    """Whether it is measured on documents that the user names."""
    needs_data: ClassVar[bool] = False
    """Whether it reads files of an external set, in the folder that the user names."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Options of `longspan eval` that have an effect on it."""

    @abstractmethod
    def settings(self, bench: Bench, name: str) -> dict[str, Any]:
        """What decides the numbers and is no column of a record, each as it takes effect.

        Called before anything is measured.

        Raises:
            LongspanError: the settings cannot be used.
        """

    @abstractmethod
    def measure(self, bench: Bench, name: str) -> list[Record]:
        """The records of this task under the name `name`: those found in `done`, and those measured now."""


PROMPTS_READ = frozenset({"trials", "depths", "decoding", "chat", "keep_samples"})


class SampleTask(Task):
    """A task of prompts and answers; a file of it gives `sample`, and whatever differs from what stands here."""

    reads: ClassVar[frozenset[str]] = PROMPTS_READ
    metric: ClassVar[str] = "accuracy"
    """`accuracy` (each score is 0 or 1), `recall` (a share), or what else the scores are."""
    has_depth: ClassVar[bool] = True
    """Whether one place is asked for, which is measured on a grid. If not, a length has trials x depths samples."""

    by_token: ClassVar[bool] = False
    """Whether the greedy tokens must be those of the right answer; then no text is read, and nothing is generated."""

    reads_on: ClassVar[bool] = True
    """Whether what follows a right answer can make it wrong: another digit, say."""

    @abstractmethod
    def sample(self, frame: Frame, place: Place) -> Sample:
        """The prompt of that place, `place.length` tokens with its answer.

        Raises:
            LengthError: the length is too short for it.
        """

    @abstractmethod
    def score(self, answer: str, sample: Sample) -> float:
        """0 (wrong) to 1 (right), for a whole answer."""

    def settled(self, answer: str, sample: Sample) -> float | None:
        """The score of an answer that begins so, if no further token can change it; else None."""
        return None

    def nll_units(self, sample: Sample) -> int:
        """By what the loss of the answer is divided: its tokens."""
        return len(sample.answer_ids)

    def new_tokens(self, sample: Sample) -> int:
        """Tokens that an answer may have."""
        return 2 * len(sample.answer_ids) + 8

    def settings(self, bench: Bench, name: str) -> dict[str, Any]:
        from longspan.evaluate.runner import check_samples

        check_samples(self, bench, name)

        shown = [key for key in ("trials", "depths", "decoding", "chat") if key in self.reads]
        found: dict[str, Any] = {key: getattr(bench, key) for key in shown}
        if "haystack" in self.reads:
            tokens = bench.haystack
            found["haystack"] = "own" if tokens is None else value_hash([int(token) for token in tokens])
        return found

    def measure(self, bench: Bench, name: str) -> list[Record]:
        from longspan.evaluate.runner import measure_samples

        return measure_samples(self, bench, name)
