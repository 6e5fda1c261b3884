"""`python tests/surgery/family_page.py`: run every family with every method, and write what passed to docs/families.md.

A process of its own, since the whole matrix takes minutes; `test_family_page.py` looks at what it wrote.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "families.md"
HEAD = """\
# Families

Written by `python tests/surgery/family_page.py`, which ran what it says; edit that. The families, as transformers names
them in `model_type`, are rows of `longspan/surgery/families.py`; any other is refused by name, with the reason.

{families}

What is particular:

- **Local and global layers** (Gemma 3): each kind has rope parameters of its own. Methods that change frequencies or
  the temperature act on the global layers alone, since local ones never see beyond their sliding window; features and
  biases act on all, in the local ones over the base of those. Where all layers share one rotary module (Gemma 2,
  Mistral, Qwen2 with a window, Phi-3), frequencies change in all of them, as transformers itself does it.
- **Sliding windows** stay what they were: a method changes how far a model reads, never what a layer may see.
- **Part of a head turns** (GPT-NeoX, StableLM, GPT-J): features act on that part, the rest stays a plain product; a
  temperature acts on the whole logit.
- **Soft-capped attention logits** (Gemma 2): eager attention only, as transformers has it.
- **GPT-J** has no rotary module and no choice of attention function: its forward is written anew, eager only, and its
  layers make their rotation each for itself.
- **Experts** (Mixtral, Qwen3-MoE): which experts a token takes may change with the smallest difference before them.

## Family x method

How many of the claims below were tested on a tiny random model of the family with the method, and hold.

{table}

"""


class Collected:
    """A pytest plugin that keeps the outcome of each test of a family with a method."""

    def __init__(self) -> None:
        self.pairs: dict[str, tuple[str, str, str]] = {}
        self.outcomes: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep of each test what it is about."""
        for item in session.items:
            values = getattr(item, "callspec", None) and item.callspec.params
            methods = values and values.get("methods", values.get("methods_text"))
            if methods and "family" in values:
                self.pairs[item.nodeid] = values["family"], methods, item.originalname

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep how it went; an error on the way to a test or after it counts as a failure."""
        if report.nodeid in self.pairs and (report.when == "call" or not report.passed):
            family, methods, claim = self.pairs[report.nodeid]
            self.outcomes[family, methods][claim] = report.outcome


def run() -> dict[tuple[str, str], dict[str, str]]:
    """Outcomes by claim of each family and method: passed, failed or skipped."""
    collected = Collected()
    here = Path(__file__).parent
    ignored = f"--ignore={here / 'test_family_page.py'}"  # which reads the page that is about to be written
    settings = ["-q", "--no-header", "-m", "not gpu", "-p", "no:cacheprovider", ignored]
    status = pytest.main([*settings, str(here)], plugins=[collected])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(int(status))
    return collected.outcomes


def page(outcomes: dict[tuple[str, str], dict[str, str]]) -> str:
    """The page as text."""
    from conftest import FAMILIES
    from surgery_methods import METHODS

    def cell(family: str, methods: str) -> str:
        found = list(outcomes.get((family, methods), {}).values())
        passed, failed = found.count("passed"), found.count("failed")
        return f"{passed}, {failed} failed" if failed else str(passed) if passed else "-"

    rows = [[f"`{methods}`", *(cell(family, methods) for family in FAMILIES)] for methods in METHODS]
    claims = sorted({claim for (_, methods), found in outcomes.items() if methods in METHODS for claim in found})
    listed = "".join(f"- {claim.removeprefix('test_').replace('_', ' ')}\n" for claim in claims)
    return HEAD.format(families=families(), table=table([["method", *FAMILIES], *rows])) + listed


def families() -> str:
    """What longspan knows of each family, as a table."""
    from conftest import make_model
    from longspan.surgery.families import FAMILIES, sites_of

    rows = [["family", "model", "q and k before RoPE", "pairs", "base"]]
    for name, family in FAMILIES.items():
        model = make_model(name)
        sites = next(sites_of(module) for module in model.modules() if isinstance(module, family.attention_class))
        pairs = "(i, i + R/2)" if family.layout == "half" else "(2i, 2i + 1)"
        where = ", ".join(f"`{site}`" for site in dict.fromkeys(sites))
        base = "one for each kind of layer" if family.nested else "rope_theta"
        base = base if family.base is None else f"{family.base:g}, in the code"
        rows.append([f"`{name}`", family.model_class.__name__, where, pairs, base])
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """Rows, the first of which is the head, as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "tests"))
    PAGE.write_text(page(run()), encoding="utf-8")
