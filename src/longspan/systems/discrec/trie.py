"""The tree of all items' codes: which code may follow a prefix, and which items a whole string of codes stands for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from longspan.systems.discrec.codes import SemanticIds


class Trie:
    """Nodes are prefixes; a table of children, so that beams of a whole batch step at once.

    The table takes 8 bytes for each inner node and code: 25 MB for 12,000 items and codebooks of 256.
    """

    def __init__(self, ids: SemanticIds, device: torch.device | str = "cpu") -> None:
        self.levels, self.codebook_size = ids.levels, ids.codebook_size
        strings = np.unique(ids.codes, axis=0)
        parent, node, tables = np.zeros(len(strings), dtype=np.int64), 1, []
        for level in range(ids.levels):
            step = parent * ids.codebook_size + strings[:, level]
            edges, child = np.unique(step, return_inverse=True)
            last = level == ids.levels - 1
            tables.append((edges, np.arange(len(edges)) + (0 if last else node)))
            parent = child.reshape(-1) + node
            node += 0 if last else len(edges)
        children = np.full(node * ids.codebook_size, -1, dtype=np.int64)
        for edges, targets in tables:
            children[edges] = targets
        self.children = torch.from_numpy(children.reshape(node, ids.codebook_size)).to(device)
        """By node and code: the node of the longer prefix, on the last level the group of items; -1: no item."""
        self.items: Sequence[Int64[np.ndarray, " n"]] = _members(ids.groups)
        """The items of each group; more than one where codes collide."""

    def step(self, nodes: Int64[Tensor, "B W"]) -> Int64[Tensor, "B W K"]:
        """The children of some nodes; those of no node (-1) are no nodes."""
        found = self.children[nodes.clamp(min=0)]
        return found.masked_fill(nodes[..., None] < 0, -1)


def _members(groups: Int64[np.ndarray, " items"]) -> list[Int64[np.ndarray, " n"]]:
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.cumsum(np.bincount(groups))[:-1])
