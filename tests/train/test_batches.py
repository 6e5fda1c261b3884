from __future__ import annotations

import numpy as np

from longspan.train.batches import GROUPED, EpochBatches


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own() -> None:
    batches = list(EpochBatches(10, 4, 2, seed=3))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = np.concatenate(batches[:3]).tolist(), np.concatenate(batches[3:]).tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert batches == list(EpochBatches(10, 4, 2, seed=3))
    assert batches != list(EpochBatches(10, 4, 2, seed=4))


def test_batches_by_length_hold_samples_of_about_one_length_and_come_mixed() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, size=GROUPED * 4 + 2)
    batches = list(EpochBatches(len(lengths), 4, 1, seed=0, lengths=lengths.tolist()))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    spread = [int(np.ptp(lengths[batch])) for batch in batches if len(batch) == 4]
    assert np.mean(spread) < 5  # four samples drawn anyhow spread over 60
    middles = [lengths[batch].mean() for batch in batches]
    assert middles != sorted(middles)
    assert batches == list(EpochBatches(len(lengths), 4, 1, seed=0, lengths=lengths.tolist()))
