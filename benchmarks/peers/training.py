"""`python -m benchmarks.peers.training --ruler FOLDER --tokenizer FOLDER --out FILE.jsonl`: prompts to learn from.

Prompts of both suites with their answers, as many of one as of the other, in rows of `text` that `longspan train`
reads: for a model that can answer either. The seed is to be another than that of the prompts that are measured.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from benchmarks.peers.ruler import opened
from benchmarks.peers.suites import NEEDLES, make
from longspan.files import write_text
from longspan.lengths import parse_length


def main() -> None:
    """Make the prompts and write them, shuffled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ruler", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--tasks", nargs="*", default=NEEDLES, choices=NEEDLES, metavar="TASK")
    parser.add_argument("--length", type=parse_length, default=512)
    parser.add_argument("--count", type=int, default=1000, help="prompts of a task and suite, a multiple of 10")
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    texts: list[str] = []
    with opened(told.ruler, told.tokenizer) as (ruler, tokenizer):
        for name in told.tasks:
            suites = make(ruler, tokenizer, name, told.length, 10, told.count // 10, told.seed)
            texts += [f"{prompt.text} {', '.join(prompt.references)}." for prompt in suites.theirs]
            ids = [[*sample.prompt_ids, *sample.answer_ids] for sample in suites.ours]
            texts += [str(tokenizer.decode(row, skip_special_tokens=True)) for row in ids]
            print(f"{name}: {len(texts)} prompts", flush=True)
    random.Random(told.seed).shuffle(texts)
    write_text(told.out, "".join(json.dumps({"text": text}) + "\n" for text in texts))


if __name__ == "__main__":
    main()
