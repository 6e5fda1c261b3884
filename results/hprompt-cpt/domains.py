"""Domains of the two studies here as .jsonl files, from data that the user has: `python domains.py SOURCE OUT`.

SOURCE holds `domain/` (SemEval-2014 and SemEval-2017 files, Hu and Liu's reviews, the classification sets of SciBERT)
and `books/train`. OUT gets a folder a domain with train.jsonl and test.jsonl, and base.jsonl, the text learned first.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

Row = dict[str, str | None]
TEST_EVERY = 5
"""Where a source has no test set, every fifth row is one."""
BOOKS, BOOK_CHARACTERS = 24, 400_000
POLARITY = {"-1": "negative", "0": "neutral", "1": "positive"}
REVIEWS = {
    "phone": ("product_reviews_1/Nokia_6610", "product_reviews_2/Nokia_6600"),
    "camera": (
        "product_reviews_1/Canon_G3",
        "product_reviews_1/Nikon_coolpix_4300",
        "product_reviews_2/Canon_PowerShot_SD500",
        "product_reviews_2/Canon_S100",
    ),
}
SCIENCE = {"acl": "citation_intent", "ai": "sciie-relation-extraction", "pubmed": "chemprot"}
TWEETS = {
    "tweets-2013": (("2013train",), ("2013test",)),
    "tweets-2014": (("2014test",), None),
    "tweets-2015": (("2015train", "2015test"), None),
    "tweets-2016": (("2016train",), ("2016devtest",)),
}


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def aspects(path: Path) -> Iterator[Row]:
    """SemEval-2014: the sentence with its aspect, the aspect once more, and the polarity."""
    found = lines(path)
    for sentence, aspect, polarity in zip(found[::3], found[1::3], found[2::3], strict=True):
        yield {"text": f"{sentence.replace('$T$', aspect)} : {aspect}", "label": POLARITY[polarity.strip()]}


def reviews(path: Path) -> Iterator[Row]:
    """Hu and Liu: a sentence is positive or negative if all its marks are; others are text only."""
    for line in lines(path):
        marks, separator, sentence = line.partition("##")
        if separator and sentence.strip():
            signs = set(re.findall(r"\[([+-])\d\]", marks))
            label = {"+": "positive", "-": "negative"}[signs.pop()] if len(signs) == 1 else None
            yield {"text": sentence.strip(), "label": label}


def science(path: Path) -> Iterator[Row]:
    for line in lines(path):
        row = json.loads(line)
        yield {"text": row["text"], "label": row["label"]}


def tweets(path: Path) -> Iterator[Row]:
    """SemEval-2017; older files hold escapes such as \\u2019."""
    for line in lines(path):
        _, label, text = line.split("\t")[:3]
        yield {"text": re.sub(r"\\u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), text), "label": label}


def split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Train and test of a source that has no test set; rows without a label stay in train."""
    labelled = [row for row in rows if row["label"] is not None]
    test = {id(row) for row in labelled[TEST_EVERY - 1 :: TEST_EVERY]}
    return [row for row in rows if id(row) not in test], [row for row in rows if id(row) in test]


def write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def domains(source: Path) -> Iterator[tuple[str, list[Row], list[Row]]]:
    """Name, train and test rows of every domain."""
    seeds = source / "semeval14"
    train, test = (list(aspects(seeds / f"Restaurants_{part}.xml.seg")) for part in ("Train", "Test_Gold"))
    yield "restaurant", train, test
    for name, folder in SCIENCE.items():
        place = source / "scibert_tasks" / "text_classification" / folder
        yield name, list(science(place / "train.txt")), list(science(place / "test.txt"))
    for name, files in REVIEWS.items():
        rows = [row for file in files for row in reviews(source / "product_reviews" / f"{file}.txt")]
        yield name, *split(rows)
    for name, (train_files, test_files) in TWEETS.items():
        place = source / "semeval17_tweets"
        rows = [row for file in train_files for row in tweets(place / f"twitter-{file}-A.tsv")]
        if test_files is None:
            yield name, *split(rows)
        else:
            yield name, rows, [row for file in test_files for row in tweets(place / f"twitter-{file}-A.tsv")]


def main(source: Path, out: Path) -> None:
    for name, train, test in domains(source / "domain"):
        write(out / name / "train.jsonl", train)
        write(out / name / "test.jsonl", test)
        counts = Counter(row["label"] for row in train)
        print(f"{name:12} train {len(train):5}  test {len(test):5}  {dict(counts)}")
    books = sorted((source / "books" / "train").glob("*.txt"))[:BOOKS]
    write(out / "base.jsonl", ({"text": book.read_text(encoding="utf-8")[:BOOK_CHARACTERS]} for book in books))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
