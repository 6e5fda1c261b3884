"""A language model that reads soft tokens before the text; what comes out is of the text alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from longspan.systems.hprompt_cpt.arm_settings import Policy
from longspan.systems.hprompt_cpt.positions import first_position, prompted_positions


class Read(NamedTuple):
    """What a model makes of a batch."""

    logits: Float[Tensor, "B S V"]
    states: Float[Tensor, "B S d"]
    """The last ones, from which logits are made."""


class PromptedModel(nn.Module):
    """Any masked or causal language model of transformers. Without soft tokens it is that model and nothing else."""

    def __init__(self, model: PreTrainedModel, policy: Policy = "shift") -> None:
        super().__init__()
        self.model = model
        self.policy: Policy = policy
        self._first = first_position(model)

    def forward(
        self, input_ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"], prompt: Float[Tensor, "B n d"] | None = None
    ) -> Read:
        """Logits and last states of the text.

        Args:
            mask: the tokens that are no padding; padding comes last.
            prompt: soft tokens, which every token of the text sees; None or n = 0: the text alone.
        """
        kept: list[Tensor] = []
        handle = self.model.base_model.register_forward_hook(lambda module, given, output: kept.append(output[0]))
        try:
            logits = self.model(**self._inputs(input_ids, mask, prompt)).logits
        finally:
            handle.remove()
        soft = logits.shape[1] - input_ids.shape[1]
        return Read(logits[:, soft:], kept[0][:, soft:])

    def states(
        self, input_ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"], prompt: Float[Tensor, "B n d"] | None = None
    ) -> Float[Tensor, "B S d"]:
        """The last states alone, without the work of logits."""
        found = self.model.base_model(**self._inputs(input_ids, mask, prompt))[0]
        return found[:, found.shape[1] - input_ids.shape[1] :]

    def _inputs(self, input_ids: Tensor, mask: Tensor, prompt: Tensor | None) -> dict[str, Any]:
        more = {"use_cache": False} if self.model.can_generate() else {}
        if prompt is None or prompt.shape[1] == 0:
            return {"input_ids": input_ids, "attention_mask": mask.long(), **more}
        words = self.model.get_input_embeddings()(input_ids)
        seen = torch.cat([mask.new_ones(prompt.shape[:2]), mask], 1)
        return {
            "inputs_embeds": torch.cat([prompt.to(words.dtype), words], 1),
            "attention_mask": seen.long(),
            "position_ids": prompted_positions(mask, prompt.shape[1], self.policy, self._first),
            **more,
        }


def pooled(states: Float[Tensor, "B S d"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "B d"]:
    """The mean of the states of all tokens that are no padding."""
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)
