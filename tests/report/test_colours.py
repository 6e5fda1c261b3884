"""The palette keeps lines apart for readers who see no red, no green or no blue, on both grounds."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from longspan.report import charts

# Machado, Oliveira and Fernandes 2009, severity 1, for linear sRGB
SIGHT = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# Ottosson 2020, linear sRGB to Oklab
TO_LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]
LEAST_DISTANCE = 0.05
"""In Oklab; 0.02 can be told side by side, and dashes, rings and names tell lines apart as well."""
LEAST_CONTRAST = 3.0
"""WCAG 2.2, graphical objects."""


def palettes() -> dict[str, tuple[str, list[str]]]:
    style = (Path(charts.__file__).with_name("chart.css")).read_text(encoding="utf-8")
    light, dark = style.split("@media", 1)
    found = {}
    for name, text in (("light", light), ("dark", dark)):
        lines = [re.search(rf"--c{number}: (#\w+)", text) for number in range(charts.COLORS)]
        paper = re.search(r"--paper: (#\w+)", text)
        assert paper is not None
        found[name] = (paper[1], [match[1] for match in lines if match is not None])
    return found


def linear(color: str) -> NDArray[np.float64]:
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(color: str) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ linear(color))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHT)
def test_no_two_colours_of_lines_look_alike(scheme: str, sight: str) -> None:
    _, colors = palettes()[scheme]
    assert len(colors) == charts.COLORS
    seen = [np.clip(np.array(SIGHT[sight]) @ linear(color), 0, 1) for color in colors]
    labs = [np.array(TO_LAB) @ np.cbrt(np.array(TO_LMS) @ color) for color in seen]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(labs, 2)) > LEAST_DISTANCE


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_line_stands_out_from_its_ground(scheme: str) -> None:
    paper, colors = palettes()[scheme]
    for color in colors:
        bright, dim = sorted((luminance(color), luminance(paper)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= LEAST_CONTRAST
