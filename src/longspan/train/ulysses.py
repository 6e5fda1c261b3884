"""Windows shared by heads: deepspeed's Ulysses attention, without deepspeed's engine.

Outside attention each process holds its stretch of every window; inside, deepspeed trades that for some heads of whole
windows, and back. Weights are split by FSDP, and each process adds the loss of its own tokens as in data parallel.
accelerate's own way to it (`sp_backend="deepspeed"`) needs the engine, under which the loss is the mean of forward
passes and not of tokens, and the weights move before the norm of their gradient is known here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from longspan.errors import ConfigError


def check_deepspeed() -> None:
    """Make sure that deepspeed is there.

    Raises:
        ConfigError: it is not.
    """
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "'parallel.ulysses' needs deepspeed: pip install 'longspan[ulysses]', or share windows by 'context'"
        ) from error


class Ulysses:
    """This process among those that share each window; alone, it does nothing."""

    def __init__(self, accelerator: Accelerator, count: int) -> None:
        """
        Args:
            accelerator: with `count` processes along its mesh's dimension of context parallelism, if above 1.
        """
        self.count, self.rank = count, 0
        self._group: dist.ProcessGroup | None = None
        self._exchanges: dict[tuple[int, ...], Any] = {}
        if count > 1:
            import deepspeed

            deepspeed.init_distributed(auto_mpi_discovery=False, dist_init_required=False, verbose=False)
            mesh = accelerator.torch_device_mesh["cp"]
            self._group, self.rank = mesh.get_group(), mesh.get_local_rank()

    def own(self, window: Tensor) -> Tensor:
        """This process's stretch of `B T ...`."""
        return window if self.count == 1 else window.chunk(self.count, dim=1)[self.rank].contiguous()

    @contextlib.contextmanager
    def attending(self) -> Iterator[None]:
        """Within it, attention of stretches is that of whole windows, in every model whose implementation is `sdpa`."""
        if self.count == 1:
            yield
            return
        alone = ALL_ATTENTION_FUNCTIONS["sdpa"]
        ALL_ATTENTION_FUNCTIONS["sdpa"] = functools.partial(self._attend, alone)
        try:
            yield
        finally:
            ALL_ATTENTION_FUNCTIONS["sdpa"] = alone

    def _attend(
        self,
        alone: Callable[..., Any],
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **kwargs: Any,
    ) -> Any:
        """As transformers' attention function; `mask` is causal and of a stretch, which says nothing of the whole."""
        exchange = self._exchange(alone, query.shape, key.shape[1])
        # gathered for kernels that look for packed texts there; SDPA does not, and windows are one text each
        kwargs["position_ids"] = torch.zeros((len(query), 1), dtype=torch.long, device=query.device)
        output, weights = exchange(module, query, key, value, None, **kwargs)
        return output.unflatten(-1, (query.shape[1], -1)), weights

    def _exchange(self, alone: Callable[..., Any], query: torch.Size, key_heads: int) -> Any:
        if (*query, key_heads) not in self._exchanges:
            from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

            batch, heads, length, width = query
            self._exchanges[*query, key_heads] = UlyssesSPAttentionHF(
                attn=alone,
                batch_size=batch,
                attn_head_count=heads,
                attn_head_size=width,
                kv_head_count=key_heads,
                num_hidden_layers=1,
                process_group=self._group,
                local_seq_length=length,
                global_seq_length=length * self.count,
            )
        return self._exchanges[*query, key_heads]
