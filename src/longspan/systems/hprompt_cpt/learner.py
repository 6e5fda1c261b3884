"""What learns in a stage: a model, where its prompts come from, and the terms of its loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from longspan.data.positions import IGNORED
from longspan.systems.hprompt_cpt.arm_settings import ArmSettings
from longspan.systems.hprompt_cpt.consolidation import Consolidation
from longspan.systems.hprompt_cpt.losses import agreement, disagreement, language_loss, state_agreement
from longspan.systems.hprompt_cpt.prompted import PromptedModel, Read, pooled
from longspan.systems.hprompt_cpt.prompts import PromptSource, random_prompt
from longspan.systems.hprompt_cpt.seeds import number
from longspan.systems.hprompt_cpt.windows import Batch

CONTEXT = 4
"""Causal models: the first of so many parts of a window is what prompts are made of."""


class Learner(nn.Module):
    """A model and the source of its prompts, if it has one."""

    def __init__(self, model: PromptedModel, source: PromptSource | None, *, causal: bool) -> None:
        super().__init__()
        self.model = model
        self.source = source
        self.causal = causal

    def in_training(self, batch: Batch) -> tuple[Bool[Tensor, "B S"], Batch]:
        """What prompts may be made of, and the batch without labels that this would give away.

        A masked model's prompts are made of the masked text. Made of a whole window, a causal model's would tell what
        comes next: the first quarter makes them, and is not learned.
        """
        if not self.causal or self.source is None:
            return batch.mask, batch
        first = torch.arange(batch.mask.shape[1], device=batch.mask.device) < batch.mask.shape[1] // CONTEXT
        return batch.mask & first, batch._replace(labels=batch.labels.masked_fill(first, IGNORED))

    def language_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Of the text under the prompts made of it, without any other term."""
        context, batch = self.in_training(batch)
        prompt = None if self.source is None else self.source(batch.input_ids, context).values
        read = self.model(batch.input_ids, batch.mask, prompt)
        return language_loss(read.logits, batch.labels, causal=self.causal)

    def states(self, batch: Batch) -> Float[Tensor, "B S d"]:
        """Last states of whole texts, as a task reads them; prompts are made of all of a text."""
        prompt = None if self.source is None else self.source(batch.input_ids, batch.mask).values
        return self.model.states(batch.input_ids, batch.mask, prompt)


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of one stage of one arm."""

    learner: Learner
    arm: ArmSettings
    teacher: PromptedModel | None
    consolidation: Consolidation | None
    deviation: float
    """Of random prompts."""
    seed: int
    """Of this stage."""

    def terms(self, batch: Batch, step: int) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss, each with its weight; their sum is what is minimised."""
        learner, arm = self.learner, self.arm
        context, batch = learner.in_training(batch)
        prompts = None if learner.source is None else learner.source(batch.input_ids, context)
        read = learner.model(batch.input_ids, batch.mask, None if prompts is None else prompts.values)
        terms = {"language": language_loss(read.logits, batch.labels, causal=learner.causal)}
        if prompts is not None and prompts.loss is not None:
            terms["pull"] = prompts.loss
        random = self.random(batch, number(self.seed, "random", step))
        other = read if prompts is None else None  # the student without a prompt has been read already
        if arm.agreement is not None:
            soft = random if arm.agreement.prompt == "random" else None
            other = learner.model(batch.input_ids, batch.mask, soft) if other is None else other
            terms["agreement"] = arm.agreement.weight * self._agreement(batch, other, soft)
        if arm.disagreement is not None:
            if arm.agreement is None or arm.agreement.prompt == "none":
                with torch.no_grad():
                    other = learner.model(batch.input_ids, batch.mask, random)
            assert other is not None
            apart = disagreement(pooled(read.states, batch.mask), pooled(other.states, batch.mask))
            terms["disagreement"] = arm.disagreement.weight * apart
        if self.consolidation is not None:
            assert arm.ewc is not None
            terms["ewc"] = arm.ewc.weight * self.consolidation.penalty(learner.model.model)
        return terms

    def _agreement(self, batch: Batch, student: Read, soft: Tensor | None) -> Tensor:
        assert self.teacher is not None
        assert self.arm.agreement is not None
        with torch.no_grad():
            wanted = self.teacher(batch.input_ids, batch.mask, soft)
        if self.arm.agreement.on == "states":
            return state_agreement(wanted.states, student.states, batch.mask)
        return agreement(wanted.logits, student.logits, batch.labels, causal=self.learner.causal)

    def random(self, batch: Batch, seed: int) -> Float[Tensor, "B n d"] | None:
        """The random prompt of this seed, the same for all rows; None if the arm has no prompts."""
        if self.arm.prompt is None:
            return None
        width = self.learner.model.model.get_input_embeddings().weight.shape[1]
        prompt = random_prompt((self.arm.prompt.tokens, width), self.deviation, seed)
        return prompt.to(batch.input_ids.device).expand(len(batch.input_ids), -1, -1)


def teacher_of(arm: ArmSettings, previous: PromptedModel, initial: PromptedModel) -> PromptedModel | None:
    """The frozen model that an arm's agreement asks for: a copy of `previous`, or of `initial`."""
    if arm.agreement is None:
        return None
    chosen = copy.deepcopy(previous if arm.agreement.teacher == "previous" else initial)
    chosen.policy = previous.policy
    return chosen.requires_grad_(False).eval()
