"""Question answering over planted facts: short lives of made-up people, one or two of which hold the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from longspan.evaluate import answers, words
from longspan.evaluate.task import Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame

_FIRST = """
    Ada Alma Anton Arne Astrid Bela Berta Boris Carla Clara Cyril Dario Dora Edgar Edith Elias Elsa Emil Enid
    Felix Flora Franz Frida Georg Gerda Greta Hanna Hector Hedda Hugo Ida Igor Ines Ingrid Ivo Jonas Judith
    Jules Karin Klaus Lars Lena Leo Linus Livia Lotte Lucia Magda Marta Matteo Mina Mira Nora Olaf Olga Oskar
    Paula Pavel Petra Rasmus Rita Ruben Selma Signe Silas Sonja Stefan Tessa Theo Tilda Ulla Viktor Vera Wanda
    Willem Xenia Yara Zelda
"""
_LAST = """
    Abrams Ahlberg Albers Arden Baxter Belling Birk Bloom Brandt Brook Calder Carver Corbin Dahl Dane Decker
    Dorn Ekman Elder Fabian Falk Farley Finch Fletcher Gale Garner Graff Hale Halvorsen Harker Hartman Holm
    Hooper Horn Ibsen Jansen Jarvis Keller Kimball Kramer Lambert Larkin Lind Lowell Marlow Mercer Merrick
    Moller Nash Nielsen Norling Oakes Olsen Palmer Penrose Pike Quist Radley Ramsey Reeves Ritter Rowan Sander
    Selby Shaw Stroud Sutter Talbot Tanner Thorne Tolman Ullman Vance Vogel Wallin Warner Weller Winter Yates
    Zander
"""
_TOWN_HEADS = """
    Alder Ash Birch Brack Cliff Dun East Elm Fair Fern Glen Grim Hart Hazel High Kings Lang Marsh
"""
_TOWN_TAILS = """
    bridge brook bury dale fell field ford gate ham haven hurst ley mere mouth port stead ton wick
"""
FIRST, LAST = tuple(_FIRST.split()), tuple(_LAST.split())
TOWNS = tuple(head + tail for head in _TOWN_HEADS.split() for tail in _TOWN_TAILS.split())
_ANSWERS = frozenset(town.lower() for town in TOWNS)
INSTRUCTION = "Read the following notes about some people. A question about them comes at the end."


@dataclass(frozen=True, slots=True)
class QuestionAnswering(SampleTask):
    """Answer a question on one of many short notes about made-up people.

    Every note tells where a person was born and who taught that person. With one hop the question is where someone was
    born; with two, where the teacher of someone was born, so that two notes are needed. Depth is the place of the note
    with the town; the other stands anywhere. Right if the first town that the answer names is the one asked for.
    Source: the question answering of RULER (Hsieh et al. 2024) over SQuAD and HotpotQA, here with facts that no model
    has learned.
    """

    hops: int = 1
    """Notes that the answer takes: 1 or 2."""

    def sample(self, frame: Frame, place: Place) -> Sample:
        rng = place.rng()
        names = _names(rng)
        town, *other_towns = (TOWNS[number] for number in rng.permutation(len(TOWNS)))
        person, pupil = names[0], names[1]
        question, lead = self._asked(person, pupil)
        notes = [frame.line(_note(rng, person, town, names[2]))]
        if self.hops == 2:
            notes.append(frame.line(_note(rng, pupil, other_towns[0], person)))
        needed = len(notes)
        slot = frame.slot(place.length, INSTRUCTION, question, lead, town, least=sum(map(len, notes)))
        spare = slot.count - sum(map(len, notes))
        for number in range(2, len(names) - 1):
            told = _note(rng, names[number], other_towns[number % len(other_towns)], names[number + 1])
            line = frame.line(told)
            if len(line) > spare:
                break
            notes.append(line)
            spare -= len(line)
        others = notes[needed:]
        spots = [round((0.5 if place.depth is None else place.depth) * len(others))]
        spots += [int(rng.integers(len(others) + 1)) for _ in notes[1:needed]]
        padding = frame.text(spare, place.shared_rng()) if spare > 200 else frame.noise(spare)
        ends = np.cumsum([len(padding), *map(len, others)]).tolist()
        hay = padding + [token for line in others for token in line]
        context, starts = frame.insert(hay, notes[:needed], [ends[spot] for spot in spots])
        return frame.finish(slot, context, (town,), min(starts))

    def _asked(self, person: str, pupil: str) -> tuple[str, str]:
        whose = person if self.hops == 1 else f"the teacher of {pupil}"
        return f"In which town was {whose} born?", f"{whose[0].upper()}{whose[1:]} was born in"

    def score(self, answer: str, sample: Sample) -> float:
        return answers.recall(answer, sample.references, answers.WORD, _ANSWERS)

    def settled(self, answer: str, sample: Sample) -> float | None:
        return answers.settled_recall(answer, sample.references, answers.WORD, _ANSWERS)


def _names(rng: np.random.Generator) -> list[str]:
    """All names in a random order."""
    return [f"{FIRST[n // len(LAST)]} {LAST[n % len(LAST)]}" for n in rng.permutation(len(FIRST) * len(LAST))]


def _note(rng: np.random.Generator, name: str, town: str, teacher: str) -> str:
    return f"{name} was born in {town} and was taught by {teacher}. {words.sentence(rng)}"


PRESETS = {"qa_1": QuestionAnswering(), "qa_2": QuestionAnswering(hops=2)}
GROUPS = {"ruler": tuple(PRESETS)}
