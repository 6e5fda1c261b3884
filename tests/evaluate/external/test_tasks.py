"""Tasks that read files: what reaches the model, what a known model scores, and what is cut or left out."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from longspan.errors import DataError, LengthError
from longspan.evaluate.external.suite import FileTask, choose
from longspan.evaluate.task import Bench
from longspan.evaluate.tasks import find_task

Rows = Callable[..., Path]
Benches = Callable[..., Bench]
Oracle = Callable[..., PreTrainedModel]


def file_task(name: str) -> FileTask:
    task = find_task(name)
    assert isinstance(task, FileTask)
    return task


def by_metric(task: FileTask, bench: Bench, name: str) -> dict[tuple[str, int | None, float | None], Any]:
    return {(found.metric, found.length, found.depth): found for found in task.measure(bench, name)}


def key_values(count: int) -> dict[str, Any]:
    records = [[f"key-{number}", f"value-{number}"] for number in range(count)]
    return {"ordered_kv_records": records, "key": "key-1", "value": "value-1"}


def test_the_pair_asked_for_is_moved_to_each_depth(rows: Rows, bench: Benches) -> None:
    rows("kv-retrieval-3_keys.jsonl", [key_values(3)])
    task = file_task("key_values")
    prompts = [choose(task, bench(1000), "kv", 1000, depth)[0].parsed[0].prompt for depth in (0, 0.5, 1)]
    for prompt, order in zip(prompts, ("102", "012", "021"), strict=True):
        assert prompt == (
            "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{"
            + ",\n ".join(f'"key-{n}": "value-{n}"' for n in order)
            + '}\n\nKey: "key-1"\nCorresponding value:'
        )


def test_the_greatest_file_that_fits_is_read_and_an_oracle_finds_the_key(
    rows: Rows, bench: Benches, oracle: Oracle
) -> None:
    for count in (2, 4, 30):
        rows(f"kv-retrieval-{count}_keys.jsonl", [key_values(count)])
    task = file_task("key_values")
    # 138 letters around the records, 24 each with what parts them, 100 for the answer and BOS
    assert choose(task, bench(350), "kv", 350, None)[0].path.name == "kv-retrieval-4_keys.jsonl"
    two = dataclasses.replace(bench(350), depths=2)
    seeing = dataclasses.replace(two, model=oracle(task, two, (0.0, 1.0)))
    found = by_metric(task, seeing, "kv")
    assert [found["accuracy", 350, depth].value for depth in (0.0, 1.0)] == [1.0, 1.0]
    # a model that sees the last 80 tokens has the pair at the end in them, and not the one at the beginning
    near = dataclasses.replace(two, model=oracle(task, two, (0.0, 1.0), window=80))
    found = by_metric(task, near, "kv")
    assert [found["accuracy", 350, depth].value for depth in (0.0, 1.0)] == [0.0, 1.0]


def test_a_blind_model_scores_nothing_and_its_loss_is_that_of_chance(
    rows: Rows, bench: Benches, letters: PreTrainedTokenizerFast
) -> None:
    rows("10_topics.jsonl", [{"prompt": "What was first?", "topics": ["The art of war", "x"]}])
    found = by_metric(file_task("longeval_topics"), bench(200), "longeval_topics")
    assert found["accuracy", 200, None].value == 0.0
    assert found["nll", 200, None].value == pytest.approx(math.log(len(letters)), rel=1e-6)


def test_lines_know_how_far_away_the_right_one_is(rows: Rows, bench: Benches) -> None:
    line = "line a: REGISTER_CONTENT is <12>\n"
    rows("1_lines.jsonl", [{"prompt": f"Read.\n{line}Which?", "correct_line": line, "expected_number": 12}])
    sample = choose(file_task("longeval_lines"), bench(300), "lines", 300, None)[1].samples[0]
    assert sample.distance == len(line) + len("Which?")


def longbench(**row: Any) -> dict[str, Any]:
    return {"context": "", "input": "Who?", "answers": ["the cat"], "all_classes": None, **row}


def test_a_long_prompt_loses_its_middle_and_the_records_say_so(
    rows: Rows, bench: Benches, letters: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    rows("hotpotqa.jsonl", [longbench(), longbench(context="x" * 100 + "y" * 100)])
    (tmp_path / "dataset2prompt.json").write_text(json.dumps({"hotpotqa": "Read {context}! {input}"}))
    task = file_task("longbench_hotpotqa")
    with caplog.at_level(logging.WARNING):
        _, fitted = choose(task, bench(92), "longbench_hotpotqa", 92, None)
    # 92 tokens less 32 of an answer: BOS and 29 letters from the start, 30 from the end
    whole = f"Read {'x' * 100}{'y' * 100}! Who?"
    assert fitted.samples[1].prompt_ids[0] == 0
    assert letters.decode(fitted.samples[1].prompt_ids[1:]) == whole[:29] + whole[-30:]
    assert letters.decode(fitted.samples[0].prompt_ids[1:]) == "Read ! Who?"
    assert "of 2 samples, those that are longer: 1 cut in the middle" in caplog.text
    found = by_metric(task, bench(92), "longbench_hotpotqa")
    assert [(found[metric, 92, None].value, found[metric, 92, None].n) for metric in ("cut", "left_out")] == [
        (1, 2),
        (0, 2),
    ]


def test_overlong_samples_are_left_out_when_asked(rows: Rows, bench: Benches) -> None:
    rows("MiniLongBench_lcc.jsonl", [])
    path = rows("lcc.jsonl", [{"origin_prompt": "a" * n, "gold": ["x = 1"]} for n in (5, 500)])
    assert path.exists()
    task = file_task("longbench_lcc")
    pytest.importorskip("rapidfuzz")
    found = by_metric(task, bench(100, overlong="leave-out"), "longbench_lcc")
    assert (found["left_out", 100, None].value, found["left_out", 100, None].n) == (1, 2)
    assert found["edit_similarity", 100, None].n == 1
    with pytest.raises(LengthError, match=r"no sample of lcc\.jsonl fits 64 tokens"):
        choose(task, bench(64, overlong="leave-out"), "longbench_lcc", 64, None)


def test_what_is_done_with_overlong_samples_is_told_by_set_and_asked_of_those_that_read_it(
    rows: Rows, bench: Benches
) -> None:
    rows("lambada_test.jsonl", [{"text": "a b c"}])
    rows("lcc.jsonl", [{"origin_prompt": "a", "gold": ["x"]}])
    pytest.importorskip("rapidfuzz")
    told = [file_task(name).settings(bench(100, overlong="cut"), name) for name in ("lambada", "longbench_lcc")]
    assert told[0]["lambada overlong"] == "leave-out"
    assert told[1]["longbench_lcc overlong"] == "cut"
    assert all(told[0][key] == told[1][key] for key in told[0].keys() & told[1].keys())


def test_an_official_row_without_its_templates_is_one_line(rows: Rows, bench: Benches) -> None:
    rows("qasper.jsonl", [longbench()])
    with pytest.raises(DataError, match=r"put dataset2prompt\.json"):
        choose(file_task("longbench_qasper"), bench(500), "q", 500, None)


def test_the_first_line_of_an_answer_is_classified(rows: Rows, bench: Benches) -> None:
    gold = {"answers": ["Date"], "all_classes": ["Date", "Person"]}
    rows("trec.jsonl", [{"origin_prompt": "When?", "gold": gold}])
    task = file_task("longbench_trec")
    question = choose(task, bench(500), "trec", 500, None)[0].parsed[0]
    assert task.score_by("\nDate\nPerson", question) == 1.0
    assert task.score_by("Date Person", question) == 0.5


def test_every_question_of_a_document_is_a_sample(rows: Rows, bench: Benches, oracle: Oracle) -> None:
    row = {"input": "Text.", "instructions": ["Q1", "Q2"], "outputs": ["B", "AC"], "evaluation": "exam"}
    rows("coursera.jsonl", [row, {**row, "evaluation": "human"}])
    task = file_task("leval_coursera")
    found = by_metric(task, bench(200, model=oracle(task, bench(200))), "leval_coursera")
    assert (found["accuracy", 200, None].value, found["accuracy", 200, None].n) == (1.0, 2)


def test_pairs_written_as_python_are_read_and_nothing_in_them_is_run(rows: Rows, bench: Benches) -> None:
    pairs = [{"Q": "Who is <mask-0>?", "A": {"<mask-0>": "Bob"}}]
    bad = {"input": "T", "qa_pairs": "[__import__('os').getcwd()]", "output": "None"}
    rows("shortdep_cloze.jsonl", [{"input": "Text", "qa_pairs": str(pairs), "output": "None"}, bad])
    parts, _ = choose(file_task("loogle_shortdep_cloze"), bench(1000), "cloze", 1000, None)
    assert (len(parts.parsed), parts.malformed) == (1, 1)
    assert file_task("loogle_shortdep_cloze").score_by("{'<mask-0>': 'Bob'}", parts.parsed[0]) == 1.0


def test_the_last_word_is_what_lambada_asks_for(rows: Rows, bench: Benches, oracle: Oracle) -> None:
    rows("lambada_test.jsonl", [{"text": "in the end it was red"}, {"text": "I went home "}, {"text": "one"}])
    task = file_task("lambada")
    parts, fitted = choose(task, bench(50), "lambada", 50, None)
    assert [question.references for question in parts.parsed] == [("red",), ("home",)]
    assert parts.malformed == 1
    assert [len(sample.answer_ids) for sample in fitted.samples] == [len(" red"), len(" home")]
    found = by_metric(task, bench(50, model=oracle(task, bench(50))), "lambada")
    assert found["accuracy", 50, None].value == 1.0
    assert found["accuracy", 50, None].n == 2


def test_the_likeliest_ending_is_chosen(rows: Rows, bench: Benches, letters: PreTrainedTokenizerFast) -> None:
    from longspan.evaluate.known_models import known_model

    endings = ["a cat sat there", "dog"]
    rows("multiple_choice.jsonl", [{"context": "Then", "choices": endings, "answer": place} for place in (0, 1)])
    task = file_task("multiple_choice")
    samples = choose(task, bench(60), "mc", 60, None)[1].samples
    knows = known_model(samples[:1], len(letters), bos=0, end=1)  # the first ending, whichever is right
    found = by_metric(task, bench(60, model=knows), "multiple_choice")
    assert (found["accuracy", 60, None].value, found["accuracy", 60, None].n) == (0.5, 2)
    # for a blind model every token costs the same, so the shorter ending has the smaller loss: right in one of two
    blind = by_metric(task, bench(60), "multiple_choice")["nll", 60, None].value
    assert blind == pytest.approx((len(" dog") + len(" a cat sat there")) / 2 * math.log(len(letters)))


def test_articles_of_wikitext_are_documents_and_every_token_is_scored(
    bench: Benches, letters: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "wiki.test.raw").write_text(" = One = \n\n" + "abc " * 30 + "\n = = Part = = \n = Two = \nshort\n")
    records = find_task("wikitext").measure(bench(32), "wikitext")
    assert {record.task for record in records} == {"wikitext"}
    settings = find_task("wikitext").settings(bench(32), "wikitext")
    assert settings["wikitext articles"] == "1 of 2"
    first = len(" = One = \n\n" + "abc " * 30 + "\n = = Part = = \n")
    perplexity = next(record for record in records if record.metric == "perplexity")
    assert (perplexity.value, perplexity.n) == (pytest.approx(len(letters), rel=1e-6), first)
