import logging
import uuid

import pytest

from longspan.kernels.trust import trusted


@pytest.fixture
def kernel() -> str:
    return f"kernel {uuid.uuid4()}"  # verdicts are kept for the life of the process


def test_a_kernel_is_checked_once_in_each_situation(kernel: str):
    asked: list[str] = []
    for situation in ("float32", "float32", "bfloat16"):
        assert trusted(kernel, situation, lambda s=situation: asked.append(s), instead="the plain path")
    assert asked == ["float32", "bfloat16"]


def test_a_wrong_kernel_is_turned_off_and_says_once_which_and_why(kernel: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        verdicts = [trusted(kernel, 64, lambda: "off by 0.5", instead="the plain path") for _ in range(3)]
    assert verdicts == [False] * 3
    assert caplog.messages == [f"{kernel} is not used (off by 0.5); the plain path runs instead"]


def test_a_kernel_that_cannot_run_is_turned_off_with_the_error(kernel: str, caplog: pytest.LogCaptureFixture):
    def check() -> None:
        raise OSError("no compiler\nfound")

    with caplog.at_level(logging.WARNING):
        assert not trusted(kernel, 64, check, instead="the plain path")
    assert caplog.messages == [f"{kernel} is not used (OSError: no compiler found); the plain path runs instead"]
