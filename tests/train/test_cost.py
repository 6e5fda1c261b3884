from __future__ import annotations

import numpy as np
import torch

from longspan.train.cost import PeakMemory


def test_a_peak_is_what_was_in_use_at_the_highest_moment_and_not_what_came_before() -> None:
    before = np.ones(16 << 20)  # 128 MiB, 8 bytes each
    del before
    memory = PeakMemory(torch.device("cpu"))
    first = np.ones(8 << 20)
    del first
    second = np.ones(4 << 20)
    peak = memory.bytes()
    assert peak is not None
    assert len(second) == 4 << 20
    assert memory.before is not None
    assert 60 < (peak - memory.before) / 2**20 < 90  # 64 MiB, and the pages of whatever ran for the first time
