"""The training of one stage: from the model before it to the one that is kept."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save_file

from longspan.errors import ConfigError
from longspan.files import write_text
from longspan.records import Record, append_records, read_records
from longspan.systems.hprompt_cpt.arm_settings import AdapterSettings
from longspan.systems.hprompt_cpt.consolidation import Consolidation, consolidate
from longspan.systems.hprompt_cpt.course import CONSOLIDATION, PROMPTS, RECORDS, Course
from longspan.systems.hprompt_cpt.diagnostics import extra_bytes, peak_bytes, prompt_numbers
from longspan.systems.hprompt_cpt.ground import MODEL, STATE
from longspan.systems.hprompt_cpt.learner import Objective, teacher_of
from longspan.systems.hprompt_cpt.loop import Loop, Progress
from longspan.systems.hprompt_cpt.prompted import PromptedModel
from longspan.systems.hprompt_cpt.prompts import embedding_deviation
from longspan.systems.hprompt_cpt.seeds import number
from longspan.systems.hprompt_cpt.windows import stack
from longspan.train.states import writing_folder


class StageRun:
    """One stage in progress."""

    def __init__(self, course: Course, stage: int) -> None:
        self.course, self.stage, ground = course, stage, course.ground
        self.arm, self.device = course.arm, ground.device
        initial = ground.load_initial(course.seed)
        before = stage - 1 if course.arm.domains == "sequence" else 0
        self.learner = course.learner(before, ground.load_initial(course.seed)).to(self.device)
        previous, first = self.learner.model, PromptedModel(initial).to(self.device)
        # before adapters are put in: the teacher is a model as it was kept
        self.teacher = teacher_of(self.arm, previous, first)
        consolidation = course.consolidation(before)
        self.consolidation = None if consolidation is None else consolidation.to(self.device)
        self.adapted = None if self.arm.adapter is None else add_adapter(previous.model, self.arm.adapter, course.seed)
        if self.arm.prompt is not None and self.arm.prompt.alone:
            previous.model.requires_grad_(False)
        self.objective = Objective(
            self.learner,
            self.arm,
            self.teacher,
            self.consolidation,
            embedding_deviation(initial),
            number(course.seed, "stage", stage),
        )

    def run(self, on_progress: Callable[[Progress], Any]) -> None:
        """Train, and keep what came of it."""
        course, stream = self.course, self.course.stream(self.stage)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        steps = course.steps
        states = course.folder / f"{STATE}-{self.stage:02d}"
        loop = Loop(self.learner, course.ground.config.pretrain, steps, states, self.objective.seed)
        self._drop_records(loop.first_step())

        def tell(progress: Progress) -> None:
            append_records(course.folder / RECORDS, self._loss_records(progress, steps))
            on_progress(progress)

        loop.run(lambda step: self.objective.terms(stream.batch(step).to(self.device), step), tell)
        extra = extra_bytes(self.objective)
        numbers = {"seconds": round(loop.seconds, 3), "peak_bytes": peak_bytes(self.device), "extra_bytes": extra}
        others = [course.windows(name) for name in course.order]
        numbers |= prompt_numbers(self.objective, others, self.device)
        append_records(
            course.folder / RECORDS,
            [course.record("stage", metric, value, self.stage, n=steps) for metric, value in numbers.items()],
        )
        self._keep()
        shutil.rmtree(states, ignore_errors=True)

    def _keep(self) -> None:
        ground, model = self.course.ground, self.learner.model.model
        if self.adapted is not None:
            model = self.adapted.merge_and_unload()
        consolidation = self._consolidate()
        with writing_folder(self.course.stage_folder(self.stage)) as part:
            model.save_pretrained(part / MODEL)
            ground.tokenizer.save_pretrained(part / MODEL)
            if self.learner.source is not None:
                maker = self.learner.source.maker.state_dict()
                save_file({name: tensor.contiguous() for name, tensor in maker.items()}, part / PROMPTS)
            if consolidation is not None:
                save_file(consolidation.tensors(), part / CONSOLIDATION)

    def _consolidate(self) -> Consolidation | None:
        if self.arm.ewc is None:
            return None
        windows = self.course.windows(self.course.order[self.stage - 1])
        losses = [
            lambda row=row: self.learner.language_loss(stack([windows.row(row)]).to(self.device))
            for row in range(self.arm.ewc.windows)
        ]
        return consolidate(self.learner.model.model, losses, self.consolidation)

    def _loss_records(self, progress: Progress, steps: int) -> list[Record]:
        course, config = self.course, self.course.ground.config
        depth = (self.stage - 1 + progress.step / steps) / len(course.order)
        if self.arm.domains == "joint":
            depth = progress.step / steps
        tokens = progress.step * config.pretrain.rows * config.length
        values = {"loss": sum(progress.losses.values()), **progress.losses}
        return [course.record("train", metric, x, self.stage, depth=depth, n=tokens) for metric, x in values.items()]

    def _drop_records(self, step: int) -> None:
        """Remove what was recorded of this stage after `step`: it is done again."""
        path, config = self.course.folder / RECORDS, self.course.ground.config
        if not path.exists():
            return
        tokens = step * config.pretrain.rows * config.length
        kept = [r for r in read_records(path) if r.stage != self.stage or (r.task == "train" and (r.n or 0) <= tokens)]
        write_text(path, "".join(json.dumps(asdict(record)) + "\n" for record in kept))


def add_adapter(model: PreTrainedModel, settings: AdapterSettings, seed: int) -> Any:
    """Put new low-rank adapters into all linear layers of `model`, in place; they alone learn.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError("'adapter' needs peft: pip install 'longspan[peft]', or leave that arm out") from error
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear")  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        torch.manual_seed(number(seed, "adapter"))
        return get_peft_model(model, config)
