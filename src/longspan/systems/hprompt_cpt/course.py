"""One arm through the domains in one order with one seed: which stages it has, and where each is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import PreTrainedModel

from longspan.records import Record
from longspan.systems.hprompt_cpt.arm_settings import ArmSettings, Policy
from longspan.systems.hprompt_cpt.backbone import load_backbone
from longspan.systems.hprompt_cpt.consolidation import Consolidation
from longspan.systems.hprompt_cpt.ground import MODEL, Ground, check_settings
from longspan.systems.hprompt_cpt.learner import Learner
from longspan.systems.hprompt_cpt.prompted import PromptedModel
from longspan.systems.hprompt_cpt.prompts import PromptSource
from longspan.systems.hprompt_cpt.seeds import number
from longspan.systems.hprompt_cpt.windows import Stream, Windows

PROMPTS, CONSOLIDATION, RECORDS = "prompts.safetensors", "consolidation.safetensors", "records.jsonl"
ALL = "all"
"""The domain of a stage that learns every domain at once."""


@dataclass(frozen=True, eq=False)
class Course:
    """What is trained, and where it is kept."""

    ground: Ground
    arm_name: str
    order_name: str
    seed: int

    @property
    def arm(self) -> ArmSettings:
        """The settings of its arm."""
        return self.ground.config.arms[self.arm_name]

    @property
    def order(self) -> list[str]:
        """Its domains, first to last."""
        return self.ground.config.order(self.order_name)

    @property
    def name(self) -> str:
        """As its folder and messages call it."""
        return f"{self.arm_name}-{self.order_name}-{self.seed}"

    @property
    def folder(self) -> Path:
        """Where its stages are."""
        return self.ground.out / "runs" / self.name

    @property
    def stages(self) -> list[int]:
        """Numbers of the stages it has: all, or the last alone if it learns all domains at once."""
        return [len(self.order)] if self.arm.domains == "joint" else list(range(1, len(self.order) + 1))

    def domain_of(self, stage: int) -> str:
        """What is learned in a stage."""
        return ALL if self.arm.domains == "joint" else self.order[stage - 1]

    def stage_folder(self, stage: int) -> Path:
        """Where the model after that stage is kept."""
        return self.folder / f"stage-{stage:02d}"

    def is_done(self, stage: int) -> bool:
        """Whether it has been trained."""
        return self.stage_folder(stage).is_dir()

    def wants(self, stage: int, domain: str) -> bool:
        """Whether that cell is part of its matrix: models of one domain alone are tested on that alone."""
        return stage == 0 or self.arm.domains != "separate" or self.domain_of(stage) == domain

    @property
    def steps(self) -> int:
        """Optimizer steps of one stage."""
        steps = self.arm.steps or self.ground.config.pretrain.steps
        return steps * len(self.order) if self.arm.domains == "joint" else steps

    def check(self) -> None:
        """Make sure that what is in the folder is this course.

        Raises:
            ConfigError: it was made with other settings or text.
        """
        config = self.ground.config.to_json()
        pretrain = {key: value for key, value in config["pretrain"].items() if key not in ("save_every", "log_every")}
        settings = {"arm": config["arms"][self.arm_name], "order": self.order, "seed": self.seed, "pretrain": pretrain}
        check_settings(self.folder, {**settings, "length": config["length"], **self.ground.identity()})

    def learner(self, stage: int, initial: PreTrainedModel) -> Learner:
        """The model after `stage` with its prompts; stage 0 is the initial model, with prompts that learned nothing."""
        causal = self.ground.config.model.causal
        model = initial
        if stage:
            folder = self.stage_folder(stage)
            model = load_backbone(folder / MODEL, causal=causal, tokenizer=self.ground.tokenizer)
        policy: Policy = "shift"
        source = None
        if self.arm.prompt is not None:
            policy = self.arm.prompt.position
            source = PromptSource(self.arm.prompt, initial, number(self.seed, "prompts"))
            if stage:
                source.maker.load_state_dict(load_file(self.stage_folder(stage) / PROMPTS))
        return Learner(PromptedModel(model, policy), source, causal=causal)

    def consolidation(self, stage: int) -> Consolidation | None:
        """What consolidates the weights after `stage`, if the arm has that."""
        path = self.stage_folder(stage) / CONSOLIDATION
        return Consolidation.from_tensors(load_file(path)) if stage and path.exists() else None

    def stream(self, stage: int) -> Stream:
        """The batches of a stage."""
        rows, replay = self.ground.config.pretrain.rows, self.arm.replay
        if self.arm.domains == "joint":
            return Stream(tuple(self.windows(name) for name in self.order), rows, self.seed)
        own, earlier = self.windows(self.order[stage - 1]), self.order[: stage - 1]
        if replay is None or not earlier:
            return Stream((own,), rows, self.seed)
        kept = max(1, replay.windows // len(earlier))
        return Stream((own,), rows, self.seed, tuple(map(self.windows, earlier)), replay.share, kept)

    def windows(self, name: str) -> Windows:
        """Training windows of a domain."""
        return self.ground.windows(name, self.seed)

    def record(self, task: str, metric: str, value: float | None, stage: int, **columns: Any) -> Record:
        """A number of this course."""
        config = self.ground.config
        return Record(
            run=f"{config.name}/{self.order_name}",
            method="none",
            model=self.arm_name,
            task=task,
            metric=metric,
            value=value,
            seed=self.seed,
            train_length=config.length,
            stage=stage,
            **{"domain": self.domain_of(stage) if stage else None, **columns},
        )
