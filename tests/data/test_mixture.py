"""The training mixture: reproducible by index, right shares, right answers."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from longspan.data.mixture import Mixture, MixtureDataset
from longspan.data.tokens import TokenFile
from longspan.errors import DataError, LengthError

Make = Callable[..., MixtureDataset]

LENGTH = 320
MIXED = Mixture(text=0.4, passkey=0.3, repeat=0.3, most_keys=3)
ANSWERED = re.compile(r"The pass key is (\d{5})\. Remember it\. (\d{5}) is the pass key\.|\? The pass key is (\d{5})")


@pytest.fixture
def make(token_file: TokenFile, tokenizer: PreTrainedTokenizerFast) -> Make:
    def make(mixture: Mixture, *, seed: int = 0, size: int = 200, length: int = LENGTH) -> MixtureDataset:
        return MixtureDataset(token_file, tokenizer, length, mixture, seed, size)

    return make


def test_a_sample_depends_on_seed_and_index_only(make: Make) -> None:
    forwards = [make(MIXED)[index]["input_ids"] for index in range(20)]
    other = make(MIXED, size=1000)
    backwards = [other[index]["input_ids"] for index in reversed(range(20))]
    assert all(torch.equal(one, two) for one, two in zip(forwards, reversed(backwards), strict=True))
    assert not all(torch.equal(one, make(MIXED, seed=1)[index]["input_ids"]) for index, one in enumerate(forwards))


def test_samples_of_one_seed_differ(make: Make) -> None:
    dataset = make(MIXED)
    assert len({tuple(dataset[index]["input_ids"].tolist()) for index in range(200)}) == 200


def test_every_sample_is_a_whole_window_and_its_own_label(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = make(MIXED)
    assert len(dataset) == 200
    for index in range(200):
        sample = dataset[index]
        assert sample["input_ids"].shape == (LENGTH,)
        assert sample["input_ids"].dtype == torch.long
        assert torch.equal(sample["input_ids"], sample["labels"])
        assert sample["input_ids"][0] == tokenizer.bos_token_id
    with pytest.raises(IndexError):
        dataset[200]


def test_text_windows_are_stretches_of_the_token_file(make: Make, token_file: TokenFile) -> None:
    stream = "," + ",".join(map(str, token_file.tokens.tolist())) + ","
    dataset = make(Mixture())
    for index in range(20):
        window = dataset[index]["input_ids"][1:].tolist()
        assert "," + ",".join(map(str, window)) + "," in stream


def test_shares_are_kept(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = make(Mixture(text=0.75, passkey=0.25), size=2000)
    planted = sum("pass key" in tokenizer.decode(dataset[index]["input_ids"]) for index in range(2000))
    assert planted / 2000 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 2000) ** 0.5)


def test_every_question_is_answered_by_the_last_key_before_it(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = make(Mixture(text=0, passkey=1, most_keys=3))
    counts = set()
    for index in range(200):
        found = [match.groups() for match in ANSWERED.finditer(tokenizer.decode(dataset[index]["input_ids"]))]
        keys = [match[0] for match in found if match[0]]
        assert all(match[0] == match[1] for match in found if match[0])
        assert [match[2] for match in found if match[2]] == keys
        assert [bool(match[0]) for match in found] == [True, False] * len(keys)
        counts.add(len(keys))
    assert counts == {1, 2, 3} or counts == {1, 2}


def test_depths_of_single_keys_are_uniform(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = make(Mixture(text=0, passkey=1, template_filler=0), size=600)
    places = []
    for index in range(600):
        _, rest = tokenizer.decode(dataset[index]["input_ids"]).split("information there.\n")
        before, after = re.split(r"\nThe pass key is \d{5}\. .* is the pass key\.\n", rest)
        after = after.split("\nWhat is the pass key?")[0]
        places.append(len(before) / max(1, len(before) + len(after)))
    assert np.histogram(places, bins=5, range=(0, 1))[0].min() > 600 / 5 * 0.7


def test_template_filler_is_a_share_of_the_passkey_windows(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    for share in (0.0, 1.0):
        dataset = make(Mixture(text=0, passkey=1, template_filler=share))
        texts = [tokenizer.decode(dataset[index]["input_ids"]) for index in range(30)]
        assert np.mean(["The grass is green" in text for text in texts]) == share


def test_repeated_strings_have_periods_in_the_range(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = make(Mixture(text=0, repeat=1, shortest_period=5, longest_period=9), size=100)
    periods = set()
    for index in range(100):
        window = dataset[index]["input_ids"][1:]
        assert not set(window.tolist()) & set(tokenizer.all_special_ids)
        periods.add(next(p for p in range(1, LENGTH) if torch.equal(window[p:], window[:-p])))
    assert periods == {5, 6, 7, 8, 9}


def test_a_period_never_needs_more_than_the_window(make: Make) -> None:
    dataset = make(Mixture(text=0, repeat=1, shortest_period=4, longest_period=5000), length=40, size=100)
    for index in range(100):
        window = dataset[index]["input_ids"][1:]
        assert any(torch.equal(window[p:], window[:-p]) for p in range(1, 21))


def test_text_shorter_than_the_window_is_refused(make: Make, token_file: TokenFile) -> None:
    with pytest.raises(DataError, match=f"the text has {len(token_file)} tokens, less than one window"):
        make(Mixture(), length=len(token_file) + 1)


def test_a_window_too_short_for_a_passkey_says_the_least(make: Make) -> None:
    with pytest.raises(LengthError, match=r"takes at least \d+ tokens"):
        make(MIXED, length=64)


def test_a_window_too_short_for_a_repeat_is_refused(make: Make) -> None:
    with pytest.raises(LengthError, match="cannot repeat"):
        make(Mixture(text=0, repeat=1, shortest_period=30), length=50)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": 0.5}, "must add up to 1"),
        ({"text": 1.2}, "less than or equal to 1"),
        ({"most_keys": 3}, "most_keys has no effect"),
        ({"longest_period": 30}, "longest_period has no effect"),
        ({"text": 0.5, "repeat": 0.5, "shortest_period": 9, "longest_period": 8}, "above longest_period"),
        ({"txt": 1}, "Extra inputs"),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Mixture(**settings)
