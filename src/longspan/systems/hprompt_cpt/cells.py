"""One cell of the matrix: the model after a stage, tuned on a domain and tested."""

from __future__ import annotations

import copy
from dataclasses import replace

from longspan.intervals import wilson
from longspan.matrix import INITIAL, TASK
from longspan.records import Record
from longspan.systems.hprompt_cpt.course import Course
from longspan.systems.hprompt_cpt.learner import Learner
from longspan.systems.hprompt_cpt.prompted import PromptedModel
from longspan.systems.hprompt_cpt.tuning import (
    Classifier,
    Score,
    score_classifier,
    score_language,
    tune_classifier,
    tune_language,
)
from longspan.systems.hprompt_cpt.windows import Windows


class CellScorer:
    """Tunes and tests the models of one course; the model of a stage is read once."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self._read: tuple[int, Learner] | None = None

    def cell(self, stage: int, domain: str) -> Score:
        """The score of the model after `stage` on `domain`. Row 0 is the initial model as it is, without prompts."""
        ground, settings = self.course.ground, self.course.ground.config.finetune
        known, learner = ground.domains[domain], self.learner(stage)
        if known.train is not None:
            tuned = tune_classifier(learner, known, settings, self.course.seed, ground.device)
            return self.score(tuned, domain)
        assert known.held_out is not None
        tune_language(learner, self.course.windows(domain), settings, self.course.seed, ground.device)
        own = self.course.windows(domain)
        held_out = Windows(own.name, known.held_out, own.length, 0, own.masker)  # one seed: the same test for all
        return score_language(learner, held_out, ground.device)

    def score(self, tuned: Classifier, domain: str) -> Score:
        """The score of a tuned model on the test samples of `domain`."""
        ground = self.course.ground
        return score_classifier(tuned, ground.domains[domain], ground.config.finetune.max_test, ground.device)

    def learner(self, stage: int) -> Learner:
        """A copy of the model after `stage` that may be tuned."""
        if self._read is None or self._read[0] != stage:
            initial = self.course.ground.load_initial(self.course.seed)
            causal = self.course.ground.config.model.causal
            read = (
                self.course.learner(stage, initial) if stage else Learner(PromptedModel(initial), None, causal=causal)
            )
            self._read = stage, read
        return copy.deepcopy(self._read[1]).to(self.course.ground.device)


def cell_records(course: Course, stage: int, domain: str, score: Score) -> list[Record]:
    """Accuracy with its Wilson interval, and macro-F1 where there are classes."""
    low, high = wilson(score.right, score.n)
    name = course.ground.config.name
    records = [
        course.record(TASK, "accuracy", score.right / score.n, stage, domain=domain, n=score.n, low=low, high=high)
    ]
    if score.macro_f1 is not None:
        records.append(course.record(TASK, "macro_f1", score.macro_f1, stage, domain=domain, n=score.n))
    # row 0 is the same for all arms and orders
    return records if stage else [replace(record, run=name, model=INITIAL) for record in records]
