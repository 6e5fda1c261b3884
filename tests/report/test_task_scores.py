"""From prompts to the page: what two models score on the same prompts of a task is compared in pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from longspan.data.tokenizer import train_tokenizer
from longspan.evaluate.known_models import known_model
from longspan.evaluate.runner import frame_of, measure_samples, places_of
from longspan.evaluate.task import Bench, SampleTask
from longspan.evaluate.tasks import all_tasks
from longspan.evaluate.words import paragraph
from longspan.records import Record, append_records
from longspan.report import write_report
from longspan.report.figures import length_figures
from longspan.report.results import Results
from longspan.report.sources import read_sources
from longspan.scores import append_scores

LENGTH = 400


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A run of an oracle and a model with a window, and how many prompts of each task lie beyond that window."""
    folder = tmp_path_factory.mktemp("run")
    prose = [paragraph(np.random.default_rng(number)) for number in range(50)]
    tokenizer = train_tokenizer(prose, 600, folder / "tokenizer")
    beyond = {}
    for name in ("copying", "vt"):
        task = all_tasks()[name]
        assert isinstance(task, SampleTask)
        settings = {"lengths": [LENGTH], "trials": 3, "depths": 2}
        bench = Bench(model=None, tokenizer=tokenizer, **settings)  # type: ignore[arg-type]
        frame = frame_of(bench, name)
        samples = [task.sample(frame, place) for place in places_of(task, bench, LENGTH)]
        window = sorted(sample.distance or 0 for sample in samples)[2]
        beyond[name] = sum((sample.distance or 0) > window for sample in samples)
        for who, sees in (("oracle", None), ("window", window)):
            model = known_model(samples, len(tokenizer), bos=tokenizer.bos_token_id, end=2, window=sees)
            columns = {"run": "run", "model_name": who, "method": "rope", "train_length": 64, "done": ()}
            found = Bench(
                model=model,
                tokenizer=tokenizer,
                columns={**columns, "on_records": lambda rows: append_records(folder / "records.jsonl", rows)},
                on_scores=lambda rows: append_scores(folder / "scores.jsonl", rows),
                **settings,  # type: ignore[arg-type]
            )
            measure_samples(task, found, name)
    return folder, beyond


def test_shares_and_verdicts_of_the_same_prompts_are_compared_in_pairs(run: tuple[Path, dict[str, int]]) -> None:
    folder, beyond = run
    sources = read_sources([folder])
    oracle, window = sources.results.lines
    for name, metric in (("copying", "accuracy"), ("vt", "recall")):
        found = sources.pairs.difference(window, oracle, name, metric, LENGTH)
        assert found is not None
        assert (found.n, found.unit) == (6, "prompt")
        assert found.value == pytest.approx(-beyond[name] / 6)
    # a verdict is right or wrong, so that McNemar's test applies; a share is not
    verdicts = sources.pairs.difference(window, oracle, "copying", "accuracy", LENGTH)
    shares = sources.pairs.difference(window, oracle, "vt", "recall", LENGTH)
    assert verdicts is not None
    assert shares is not None
    # exact and two-sided: all of the discordant prompts fall on one side
    assert verdicts.p_value == pytest.approx(min(1.0, 2 * 0.5 ** beyond["copying"]))
    assert shares.p_value is None


def test_the_page_shows_the_difference(run: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    folder, beyond = run
    page = write_report([folder], tmp_path).read_text(encoding="utf-8")
    differences = page.partition("<h2>Paired differences</h2>")[2].partition("<h2>")[0]
    assert "vt: difference of recall" in differences
    assert "copying: difference of accuracy" in differences
    assert f"\N{MINUS SIGN}{beyond['vt'] / 6:.2f}" in differences


def test_what_context_is_worth_has_charts_of_its_own(make_record: Callable[..., Record]) -> None:
    place = {"task": "context_gain", "n": 100}
    records = [
        make_record(**place, metric=metric, length=length, value=value)
        for length, loss in ((128, 3.0), (512, 2.75))
        for metric, value in (("nll", loss), ("gain", 3.0 - loss))
    ]
    results = Results(records)
    charts = {figure.title: figure for figure in length_figures(results, set(results.lines))}
    assert list(charts) == ["Loss by visible context", "What further context is worth"]
    points = [(point.x, point.y) for point in charts["What further context is worth"].curves[0].points]
    assert points == [(128, 0.0), (512, 0.25)]
