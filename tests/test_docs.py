"""Every code block of README.md and docs/ does what it says.

Blocks of one page run in order, in one folder of their own, which holds `model/` (a tiny model of window 64 with its
tokenizer), `book.txt`, and links to the project's `results` and `examples`. Fences marked `python` share their names;
fences marked `bash` are commands (`longspan ...` runs in this process); a fence of any kind after
`<!-- file: NAME -->` is written to NAME; one after `<!-- not run: REASON -->` is left out.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from longspan.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>file|not run): (?P<value>.*?) -->\n+)?^```(?P<kind>\w*)[^\n]*\n(?P<code>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    kind: str
    code: str
    line: int
    file: str | None = None


def blocks(text: str) -> list[Block]:
    """What is to be run or written, in order."""
    found = []
    for match in _BLOCK.finditer(text):
        if match["mark"] == "not run":
            assert match["value"].strip(), "say why a block is not run"
            continue
        name = match["value"] if match["mark"] == "file" else None
        if name is not None or match["kind"] in {"python", "bash"}:
            found.append(Block(match["kind"], match["code"], text[: match.start("code")].count("\n") + 1, name))
    return found


def run_bash(code: str) -> None:
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in code.replace("\\\n", " ").splitlines()]
    commands = [line for line in lines if line]
    if all(re.fullmatch(r"longspan [^|&;<>$`]*", command) for command in commands):
        for command in commands:
            assert main(shlex.split(command)[1:]) == 0, command
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, env={**os.environ, "PATH": path})


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda page: page.name)
def test_every_code_block_of_the_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, book: Path
) -> None:
    found = blocks(page.read_text(encoding="utf-8"))
    if not found:
        return
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.copy(book, tmp_path / "book.txt")
    for name in ("results", "examples"):
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in found:
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.code, encoding="utf-8")
        elif block.kind == "bash":
            run_bash(block.code)
        else:
            padded = "\n" * (block.line - 1) + block.code  # a traceback then names the page's own line
            exec(compile(padded, str(page), "exec"), names)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        if not page.exists():
            continue
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_blocks_are_found_with_their_marks() -> None:
    text = "a\n```bash\nlongspan methods\n```\n<!-- not run: needs a GPU -->\n```python\n1 / 0\n```\n"
    text += "<!-- file: run.yaml -->\n```yaml\nname: x\n```\n```text\nno\n```\n"
    assert blocks(text) == [Block("bash", "longspan methods\n", 3), Block("yaml", "name: x\n", 11, "run.yaml")]
