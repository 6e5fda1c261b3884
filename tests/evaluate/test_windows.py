"""Windows against the words of the protocol."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longspan.errors import DataError, LengthError
from longspan.evaluate.windows import as_documents, long_enough, make_protocol, spans


@pytest.mark.parametrize("variant", ["all", "matched"])
@pytest.mark.parametrize(("tokens", "length", "stride"), [(97, 16, 4), (97, 17, 16), (64, 32, 1), (80, 13, 5)])
def test_each_target_is_scored_once_in_the_first_window_that_contains_it(
    tokens: int, length: int, stride: int, variant: str
) -> None:
    protocol = make_protocol([length], stride, variant, 40, None)
    first_target = 0 if variant == "all" else 40
    starts = [*range(0, tokens - length + 1, stride), tokens - length + 1]
    seen: dict[int, int] = {}
    for span in spans(0, tokens, length, protocol):
        assert 0 <= span.start <= tokens - (length - 1)
        for index in range(span.first, span.last):
            assert index not in seen
            seen[index] = span.start
    expected = {
        index: next(start for start in starts if start <= index < start + length - 1)
        for index in range(first_target, tokens)
    }
    assert seen == expected


def test_matched_targets_are_the_same_for_every_length() -> None:
    protocol = make_protocol([8, 33, 64], None, "matched", None, 50)
    scored = [
        [i for span in spans(0, 300, length, protocol) for i in range(span.first, span.last)] for length in (8, 33, 64)
    ]
    assert scored[0] == scored[1] == scored[2] == list(range(64, 114))


def test_tokens_after_the_first_window_have_context_of_at_least_length_less_one_less_stride() -> None:
    protocol = make_protocol([32], 8, "all", None, None)
    later = list(spans(0, 200, 32, protocol))[1:]
    assert min(span.first - span.start for span in later) == 32 - 1 - 8


def test_max_targets_bounds_the_number_of_windows() -> None:
    protocol = make_protocol([16], 4, "matched", 64, 8)
    # 8 targets at indices 64..71; windows that start at 52, 56 score 63..66 and 67..70, and 60 scores the rest
    assert [(s.start, s.first, s.last) for s in spans(0, 10_000, 16, protocol)] == [
        (52, 64, 67),
        (56, 67, 71),
        (60, 71, 72),
    ]


def test_the_default_stride_is_a_quarter_of_the_window_and_at_most_512() -> None:
    protocol = make_protocol([2, 256, 8192], None, "matched", None, None)
    assert [protocol.stride_at(length) for length in (2, 256, 2048, 8192)] == [1, 64, 512, 512]


def test_a_document_must_have_the_longest_window_and_its_stride() -> None:
    assert make_protocol([64, 128], None, "matched", None, None).shortest_document == 128 + 32
    assert make_protocol([64], None, "matched", 128, None).shortest_document == 128 + 32


@pytest.mark.parametrize(
    "arguments",
    [
        ([], None, "matched", None, None),
        ([1], None, "matched", None, None),
        ([64], None, "matched", 32, None),
        ([64], 64, "matched", None, None),
        ([64], 0, "matched", None, None),
        ([64], None, "mixed", None, None),
        ([64], None, "all", None, 0),
    ],
)
def test_settings_that_contradict_each_other_are_refused(arguments: tuple) -> None:
    with pytest.raises(LengthError):
        make_protocol(*arguments)


def test_token_files_may_be_given_as_they_are() -> None:
    documents = as_documents([np.array([1, 2], dtype=np.uint16), torch.tensor([3])], 4)
    assert [document.tolist() for document in documents] == [[1, 2], [3]]
    assert all(document.dtype == torch.int64 for document in documents)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([], "empty"),
        (torch.zeros(1, 5, dtype=torch.long), "1-D"),
        (torch.zeros(5), "whole-number"),
        (torch.tensor([1, 9]), "another tokenizer"),
        (torch.tensor([-100, 1]), "another tokenizer"),
    ],
)
def test_unusable_ids_are_refused_in_one_line(ids: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        as_documents(ids, 9)


def test_documents_that_are_too_short_are_left_out_and_the_longest_is_named_if_all_are() -> None:
    documents = [torch.zeros(n, dtype=torch.long) for n in (10, 40, 30)]
    assert long_enough(documents, 30) == [1, 2]
    with pytest.raises(DataError, match="the longest has 40 tokens and 41 are needed"):
        long_enough(documents, 41)
