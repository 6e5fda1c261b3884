"""The loss of a causal language model in chunks of tokens, so that the logits of a whole batch never exist at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from longspan.data.positions import IGNORED

LOGITS = 1 << 21
"""Logits that exist at once unless the settings say otherwise: 8 MB in float32, which a processor's caches can hold."""
LEAST = 512
"""Tokens of a chunk at least: with fewer, the product with the head's weights waits for memory."""


class ChunkedLoss:
    """Takes the place of a model's loss function in training: the same number and gradients to rounding.

    The model's own forward runs, with all that it adds to a loss, but is asked for no logits. They are made chunk by
    chunk from the decoder's output by the rest of that very forward, whatever it does to them (soft caps, scales).
    """

    def __init__(self, model: PreTrainedModel, chunk: int | None) -> None:
        """Install it on `model`; `chunk` tokens have logits at once, None takes as many as make `LOGITS`."""
        self.model = model
        self.chunk = chunk or max(LEAST, LOGITS // model.config.vocab_size)
        self._own = model.loss_function
        self._hidden: Tensor | None = None
        model.base_model.register_forward_hook(self._keep)
        model.loss_function = self

    def arguments(self, tokens: int) -> dict[str, Tensor]:
        """What a forward pass over `tokens` tokens is given, so that it leaves the logits to the loss."""
        return {"logits_to_keep": torch.empty(0, dtype=torch.long)} if tokens > self.chunk else {}

    def _keep(self, decoder: nn.Module, arguments: Any, output: Any) -> None:
        self._hidden = output[0] if self.model.training else None

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        *args: Any,
        num_items_in_batch: Tensor | int | None = None,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """As transformers' `ForCausalLMLoss`, which it calls where logits were made."""
        hidden, self._hidden = self._hidden, None
        if logits.numel() or hidden is None:
            shared = {"num_items_in_batch": num_items_in_batch, "shift_labels": shift_labels}
            return self._own(logits, labels, *args, **shared, **kwargs)
        if shift_labels is None:
            shift_labels = functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]
        targets = shift_labels.flatten().to(hidden.device)
        head = [weight for weight in self.model.get_output_embeddings().parameters() if weight.requires_grad]
        total = chunked_cross_entropy(hidden.flatten(0, 1), targets, self._logits, head, self.chunk)
        count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return total / (count.to(total.device) if isinstance(count, Tensor) else count)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits `N V` of hidden states `N hidden`."""
        forward: Callable[..., Any] = type(self.model).forward
        return forward(_Decoded(self.model, hidden[None])).logits[0]


class _Decoded:
    """Stands for a causal language model whose decoder has run: its forward goes on from the hidden states given."""

    def __init__(self, model: PreTrainedModel, hidden: Tensor) -> None:
        self._model = model
        setattr(self, model.base_model_prefix, lambda *_, **__: MoeModelOutputWithPast(last_hidden_state=hidden))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def chunked_cross_entropy(
    hidden: Float[Tensor, "N hidden"],
    targets: Int[Tensor, " N"],
    logits: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    chunk: int,
) -> Float[Tensor, ""]:
    """The sum of cross-entropies in float32, of `chunk` tokens at a time; targets of -100 count nothing.

    Args:
        logits: makes `n V` of `n hidden`, token by token, with `weights` as its only tensors that learn.
    """
    return _ChunkedCrossEntropy.apply(hidden, targets, logits, chunk, *weights)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Makes the gradients while the logits of a chunk are there, so that they need not be made again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor], chunk: int, *weights: Tensor
    ) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        gradients = [torch.zeros_like(x) if x.requires_grad else None for x in (hidden, *weights)]
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            part = hidden[rows].detach().requires_grad_(hidden.requires_grad)
            learning = [x for x in (part, *weights) if x.requires_grad]
            with torch.set_grad_enabled(bool(learning)):
                loss = functional.cross_entropy(
                    logits(part).float(), targets[rows], ignore_index=IGNORED, reduction="sum"
                )
            total += loss.detach()
            found = iter(torch.autograd.grad(loss, learning) if learning else ())
            for whole, x in zip(gradients, (part, *weights), strict=True):
                if whole is not None:
                    place = whole[rows] if x is part else whole
                    place += next(found)
        ctx.save_for_backward(*(x for x in gradients if x is not None))
        ctx.learns = [x is not None for x in gradients]
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        hidden, *weights = (next(saved) * outer[0] if learns else None for learns in ctx.learns)
        return hidden, None, None, None, *weights
