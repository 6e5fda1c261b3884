"""The demo: the main job in minutes, on text that every Python has, the standard library's own source."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Any, Literal

from longspan.errors import DataError
from longspan.files import replacing_folder
from longspan.records import read_records
from longspan.study.config import StudyConfig
from longspan.study.run import RECORDS_FILE, REPORT_FILE, compare
from longspan.study.summary import summary_table

Device = Literal["auto", "cpu", "cuda"]

TRAIN_LENGTH = 128
LENGTHS = [128, 256, 512, 1024, 2048, 4096]

LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "pydoc_data", "encodings", "site-packages", "dist-packages"}
)
"""Folders of the library that are tests, tables, or not there everywhere."""

LONG_BYTES = 40_000
"""A file of this size has more tokens than the longest window."""
HELD_OUT_EVERY = 4
"""Every fourth of the long files is kept from training."""


def run(out: Path | str, *, jobs: int = 2, quiet: bool = False, seed: int = 0, device: Device = "auto") -> Path:
    """Train small models with RoPE and with CoCA, extend them, measure them out to 32 x their window, and report.

    Prints one table; `out` gets what `compare` writes, the page `report.html` among it. Called again after a stop it
    goes on from there.

    Args:
        jobs: arms run at the same time, each in a process of its own.
        quiet: no bar and no table.
        seed: initial weights and data order follow from it.
        device: where to compute.

    Returns:
        The report's path.

    Raises:
        DataError: this Python comes without the source of its library.
        LongspanError, KeyboardInterrupt: as `compare`.
    """
    out = Path(out)
    copy_library(out / "text")
    study = demo_study(out, seed=seed, device=device)
    compare(study, out, jobs=jobs, progress=not quiet)
    if not quiet:
        print(summary_table(study, read_records(out / RECORDS_FILE)))
        print(f"\nReport: {out / REPORT_FILE}")
    return out / REPORT_FILE


def demo_study(out: Path, *, seed: int = 0, device: Device = "auto") -> StudyConfig:
    """The demo's settings; its text lies in `out`/text.

    The base is that which gives a window of 128 the share of unfinished turns that LLaMA's has, and YaRN's beta_fast
    leaves the same share of pairs alone.
    """
    values: dict[str, Any] = {
        "name": "demo",
        "seeds": [seed],
        "run": {
            "device": device,
            "model": {"family": "llama", "size": "1m", "base": 121.0},
            "train_length": TRAIN_LENGTH,
            "data": {
                "text": str(out / "text" / "train"),
                "vocab_size": 1024,
                "mixture": {"text": 0.25, "passkey": 0.75, "template_filler": 0.6},
            },
            "optimizer": {"learning_rate": 3e-3, "warmup": 0.05},
            "tokens": 1_900_000,
            "batch_tokens": 2048,
            "save_every": 100,
            "log_every": 10,
        },
        "arms": {"rope": {"methods": "rope"}, "coca": {"methods": "coca"}},
        "extensions": ["none", "pi", "ntk", "dynamic_ntk", "yarn(beta_fast=6.1)"],
        "lengths": LENGTHS,
        "evaluate": {
            "text": str(out / "text" / "held-out"),
            "perplexity": {"documents": 6, "max_targets": 256},
            "position": {"documents": 2},
            "passkey": {"depths": 5, "trials": {128: 10, 256: 8, 1024: 4, 2048: 2, 4096: 1}},
        },
    }
    return StudyConfig.parse(values, "demo")


def copy_library(folder: Path) -> None:
    """Copy the library's source to `folder`/train and `folder`/held-out, split by file, unless it is there.

    Raises:
        DataError: this Python comes without it.
    """
    if folder.is_dir():
        return
    library = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(library.rglob("*.py")) if not LEFT_OUT & set(path.relative_to(library).parts)]
    texts = {path: text for path in files if (text := _text_of(path)) is not None}
    long = [path for path, text in texts.items() if len(text) >= LONG_BYTES]
    if len(long) < 2 * HELD_OUT_EVERY:
        raise DataError(f"{library} has no source of the standard library: run the demo with another Python")
    held_out = set(long[::HELD_OUT_EVERY])
    with replacing_folder(folder) as part:
        for path in texts:
            target = part / ("held-out" if path in held_out else "train") / path.relative_to(library)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _text_of(path: Path) -> bytes | None:
    """The bytes of a source file, or None if it is not UTF-8 or not ours to read."""
    try:
        data = path.read_bytes()
        data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return data
