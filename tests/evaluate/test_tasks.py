"""What holds for every task of prompts: lengths to the token, known models get the scores they must, settings count."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from longspan.data.tokenizer import train_tokenizer
from longspan.errors import ConfigError, LengthError
from longspan.evaluate.frame import Frame
from longspan.evaluate.known_models import known_model
from longspan.evaluate.runner import frame_of, measure_samples, outcomes, places_of
from longspan.evaluate.task import Bench, Place, Sample, SampleTask
from longspan.evaluate.tasks import all_tasks, expand, task_groups
from longspan.evaluate.words import paragraph

PROMPTS = [name for name, task in all_tasks().items() if isinstance(task, SampleTask) and not task.needs_data]
RULER = 13
LENGTH = 1900


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    import numpy as np

    prose = [paragraph(np.random.default_rng(number)) for number in range(200)]
    return train_tokenizer(prose, 600, tmp_path_factory.mktemp("tokenizer") / "bpe")


def bench_of(tokenizer: PreTrainedTokenizerFast, **settings: object) -> Bench:
    return Bench(model=None, tokenizer=tokenizer, **{"lengths": [LENGTH], "trials": 2, "depths": 3, **settings})


def samples_of(name: str, bench: Bench, length: int = LENGTH) -> list[Sample]:
    task, frame = all_tasks()[name], frame_of(bench, name)
    return [task.sample(frame, place) for place in places_of(task, bench, length)]


def told(name: str, bench: Bench, **settings: object) -> Bench:
    """`bench` with a model that knows the answers; `samples=[]` makes it blind."""
    samples = settings.pop("samples", samples_of(name, bench))
    vocab_size, tokenizer = len(bench.tokenizer), bench.tokenizer
    model = known_model(samples, vocab_size, bos=tokenizer.bos_token_id, end=tokenizer.eos_token_id, **settings)
    return replace(bench, model=model)


def test_the_group_ruler_has_its_thirteen_tasks() -> None:
    assert len(task_groups()["ruler"]) == RULER
    assert set(expand(["ruler", "passkey", "qa_1"])) == {*task_groups()["ruler"], "passkey"}
    with pytest.raises(ConfigError, match="unknown task 'rouler'"):
        expand(["rouler"])


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_exact_to_the_token_and_say_what_is_asked(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    bench = bench_of(tokenizer)
    for sample in samples_of(name, bench) + samples_of(name, bench, LENGTH + 313):
        assert sample.length in (LENGTH, LENGTH + 313)
        assert sample.prompt_ids[0] == tokenizer.bos_token_id
        assert sample.prompt_ids.count(tokenizer.bos_token_id) == 1
        answer = tokenizer.decode(sample.answer_ids)
        assert all(reference in answer for reference in sample.references)
        assert 0 < sample.distance < len(sample.prompt_ids)
        task = all_tasks()[name]
        assert task.score(answer, sample) == 1.0
        assert task.score("", sample) == 0.0


@pytest.mark.parametrize("name", PROMPTS)
def test_the_same_place_gives_the_same_prompt_and_another_seed_another(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    task = all_tasks()[name]
    place = Place(3, LENGTH, 0.5 if task.has_depth else None, 1)
    first, again = (task.sample(Frame(tokenizer, name), place) for _ in range(2))
    assert first == again
    others = [replace(place, seed=4), replace(place, trial=2)]
    assert all(task.sample(Frame(tokenizer, name), other).prompt_ids != first.prompt_ids for other in others)


@pytest.mark.parametrize("name", PROMPTS)
def test_an_oracle_scores_one_and_a_blind_model_chance(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    task, bench = all_tasks()[name], bench_of(tokenizer, depths=1, trials=1)
    oracle = measure_samples(task, told(name, bench), name)
    assert {record.value for record in oracle if record.metric == task.metric} == {1.0}
    assert all(record.value < 0.01 for record in oracle if record.metric == "nll")
    places = places_of(task, bench, LENGTH)
    (blind,) = outcomes(task, told(name, bench, samples=[]), frame_of(bench, name), places)
    assert blind.score == 0.0
    # uniform over the vocabulary for every token of the answer
    tokens = len(blind.sample.answer_ids) / task.nll_units(blind.sample)
    assert blind.nll == pytest.approx(tokens * math.log(len(tokenizer)))


@pytest.mark.parametrize("name", PROMPTS)
def test_a_model_with_a_window_fails_exactly_beyond_it(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    task, bench = all_tasks()[name], bench_of(tokenizer, depths=3, trials=1)
    distances = sorted(sample.distance for sample in samples_of(name, bench))
    window = distances[len(distances) // 2]
    seeing = told(name, bench, window=window)
    found = outcomes(task, seeing, frame_of(bench, name), places_of(task, bench, LENGTH))
    assert [outcome.score for outcome in found] == [outcome.sample.distance <= window for outcome in found]
    narrower = told(name, bench, window=window - 1)
    found = outcomes(task, narrower, frame_of(bench, name), places_of(task, bench, LENGTH))
    assert [outcome.score for outcome in found] == [outcome.sample.distance < window for outcome in found]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_length_too_short_says_how_much_it_takes_and_that_much_is_enough(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    task, place = all_tasks()[name], Place(0, 4, 0.5, 0)
    with pytest.raises(LengthError, match="takes at least") as refused:
        task.sample(Frame(tokenizer, name), place)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    with pytest.raises(LengthError, match="takes at least"):
        task.sample(Frame(tokenizer, name), replace(place, length=least // 2))
    assert task.sample(Frame(tokenizer, name), replace(place, length=2 * least)).length == 2 * least
