"""Where prompts come from: a hypernetwork, or a pool, after an encoder that never learns."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from longspan.systems.hprompt_cpt.arm_settings import PromptSettings
from longspan.systems.hprompt_cpt.prompted import PromptedModel, pooled


class Prompts(NamedTuple):
    """Soft tokens for a batch."""

    values: Float[Tensor, "B n d"]
    loss: Float[Tensor, ""] | None = None
    """What their source adds to the loss."""


class ContextEncoder(nn.Module):
    """A frozen copy of the initial model, or of its token embeddings: one vector for each text."""

    def __init__(self, initial: PreTrainedModel, *, embeddings_only: bool) -> None:
        super().__init__()
        self.reader = copy.deepcopy(initial.get_input_embeddings() if embeddings_only else initial)
        self.reader.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ContextEncoder:
        """It stays in evaluation mode: it never learns."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, input_ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "B d"]:
        """The mean state of the tokens in `mask`, as the text stands there."""
        if isinstance(self.reader, PreTrainedModel):
            return pooled(PromptedModel(self.reader).states(input_ids, mask), mask)
        return pooled(self.reader(input_ids), mask)


class Hypernetwork(nn.Module):
    """A mixture of learned components, weighted by what the encoder says."""

    def __init__(self, settings: PromptSettings, width: int, deviation: float) -> None:
        super().__init__()
        self.softmax = settings.weights == "softmax"
        self.mixer = nn.Linear(width, settings.components)
        self.components = nn.Parameter(torch.randn(settings.components, settings.length, width) * deviation)

    def weights(self, context: Float[Tensor, "B d"]) -> Float[Tensor, "B M"]:
        """How much of each component goes into the prompt; under softmax they sum to 1."""
        found = self.mixer(context)
        return found.softmax(-1) if self.softmax else found

    def forward(self, context: Float[Tensor, "B d"]) -> Prompts:
        """P = sum over m of alpha_m V_m."""
        return Prompts(torch.einsum("bm,mnd->bnd", self.weights(context), self.components))


class PromptPool(nn.Module):
    """A pool of prompts with a key each; the nearest keys choose, and are pulled towards the texts they serve.

    Source: arXiv:2112.08654 (L2P), without its count of how often a prompt was used.
    """

    def __init__(self, settings: PromptSettings, width: int, deviation: float) -> None:
        super().__init__()
        assert settings.chosen is not None
        self.chosen = settings.chosen
        self.keys = nn.Parameter(torch.rand(settings.components, width) - 0.5)
        self.prompts = nn.Parameter(torch.randn(settings.components, settings.length, width) * deviation)

    def forward(self, context: Float[Tensor, "B d"]) -> Prompts:
        """The chosen prompts one behind the other; the loss is the mean distance (1 - cosine) to their keys."""
        likeness = functional.cosine_similarity(context[:, None], self.keys[None], dim=-1)
        nearest, which = likeness.topk(self.chosen, dim=-1)
        return Prompts(self.prompts[which].flatten(1, 2), (1 - nearest).mean())


class PromptSource(nn.Module):
    """Encoder and what makes prompts of its vector."""

    def __init__(self, settings: PromptSettings, initial: PreTrainedModel, seed: int) -> None:
        super().__init__()
        width = initial.get_input_embeddings().weight.shape[1]
        self.encoder = ContextEncoder(initial, embeddings_only=settings.encoder == "embeddings")
        kind = PromptPool if settings.kind == "pool" else Hypernetwork
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.maker = kind(settings, width, embedding_deviation(initial))

    def forward(self, input_ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Prompts:
        """Prompts for these texts; `mask` are the tokens that the encoder may read."""
        return self.maker(self.encoder(input_ids, mask))


def embedding_deviation(model: PreTrainedModel) -> float:
    """Standard deviation of the token embeddings: random prompts are as large as words."""
    return float(model.get_input_embeddings().weight.detach().float().std())


def random_prompt(shape: tuple[int, int], deviation: float, seed: int) -> Float[Tensor, "n d"]:
    """A prompt of N(0, deviation^2) that follows from `seed` alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * deviation
