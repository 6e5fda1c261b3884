"""The three losses, each a mean, so that their weights do not depend on the batch."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from longspan.data.positions import IGNORED
from longspan.train.distill import divergence


def aligned(labels: Int[Tensor, "B S"], *, causal: bool) -> Int[Tensor, "B S"]:
    """The label that each place predicts: its own, or in causal models that of the next token; -100 for none."""
    return functional.pad(labels, (0, 1), value=IGNORED)[:, 1:] if causal else labels


def language_loss(logits: Float[Tensor, "B S V"], labels: Int[Tensor, "B S"], *, causal: bool) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of the labelled tokens: masked ones, or next ones in causal models."""
    targets = aligned(labels, causal=causal).flatten()
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=IGNORED)


def agreement(
    wanted: Float[Tensor, "B S V"], logits: Float[Tensor, "B S V"], labels: Int[Tensor, "B S"], *, causal: bool
) -> Float[Tensor, ""]:
    """Mean KL(wanted || logits) in nats over the labelled tokens."""
    predicted = aligned(labels, causal=causal) != IGNORED
    return divergence(wanted[predicted], logits[predicted]) / predicted.sum().clamp(min=1)


def state_agreement(
    wanted: Float[Tensor, "B S d"], states: Float[Tensor, "B S d"], mask: Bool[Tensor, "B S"]
) -> Float[Tensor, ""]:
    """Mean squared error of the states of all tokens that are no padding."""
    return functional.mse_loss(states[mask].float(), wanted[mask].float())


def disagreement(prompted: Float[Tensor, "B d"], random: Float[Tensor, "B d"]) -> Float[Tensor, ""]:
    """Mean squared cosine between pooled states under the prompt and under a random one, which get no gradient."""
    cosine = functional.cosine_similarity(prompted.float(), random.detach().float(), dim=-1)
    return cosine.square().mean()
