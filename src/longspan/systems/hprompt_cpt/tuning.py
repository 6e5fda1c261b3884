"""Fine-tuning a model of any stage on any domain: no domain is named, since prompts follow from the text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from longspan.data.positions import IGNORED
from longspan.systems.hprompt_cpt.config import FinetuneSettings
from longspan.systems.hprompt_cpt.domains import Domain, Samples
from longspan.systems.hprompt_cpt.learner import CONTEXT, Learner
from longspan.systems.hprompt_cpt.loop import optimizer_for, train_step
from longspan.systems.hprompt_cpt.losses import aligned
from longspan.systems.hprompt_cpt.prompted import pooled
from longspan.systems.hprompt_cpt.seeds import number, stream
from longspan.systems.hprompt_cpt.windows import Batch, Windows, stack

TEST_ROWS = 64
MOST_WINDOWS = 128
"""Held-out windows that the score of a domain without labels rests on."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a tuned model gets right."""

    right: int
    n: int
    macro_f1: float | None = None
    """Mean over classes of the harmonic mean of precision and recall; None without classes."""


class Classifier(nn.Module):
    """A prompted model with a linear head on the mean of its last states."""

    def __init__(self, learner: Learner, classes: int, seed: int) -> None:
        super().__init__()
        self.learner = learner
        width = learner.model.model.get_input_embeddings().weight.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "B C"]:
        """Logits of the classes."""
        batch = Batch(input_ids, mask, input_ids)
        return self.head(pooled(self.learner.states(batch), mask))


def tune_classifier(
    learner: Learner, domain: Domain, settings: FinetuneSettings, seed: int, device: torch.device
) -> Classifier:
    """`learner` with a head, tuned on the training samples of `domain`, in place."""
    assert domain.train is not None
    prepare(learner, settings)
    tuned = Classifier(learner, len(domain.classes), number(seed, "head", domain.name)).to(device)
    optimizer, scheduler = optimizer_for(tuned, settings.optimizer, settings.steps)
    tuned.train()
    batches = shuffled(domain.train, settings.rows, seed, domain.name)
    for step in range(settings.steps):
        torch.manual_seed(number(seed, "tune", step))
        ids, mask, labels = (tensor.to(device) for tensor in next(batches))
        train_step(
            optimizer, scheduler, {"loss": functional.cross_entropy(tuned(ids, mask), labels)}, settings.optimizer.clip
        )
    return tuned.eval()


def tune_language(
    learner: Learner, windows: Windows, settings: FinetuneSettings, seed: int, device: torch.device
) -> None:
    """`learner` tuned on the text of a domain without labels, in place."""
    prepare(learner, settings)
    optimizer, scheduler = optimizer_for(learner, settings.optimizer, settings.steps)
    learner.to(device).train()
    for step in range(settings.steps):
        torch.manual_seed(number(seed, "tune", step))
        rows = range(step * settings.rows, (step + 1) * settings.rows)
        loss = learner.language_loss(stack([windows.row(row) for row in rows]).to(device))
        train_step(optimizer, scheduler, {"language": loss}, settings.optimizer.clip)
    learner.eval()


def prepare(learner: Learner, settings: FinetuneSettings) -> None:
    """Settle what learns: the whole model, and what makes its prompts if that is asked for."""
    if settings.prompts == "drop":
        learner.source = None
    learner.model.requires_grad_(True)
    if learner.source is not None:
        learner.source.maker.requires_grad_(settings.hypernetwork == "train")


def shuffled(samples: Samples, rows: int, seed: int, name: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches without end, each sample once in every round."""
    rng = stream(seed, "tune", name)
    order: list[int] = []
    while True:
        while len(order) < rows:
            order += rng.permutation(len(samples.labels)).tolist()
        chosen, order = torch.tensor(order[:rows]), order[rows:]
        yield samples.input_ids[chosen], samples.mask[chosen], samples.labels[chosen]


@torch.no_grad()
def score_classifier(tuned: Classifier, domain: Domain, most: int | None, device: torch.device) -> Score:
    """What `tuned` gets right of the test samples of `domain`, the first `most` of them."""
    assert domain.test is not None
    samples, found = domain.test, []
    count = len(samples.labels) if most is None else min(most, len(samples.labels))
    for start in range(0, count, TEST_ROWS):
        rows = slice(start, min(start + TEST_ROWS, count))
        found.append(tuned(samples.input_ids[rows].to(device), samples.mask[rows].to(device)).argmax(-1).cpu())
    predicted, labels = torch.cat(found).numpy(), samples.labels[:count].numpy()
    return Score(int((predicted == labels).sum()), count, macro_f1(predicted, labels))


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes among `labels` of 2 tp / (2 tp + fp + fn)."""
    scores = []
    for label in np.unique(labels):
        true = int(((predicted == label) & (labels == label)).sum())
        wrong = int((predicted == label).sum()) + int((labels == label).sum()) - 2 * true
        scores.append(2 * true / (2 * true + wrong))
    return float(np.mean(scores))


@torch.no_grad()
def score_language(learner: Learner, windows: Windows, device: torch.device) -> Score:
    """Tokens of held-out windows that `learner` predicts right; in causal models those after the first quarter."""
    count = min(MOST_WINDOWS, len(windows.tokens) // windows.length)
    right = total = 0
    for start in range(0, count, TEST_ROWS):
        batch = stack([windows.row(row) for row in range(start, min(start + TEST_ROWS, count))]).to(device)
        context, batch = learner.in_training(batch)
        if learner.causal:  # the same tokens for arms without prompts
            first = torch.arange(windows.length, device=device) < windows.length // CONTEXT
            batch = batch._replace(labels=batch.labels.masked_fill(first, IGNORED))
        prompt = None if learner.source is None else learner.source(batch.input_ids, context).values
        targets = aligned(batch.labels, causal=learner.causal)
        guess = learner.model(batch.input_ids, batch.mask, prompt).logits.argmax(-1)
        right += int(((guess == targets) & (targets != IGNORED)).sum())
        total += int((targets != IGNORED).sum())
    return Score(right, total)
