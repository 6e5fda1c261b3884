"""What all arms of a study share: the tokens they train on and the held-out text they are measured on."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor

from longspan.data.tokens import TokenFile, open_tokens, prepare_tokens
from longspan.errors import DataError
from longspan.evaluate.windows import Protocol, make_protocol
from longspan.files import write_json
from longspan.study.config import StudyConfig
from longspan.train.prepare import prepare


def data_folder(out: Path) -> Path:
    """Where the tokenizer and the training tokens of the study in `out` are."""
    return out / "data" / "train"


def open_held_out(out: Path) -> TokenFile:
    """The held-out text of the study in `out`, once `prepare_inputs` has made it."""
    return open_tokens(_held_out_folder(out))


def prepare_inputs(study: StudyConfig, out: Path, *, progress: bool = True) -> None:
    """Make the tokenizer and both token files, unless they are there, and check that the text suffices.

    Counts and hashes go to `data.json`.

    Raises:
        DataError: text is missing, empty or unreadable, or too few held-out documents are long enough.
    """
    first = next(iter(study.arms))
    prepared = prepare(study.run_config(first), data_folder(out), progress=progress)
    evaluate = study.evaluate
    held_out = prepare_tokens(
        evaluate.text,
        prepared.tokenizer,
        _held_out_folder(out),
        field=evaluate.field,
        part=evaluate.part,
        progress=progress,
    )
    held_out_summary = {**held_out.info, "documents": len(held_out.names)}
    write_json(out / "data.json", {"train": prepared.summary, "held_out": held_out_summary})
    if evaluate.perplexity is not None:
        perplexity_documents(study, held_out)
    if evaluate.position is not None:
        position_documents(study, held_out)


def perplexity_protocol(study: StudyConfig) -> Protocol:
    """Which tokens are scored, the same ones at every length."""
    settings = study.evaluate.perplexity
    assert settings is not None
    return make_protocol(study.lengths, settings.stride, settings.variant, study.lengths[-1], settings.max_targets)


def perplexity_documents(study: StudyConfig, text: TokenFile) -> list[Tensor]:
    """The documents that perplexity is measured on, LongTensor [tokens] each."""
    assert study.evaluate.perplexity is not None
    protocol = perplexity_protocol(study)
    shortest = protocol.shortest_document
    if study.evaluate.perplexity.max_targets is not None:  # every document shall give as many targets
        shortest = max(shortest, protocol.first_target + study.evaluate.perplexity.max_targets)
    return _first_long(study, text, shortest, study.evaluate.perplexity.documents)


def position_documents(study: StudyConfig, text: TokenFile) -> list[Tensor]:
    """The documents that the loss by position is measured on, LongTensor [tokens] each."""
    assert study.evaluate.position is not None
    (length,) = study.lengths_by_task()["position"]
    return _first_long(study, text, length, study.evaluate.position.documents)


def _held_out_folder(out: Path) -> Path:
    return out / "data" / "held-out"


def _first_long(study: StudyConfig, text: TokenFile, shortest: int, count: int) -> list[Tensor]:
    """The first `count` documents of at least `shortest` tokens."""
    documents = (text.document(number) for number in range(len(text.names)))
    long = (document for document in documents if len(document) >= shortest)
    found = [torch.from_numpy(document.astype("int64")) for document in itertools.islice(long, count)]
    if len(found) < count:
        raise DataError(
            f"{study.evaluate.text} has {len(found)} documents of {shortest} tokens or more, not {count}: "
            "give longer documents, or ask for fewer documents or shorter lengths"
        )
    return found
