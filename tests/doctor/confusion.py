"""Write docs/doctor.md: every check, and which of them find which planted fault.

Run it as `python tests/doctor/confusion.py`; it takes a few minutes, since it examines every healthy family x method.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "doctor.md"
sys.path[:0] = [path for path in (str(ROOT / "tests"),) if path not in sys.path]

import torch  # noqa: E402
from transformers.utils import logging  # noqa: E402

import longspan as ls  # noqa: E402
from conftest import FAMILIES, make_model  # noqa: E402
from doctor.faults import FAULTS, TARGET  # noqa: E402
from longspan.doctor.battery import questions  # noqa: E402
from surgery_methods import METHODS  # noqa: E402

HEAD = """# The doctor

    longspan doctor MODEL [--against MODEL]      # exit code 1 if a check fails; --json FILE for programs

```python
import longspan as ls
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("model")
ls.extend(model, "yarn", target_length=256)
report = ls.doctor(model)          # against=plain_model also compares their settings
print(report)                      # report.passed, report.failed, report["causality"].measured, report.to_json()
assert report.passed
```

It asks an extended model (by longspan, or by transformers' own rope types) whether the change is in effect and all else
is as it was. It needs no data: tokens are random, from a seed. What it compares with is not the code that it examines:
transformers' own formulas, the float64 equation, and the same weights in transformers' own model.

**Bounds.** Beside the model, which is neither copied nor changed: the activations of two rows of 24 tokens (and their
logits), the gradients of the attention weights of two layers, and on disk, in a temporary folder, the first two layers
with the embeddings. Long windows are reached by position, never by length: the probes stand across the original length
and out to the last position of the target. Logits are compared by the root mean square of their differences, in
standard deviations (sd) of their own: 1e-3 in float32, 0.05 in float16, 0.25 in bfloat16, and a hundredth of that where
even the order of sums is the same. A model of experts in low precision is better examined in float32
(`--dtype float32`). A check that does not apply says why.

This page is made by `python tests/doctor/confusion.py`.
"""


def main() -> None:
    """Examine everything and write the page."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    PAGE.write_text("\n".join([HEAD, *_checks(), *_healthy(), *_faults()]) + "\n", encoding="utf-8")


def _checks() -> list[str]:
    lines = ["## Checks", "", "| | check | asks | passes if | if it fails |", "| --: | :-- | :-- | :-- | :-- |"]
    for number, question in enumerate(questions(), start=1):
        lines.append(f"| {number} | `{question.name}` | {question.text} | {question.holds} | {question.advice} |")
    return [*lines, ""]


def _healthy() -> list[str]:
    passed: Counter[bool | None] = Counter()
    alarms = []
    for family in FAMILIES:
        for methods in METHODS:
            model = make_model(family)
            ls.extend(model, methods, target_length=TARGET)
            report = ls.doctor(model)
            passed.update(check.passed for check in report.checks)
            alarms += [f"{family} {methods}: {check.name}" for check in report.failed]
            _progress(f"{family} {methods}")
    models = len(FAMILIES) * len(METHODS)
    return [
        "## Healthy models",
        "",
        f"{len(FAMILIES)} families x {len(METHODS)} methods = {models} models ({', '.join(FAMILIES)}): "
        f"{len(alarms)} alarms in {sum(passed.values())} checks, of which {passed[None]} did not apply.",
        *[f"- {alarm}" for alarm in alarms],
        "",
    ]


def _faults() -> list[str]:
    names = [question.name for question in questions()]
    rows, found = [], 0
    for fault in FAULTS.values():
        with fault.planted() as (model, against):
            report = ls.doctor(model, against=against)
        failed = {check.name for check in report.failed}
        found += set(fault.caught_by) <= failed
        cells = ["●" if name in fault.caught_by and name in failed else "○" if name in failed else "" for name in names]
        rows.append("| " + " | ".join([f"`{fault.name}`", fault.text, fault.methods or "plain", *cells]) + " |")
        _progress(fault.name)
    numbers = [str(number) for number in range(1, len(names) + 1)]
    return [
        "## Planted faults",
        "",
        f"{found} of {len(FAULTS)} faults were found by the checks that are there for them (●; ○ failed too, as they "
        "should: a table that is wrong also gives other scores). The columns are the checks by their number.",
        "",
        "| fault | what goes wrong | planted in | " + " | ".join(numbers) + " |",
        "| :-- | :-- | :-- |" + " :-: |" * len(numbers),
        *rows,
    ]


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        print(what, file=sys.stderr)


def names_on_the_page(text: str) -> tuple[list[str], list[str]]:
    """The checks and the faults that the page lists, in its order."""
    checks = re.findall(r"^\| \d+ \| `(\w+)` \|", text, flags=re.MULTILINE)
    faults = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    return checks, faults


if __name__ == "__main__":
    main()
