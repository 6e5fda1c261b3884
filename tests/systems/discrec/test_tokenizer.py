from __future__ import annotations

import numpy as np
import pytest
import torch

from longspan.errors import DataError
from longspan.systems.discrec.interactions import Interactions
from longspan.systems.discrec.quantizer import ResidualQuantizer, sinkhorn, squared_distances
from longspan.systems.discrec.tokenizer import TokenizerSettings, _take_apart, start_codebooks, train_tokenizer
from longspan.systems.discrec.vectors import attribute_vectors

SMALL = TokenizerSettings(
    levels=3, codes=4, code_width=4, hidden=(8,), epochs=30, batch=32, start_restarts=1, start_iterations=2
)


def vectors(items: int = 60, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(items, width)).astype(np.float32)


def quantizer() -> ResidualQuantizer:
    torch.manual_seed(0)
    made = ResidualQuantizer(6, (8,), 4, 3, 4)
    torch.nn.init.normal_(made.codebooks)
    return made


def test_the_codes_and_what_is_left_over_add_up_to_the_encoding() -> None:
    made, x = quantizer(), torch.from_numpy(vectors())
    codes, residuals = made.assign(x)
    parts = torch.stack([made.codebooks[level][codes[:, level]] for level in range(3)], dim=1)
    torch.testing.assert_close(parts.sum(1) + residuals[:, -1], made.encoder(x))


def test_each_code_is_the_nearest_to_what_is_left() -> None:
    made, x = quantizer(), torch.from_numpy(vectors())
    codes, residuals = made.assign(x)
    for level in range(3):
        distances = ((residuals[:, level, None] - made.codebooks[level]) ** 2).sum(-1)
        assert torch.equal(codes[:, level], distances.argmin(-1))
        torch.testing.assert_close(squared_distances(residuals[:, level], made.codebooks[level]), distances)


def test_only_the_first_level_pulls_the_encoder() -> None:
    made, x = quantizer(), torch.from_numpy(vectors())
    gradients = []
    for beta in (0.0, 0.25):
        made.zero_grad()
        made(x, beta).backward()
        gradients.append(made.encoder[0].weight.grad.clone())
    z = made.encoder(x)
    first = made.codebooks[0][squared_distances(z, made.codebooks[0]).argmin(-1)].detach()
    made.zero_grad()
    (0.25 * ((first - z) ** 2).mean() / 3).backward()
    torch.testing.assert_close(gradients[1] - gradients[0], made.encoder[0].weight.grad, atol=1e-6, rtol=1e-4)


def test_sinkhorn_spreads_vectors_evenly_where_the_nearest_would_not() -> None:
    torch.manual_seed(0)
    x, codebook = torch.randn(256, 4) + 1, torch.randn(8, 4)
    distances = squared_distances(x, codebook)
    nearest = torch.bincount(distances.argmin(-1), minlength=8)
    even = torch.bincount(sinkhorn(distances).argmax(-1), minlength=8)
    assert nearest.max() > 2 * 256 / 8
    assert even.min() > 0.7 * 256 / 8
    assert even.max() < 1.3 * 256 / 8


def test_sinkhorn_ends_in_probabilities_of_each_vector() -> None:
    plan = sinkhorn(torch.rand(20, 5)).exp()
    torch.testing.assert_close(plan.sum(1), torch.ones(20, dtype=torch.float64))
    assert plan.dtype == torch.float64


def test_items_with_equal_codes_are_taken_apart_on_the_last_level_alone() -> None:
    torch.manual_seed(0)
    codes = torch.tensor([[0, 0, 1], [0, 0, 1], [0, 0, 1], [2, 1, 3]])
    apart = _take_apart(codes, torch.randn(4, 4), torch.randn(8, 4))
    assert len(apart.unique(dim=0)) == 4
    assert torch.equal(apart[:, :2], codes[:, :2])
    assert torch.equal(apart[3], codes[3])


def test_the_first_codebooks_are_centres_of_clusters_of_bounded_size() -> None:
    made, x = quantizer(), torch.from_numpy(vectors())
    start_codebooks(made, x, SMALL)
    with torch.no_grad():
        nearest = squared_distances(made.encoder(x), made.codebooks[0]).argmin(-1)
    # 60 items, 4 clusters: at least 60 // 8 = 7 each when they were made, so no code stands far from all
    assert torch.bincount(nearest, minlength=4).min() >= 3


def test_training_makes_ids_that_are_mostly_distinct_and_the_same_for_a_seed() -> None:
    ids, before = train_tokenizer(vectors(), SMALL)
    assert ids.codes.shape == (60, 3)
    assert ids.collisions <= before
    assert ids.collisions < 0.5
    again, _ = train_tokenizer(vectors(), SMALL)
    assert np.array_equal(ids.codes, again.codes)
    other, _ = train_tokenizer(vectors(), SMALL.model_copy(update={"seed": 1}))
    assert not np.array_equal(ids.codes, other.codes)


def test_trained_codes_hold_most_of_what_the_vectors_say() -> None:
    centres = np.random.default_rng(1).normal(size=(4, 6))
    x = torch.from_numpy((centres[np.arange(60) % 4] + 0.05 * vectors()).astype(np.float32))
    made = quantizer()
    start_codebooks(made, x, SMALL)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(60):
        loss = made(x, 0.25)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _, residuals = made.assign(x)
    with torch.no_grad():
        decoded = made.decoder(residuals[:, 0] - residuals[:, -1])
    assert (decoded - x).square().mean() < 0.5 * x.var(0).mean()


def test_fewer_items_than_codes_are_one_line() -> None:
    with pytest.raises(DataError, match="3 items cannot fill codebooks of 4: set codes to fewer"):
        train_tokenizer(vectors(3), SMALL)


def test_items_of_one_kind_are_nearer_to_each_other_than_to_others() -> None:
    histories = {f"{kind} {n}": [f"{kind}{(n + step) % 4}" for step in range(4)] for n in range(4) for kind in "ab"}
    kinds = {f"{kind}{n}": [kind, f"word {n}"] for kind in "ab" for n in range(4)}
    data = Interactions.collect(histories, attributes=kinds)
    made = attribute_vectors(data, 4)
    near = made @ made.T
    np.testing.assert_allclose(np.diag(near), 1, atol=1e-5)
    inside, across = near[:4, :4][~np.eye(4, dtype=bool)].mean(), near[:4, 4:].mean()
    assert inside > across
