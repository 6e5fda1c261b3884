"""`Sample.distance` is where the text of the prompt itself first shows what the answer needs.

The place is searched in the decoded prompt, by the words that a reader would look for, and not by the tasks' own books.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from longspan.data.tokenizer import train_tokenizer
from longspan.evaluate.frame import Frame
from longspan.evaluate.task import Place, Sample, SampleTask
from longspan.evaluate.tasks import all_tasks
from longspan.evaluate.words import paragraph

LENGTH = 1900
Find = Callable[[str, Sample], int]
"""Where in a prompt's text the first thing begins that its answer needs."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    prose = [paragraph(np.random.default_rng(number)) for number in range(200)]
    return train_tokenizer(prose, 600, tmp_path_factory.mktemp("tokenizer") / "bpe")


def needle(text: str, sample: Sample) -> int:
    """The first line that gives one of the codes asked for."""
    return min(re.search(rf"The access code of \S+ is {code}\.", text).start() for code in sample.references)


def variables(text: str, sample: Sample) -> int:
    """The line that sets the first variable of the chain to a number."""
    return re.search(rf"VAR {sample.references[0]} = \d+\.", text).start()


def note(text: str, sample: Sample) -> int:
    """The note with the town, or that of the pupil who is asked about, whichever comes first."""
    (person,) = re.search(r"In which town was (?:the teacher of )?(\w+ \w+) born\?", text).groups()
    asked = text.index(f"{person} was born in")
    return min(asked, text.index(f" was born in {sample.references[0]} and"), key=lambda at: start_of_line(text, at))


def start_of_line(text: str, at: int) -> int:
    return text.rindex("\n", 0, at) + 1


def line(find: Find) -> Find:
    return lambda text, sample: start_of_line(text, find(text, sample))


def listed(text: str, sample: Sample) -> int:
    """The whole list has to be counted."""
    return text.index("\n1. ")


def coined(text: str, sample: Sample) -> int:
    """The whole text has to be counted: from the first of its words of three coined syllables on."""
    return re.search(r"\n *(?:[bdfgklmnprstvz][aeiou]){3} (?:[bdfgklmnprstvz][aeiou]){3} ", text).start()


FINDERS: dict[str, Find] = {
    "passkey": lambda text, sample: text.index(f"The pass key is {sample.references[0]}."),
    "needle": needle,
    "vt": variables,
    "qa": line(note),
    "cwe": listed,
    "fwe": coined,
}
SEARCHED = {
    name: FINDERS["needle" if name.startswith("niah") else name.partition("_")[0]]
    for name, task in all_tasks().items()
    if isinstance(task, SampleTask) and not task.needs_data and name not in ("copying", "induction")
}


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_the_text_before_the_distance_ends_where_the_evidence_begins(
    tokenizer: PreTrainedTokenizerFast, name: str, depth: float
) -> None:
    task = all_tasks()[name]
    sample = task.sample(Frame(tokenizer, name), Place(1, LENGTH, depth if task.has_depth else None, round(10 * depth)))
    text = tokenizer.decode(sample.prompt_ids)
    before = tokenizer.decode(sample.prompt_ids[: -sample.distance])
    assert text.startswith(before)
    # a piece begins with the newline before it, which is part of its first token or a token of its own
    found = SEARCHED[name](text, sample)
    assert text[len(before) : found].strip("\n ") == ""
    assert len(before) <= found <= len(before) + 2


@pytest.mark.parametrize("name", ["copying", "induction"])
@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_what_is_shown_again_stood_once_before_at_the_distance(
    tokenizer: PreTrainedTokenizerFast, name: str, depth: float
) -> None:
    sample = all_tasks()[name].sample(Frame(tokenizer, name), Place(1, 300, depth, 0))
    prompt, shown = sample.prompt_ids, {"copying": 8, "induction": 1}[name]
    ending = prompt[-shown:]
    places = [at for at in range(len(prompt)) if prompt[at : at + shown] == ending]
    assert places == [len(prompt) - sample.distance, len(prompt) - shown]
    first = places[0] + shown
    assert prompt[first : first + len(sample.answer_ids)] == sample.answer_ids
