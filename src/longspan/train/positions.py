"""Positions that a method draws for training windows: who draws them, and the proof that attention reaches across."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from longspan import surgery
from longspan.data.positions import Placer
from longspan.errors import MethodError
from longspan.surgery.rotary import LongspanRotary
from longspan.train.config import RunConfig

LOOKED_AT = 32
"""Windows among which one with a skip is looked for."""


def placer_of(model: PreTrainedModel, config: RunConfig) -> Placer | None:
    """What draws the positions of the run; None where no method of the model does."""
    plan = surgery.plan(model, ())
    if plan.slots.position is None:
        return None
    rows = config.batch_tokens // config.train_length
    return Placer(position=plan.slots.position, window=plan.window, seed=config.seed, step_rows=rows)


@torch.no_grad()
def check_reach(model: PreTrainedModel, dataset: Any) -> None:
    """Change all tokens before the last skip of a window: the logits at its end must move.

    Where a mask takes a skip for the border between two documents they do not, and training would teach nothing.

    Raises:
        MethodError: they do not.
    """
    for index in range(min(LOOKED_AT, len(dataset))):
        row = dataset[index]
        if "position_ids" in row:  # several conversations in one row, which shall not see each other
            return
        length = int((row["labels"] != -100).nonzero().max()) + 1
        skips = np.flatnonzero(row["positions"][:length].diff() != 1)
        if len(skips):
            break
    else:
        return
    ids, positions = (row[key][None, :length].to(model.device) for key in ("input_ids", "positions"))
    before = int(skips[-1]) + 1
    other = ids.clone()
    other[:, :before] = (ids[:, :before] + 1) % model.config.vocab_size
    training = model.training
    model.eval()  # without dropout
    for module in model.modules():
        if isinstance(module, LongspanRotary):
            module.train()
    with surgery.placed(model, positions):
        one, two = (model(tokens, use_cache=False).logits[:, -1] for tokens in (ids, other))
    model.train(training)
    if torch.equal(one, two):
        raise MethodError(
            f"tokens {length - before} places back have no effect across a skip of positions: attention is cut there "
            "or fades to nothing, so that training would teach no distance; take another method or attention"
        )
