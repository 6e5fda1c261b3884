"""The rules of the recommendation, one by one, on figures made up for the purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from longspan.planner.assess import Assessment, assess_all, verdict
from longspan.planner.published import PUBLISHED, Published, Training
from longspan.planner.recommend import recommend
from longspan.registry import all_methods


def item(
    name: str, untrained: float, trained: float, training: Training = "none", refusal: str | None = None
) -> Assessment:
    row = Published(training=training, untrained=untrained, trained=trained, tokens="1B", source="a test")
    slots = ("frequency",)
    return Assessment(
        name=name, slots=slots, refusal=refusal, verdict=verdict(row, slots, 4), published=row, own=None
    )  # fmt: skip


SHORT, LONG, TUNED = item("short", 2, 2), item("long", 8, 8), item("tuned", 1, 32, "tune")
SCRATCH = item("scratch", 100, 100, "scratch")
ALL = [SHORT, LONG, TUNED, SCRATCH]


@pytest.mark.parametrize(
    ("factor", "train", "expected"),
    [
        (2, None, ("as it is", "long")),
        (8, None, ("as it is", "long")),
        (16, None, ("train", "tuned")),
        (64, None, ("none reaches", "tuned")),
        (2, True, ("train", "long")),
        (16, True, ("train", "tuned")),
        (8, False, ("as it is", "long")),
        (16, False, ("none reaches", "long")),
    ],
)
def test_the_factor_and_what_is_allowed_decide(factor: float, train: bool | None, expected: tuple[str, str]) -> None:
    advice = recommend(ALL, factor=factor, train=train)
    assert (advice.action, advice.method) == expected
    assert "a test" in advice.reason


def test_what_is_refused_or_not_served_is_passed_over() -> None:
    assert recommend([SHORT, item("long", 8, 8, refusal="no")], factor=2).method == "short"
    assert recommend(ALL, factor=2, served=lambda name: name != "long").method == "short"
    nothing = recommend(ALL, factor=2, served=lambda name: False)
    assert (nothing.action, nothing.method) == ("none reaches", "none")


def test_a_method_in_force_comes_first_and_one_to_search_for_last() -> None:
    assert recommend(ALL, factor=2, in_force=["short"]).method == "short"
    assert recommend([item("searched", 16, 16, "search"), SHORT], factor=2).method == "short"
    assert "searched for" in recommend([item("searched", 16, 16, "search"), SHORT], factor=4).reason


def test_nothing_is_advised_where_nothing_is_needed() -> None:
    assert recommend(ALL, factor=2, reaches_already=True).action == "nothing"


def test_every_method_of_the_package_has_a_row_and_no_other() -> None:
    built_in = {name for name, method in all_methods().items() if method.__module__.startswith("longspan.")}
    assert set(PUBLISHED) == built_in


def test_a_method_that_a_model_cannot_take_is_told_why(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    from conftest import make_model

    sliding = make_model("gemma3_text", layer_types=["sliding_attention"] * 2).to("meta")
    found = {item.name: item for item in assess_all(sliding, 128, 64)}
    assert found["yarn"].refusal == "every layer of the model slides"
    assert found["coca"].refusal is None
    assert recommend(list(found.values()), factor=2).action == "none reaches"


def test_methods_from_elsewhere_are_unknown(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    found = assess_all(tiny_model("llama").to("meta"), 128, 64, published={})
    assert {item.verdict for item in found} == {"unknown"}
    assert recommend(found, factor=2).method == "none"
