"""Items to semantic IDs: the RQ-VAE is started by constrained k-means, trained, and its collisions are taken apart."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from longspan.errors import ConfigError, DataError, TrainingError
from longspan.systems.discrec.codes import SemanticIds
from longspan.systems.discrec.quantizer import ResidualQuantizer, sinkhorn, squared_distances
from longspan.train.settings import Settings

Count = Annotated[int, Field(gt=0)]
REASSIGN_ROUNDS = 20


class TokenizerSettings(Settings):
    """The RQ-VAE and its training; the defaults are those of the paper's code."""

    levels: Annotated[int, Field(gt=0, le=26)] = 4
    """L: codes of an item."""
    codes: Annotated[int, Field(gt=1)] = 256
    """K: codes of a level."""
    code_width: Count = 32
    hidden: tuple[Count, ...] = (2048, 1024, 512, 256, 128, 64)
    """Widths between a vector and its code; the decoder has them the other way round."""
    beta: Annotated[float, Field(ge=0)] = 0.25
    """Weight of the commitment."""
    epochs: Annotated[int, Field(ge=0)] = 20_000
    batch: Count = 1024
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    start_iterations: Count = 10
    start_restarts: Count = 10
    start_items: Count | None = None
    """Items that the constrained k-means is run on, drawn at random; null: all. Its time grows faster than they do."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1024


def train_tokenizer(
    vectors: Float32[np.ndarray, "items D"],
    settings: TokenizerSettings,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> tuple[SemanticIds, float]:
    """Semantic IDs of all items, and the share that collided before the last level was assigned anew.

    Raises:
        ConfigError: k-means-constrained is not installed.
        DataError: there are fewer items than codes.
        TrainingError: the loss is no number.
    """
    if len(vectors) < settings.codes:
        raise DataError(f"{len(vectors)} items cannot fill codebooks of {settings.codes}: set codes to fewer")
    torch.manual_seed(settings.seed)
    quantizer = ResidualQuantizer(
        vectors.shape[1], settings.hidden, settings.code_width, settings.levels, settings.codes
    ).to(device)
    x = torch.from_numpy(vectors).to(device)
    start_codebooks(quantizer, x, settings)
    _train(quantizer, x, settings, progress)
    codes, residuals = quantizer.assign(x)
    ids = SemanticIds(codes.cpu().numpy(), settings.codes)
    apart = _take_apart(codes, residuals[:, -2], quantizer.codebooks[-1].detach())
    return SemanticIds(apart.cpu().numpy(), settings.codes), ids.collisions


@torch.no_grad()
def start_codebooks(quantizer: ResidualQuantizer, x: Float[Tensor, "items D"], settings: TokenizerSettings) -> None:
    """Put the centres of clusters of bounded size into the codebooks, level by level on what is left over.

    Raises:
        ConfigError: k-means-constrained is not installed.
    """
    try:
        from k_means_constrained import KMeansConstrained
    except ImportError as error:
        raise ConfigError(
            "semantic IDs need k-means-constrained: pip install 'longspan[discrec]', or give ready ones by --ids"
        ) from error
    drawn = torch.randperm(len(x))[: max(settings.start_items or len(x), settings.codes)]
    residual = quantizer.encoder(x[drawn.to(x.device)])
    smallest = min(len(residual) // (2 * settings.codes), 50)
    for level in range(settings.levels):
        clusters = KMeansConstrained(
            n_clusters=settings.codes,
            size_min=smallest,
            size_max=max(4 * smallest, -(-len(residual) // settings.codes)),
            max_iter=settings.start_iterations,
            n_init=settings.start_restarts,
            random_state=settings.seed,
        )
        clusters.fit(residual.double().cpu().numpy())
        quantizer.codebooks[level] = torch.from_numpy(clusters.cluster_centers_).to(quantizer.codebooks)
        codebook = quantizer.codebooks[level]
        residual = residual - codebook[squared_distances(residual, codebook).argmin(-1)]


def _train(quantizer: ResidualQuantizer, x: Tensor, settings: TokenizerSettings, progress: bool) -> None:
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for _ in tqdm(range(settings.epochs), desc="tokenizer", unit="epoch", disable=not progress):
        total = 0.0
        for batch in torch.randperm(len(x)).to(x.device).split(settings.batch):
            loss = quantizer(x[batch], settings.beta)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        if not np.isfinite(total):
            raise TrainingError("the tokenizer's loss became no number: set a lower learning_rate")


def _take_apart(codes: Tensor, residual: Float[Tensor, "items d"], codebook: Float[Tensor, "C d"]) -> Tensor:
    """Give items that share all codes other last codes, in at most 20 rounds: Sinkhorn inside each such group."""
    codes = codes.clone()
    for _ in range(REASSIGN_ROUNDS):
        _, group, sizes = codes.unique(dim=0, return_inverse=True, return_counts=True)
        shared = (sizes > 1).nonzero().flatten()
        if not len(shared):
            break
        for number in shared:
            members = (group == number).nonzero().flatten()
            codes[members, -1] = sinkhorn(squared_distances(residual[members], codebook)).argmax(-1)
    return codes
