"""What all arms of a study share: the tokens they train on and the held-out text they are measured on."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longspan.data.passkey import LARGEST_KEY, PasskeyTemplate
from longspan.data.tokens import TokenFile, open_tokens, prepare_tokens
from longspan.errors import DataError, LengthError
from longspan.evaluate.windows import Protocol, make_protocol
from longspan.files import write_json
from longspan.study.config import StudyConfig
from longspan.train.prepare import prepare
from longspan.train.run import has_begun

DATA_FILE = "data.json"


def data_folder(out: Path) -> Path:
    """Where the tokenizer and the training tokens of the study in `out` are."""
    return out / "data" / "train"


def tokens_per_epoch(out: Path) -> int:
    """Tokens in which the study in `out` reads each conversation once; `prepare_inputs` has counted them."""
    return int(json.loads((out / DATA_FILE).read_text(encoding="utf-8"))["train"]["tokens_per_epoch"])


def open_held_out(out: Path) -> TokenFile:
    """The held-out text of the study in `out`, once `prepare_inputs` has made it."""
    return open_tokens(_held_out_folder(out))


def prepare_inputs(study: StudyConfig, out: Path, *, progress: bool = True) -> None:
    """Make the tokenizer and both token files, unless they are there, and check that the text suffices.

    Counts and hashes go to `data.json`.

    Raises:
        DataError: text is missing, empty or unreadable, too few held-out documents are long enough, or runs were
            trained on another text or with another tokenizer.
        LengthError: a passkey prompt is longer than the shortest length at which it is measured.
    """
    first = next(iter(study.arms))
    prepared = prepare(study.run_config(first), data_folder(out), progress=progress)
    _check_unchanged(prepared.summary, out)
    evaluate = study.evaluate
    held_out = prepare_tokens(
        evaluate.text,
        prepared.tokenizer,
        _held_out_folder(out),
        field=evaluate.field,
        part=evaluate.part,
        progress=progress,
    )
    if evaluate.perplexity is not None:
        perplexity_documents(study, held_out)
    if evaluate.position is not None:
        position_documents(study, held_out)
    if evaluate.passkey is not None:
        _check_passkey(PasskeyTemplate(prepared.tokenizer), study.lengths_by_task()["passkey"][0])
    held_out_summary = {**held_out.info, "documents": len(held_out.names)}
    write_json(out / DATA_FILE, {"train": prepared.summary, "held_out": held_out_summary})


def _check_unchanged(summary: dict[str, Any], out: Path) -> None:
    """Runs that are there were trained on these tokens. Held-out text may change: it is measured anew."""
    path = out / DATA_FILE
    if not path.exists() or not any(has_begun(run) for run in (out / "runs").glob("*")):
        return
    try:
        old = json.loads(path.read_text(encoding="utf-8"))["train"]
        names = {"text_sha256": "training text", "tokenizer_sha256": "tokenizer", "tokens_sha256": "tokens"}
        changed = next((name for key, name in names.items() if old[key] != summary[key]), None)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: choose another place or remove {out}") from error
    if changed is not None:
        raise DataError(
            f"the {changed} ({summary['source']}) has changed since the study in {out} began: restore it or choose"
            " another place"
        )


def _check_passkey(template: PasskeyTemplate, length: int) -> None:
    shortest = template.shortest(template.head, LARGEST_KEY)
    if length < shortest:
        raise LengthError(
            f"a passkey prompt takes at least {shortest} tokens with this tokenizer, more than the length {length}:"
            " take longer lengths or set evaluate.passkey to null"
        )


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
