"""Ask a model every question."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from longspan.doctor import cache, effect, formula, masks, numerics, settings, storage
from longspan.doctor.finding import DoesNotApply
from longspan.doctor.probe import Probe
from longspan.doctor.registry import CHECKS, Question
from longspan.doctor.report import Check, Report
from longspan.errors import ConfigError, FamilyError
from longspan.surgery.families import PREFIX

ROOMS = (settings, formula, effect, masks, cache, numerics, storage)
"""Files of checks, in the order in which they are asked; importing them fills `CHECKS`."""


def questions() -> list[Question]:
    """All checks, file by file."""
    files = [room.__name__.rpartition(".")[2] for room in ROOMS]
    return sorted(CHECKS.values(), key=lambda question: files.index(question.subject))


def doctor(
    model: PreTrainedModel,
    *,
    against: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> Report:
    """Prove that the extension of a model took effect and broke nothing.

    It needs no data: the tokens are random, drawn from `seed`. Beside the model itself it takes the activations of
    two rows of 24 tokens (where groups choose what they see, of one row that reaches behind what is dense), and its
    first two layers with the embeddings on disk, in a temporary folder. The model is as before afterwards.

    Args:
        model: a causal language model, extended by longspan or by transformers' own rope types, or plain.
        against: the plain model that it was made from; its settings are compared. The logits are compared with the
            plain form of `model` itself, which shares its weights.
        tokenizer: the tokenizer whose length limit a server would read.

    Raises:
        ConfigError: `model` or `against` is not a model or has an adapter (of peft), `model` is on the meta device, or
            `against` is of another family.
    """
    for given in (model, against):
        if given is not None and _is_adapted(given):
            raise ConfigError("the model has an adapter beside its weights: examine model.merge_and_unload() of peft")
        if given is not None and not isinstance(given, PreTrainedModel):
            raise ConfigError(f"the doctor examines models of transformers, not a {type(given).__name__}")
    if against is not None and _family(against) != _family(model):
        raise ConfigError(
            f"the model to compare with is a {_family(against)} and this one a {_family(model)}: "
            "give the plain model that it was made from"
        )
    if model.device.type == "meta":
        raise ConfigError("the model has no weights (it is on the meta device): load it first")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_at_rest(model))
        probe = Probe(model, against, tokenizer, seed, stack)
        checks = tuple(_ask(question, probe) for question in questions())
        probe.rest()
    return Report(_title(model), checks)


def _ask(question: Question, probe: Probe) -> Check:
    """The answer to one question. What an examined model raises is an answer too."""
    try:
        probe.rest()
        finding = question.ask(probe)
    except (DoesNotApply, FamilyError) as reason:
        return Check(name=question.name, passed=None, detail=str(reason))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return Check(name=question.name, passed=False, measured="error", detail=detail, advice=question.advice)
    return Check(
        name=question.name,
        passed=finding.passed,
        measured=finding.measured,
        threshold=finding.threshold,
        detail=finding.detail,
        advice=question.advice,
    )


def _family(model: PreTrainedModel) -> str:
    return model.config.model_type.removeprefix(PREFIX)


def _is_adapted(model: object) -> bool:
    """Whether peft has put layers of its own around those of a model, or itself around it."""
    return isinstance(model, nn.Module) and any(hasattr(part, "base_layer") for part in model.modules())


@contextlib.contextmanager
def _at_rest(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout or progress bars, and without touching the random state of the process."""
    training, bars = model.training, logging.is_progress_bar_enabled()
    with torch.random.fork_rng():
        model.eval()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            model.train(training)
            if bars:
                logging.enable_progress_bar()


def _title(model: PreTrainedModel) -> str:
    size = sum(parameter.numel() for parameter in model.parameters())
    return f"{type(model).__name__}, {size:,} parameters, {str(model.dtype).removeprefix('torch.')}"
