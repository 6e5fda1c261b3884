"""What is refused before several processes begin, and how they divide a batch."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from longspan import surgery
from longspan.errors import ConfigError, MethodError, TrainingError
from longspan.processes import ALONE, launched, lost_workers
from longspan.train import parallel
from longspan.train.config import RunConfig, changed_keys

Make = Callable[..., RunConfig]
SHARED = {"fsdp": True, "context": 2}
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"context": 2}, "'context' works on a split model: set 'parallel.fsdp' to true"),
        ({"replicas": 2}, "'replicas' works on a split model"),
        ({"context": 0}, "greater than or equal to 1"),
        ({"ulysses": 2}, "'ulysses' works on a split model"),
        ({"fsdp": True, "context": 2, "ulysses": 2}, "two ways to share a window: leave one of them out"),
        ({"ulysses": 0}, "greater than or equal to 1"),
        ({"tensor": 2}, "unknown key 'parallel.tensor'"),
    ],
)
def test_settings_that_cannot_act_are_refused(run_config: Make, values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_config(parallel=values)


def test_a_run_goes_on_with_other_processes(run_config: Make) -> None:
    one, many = run_config(), run_config(parallel={"fsdp": True, "context": 4, "replicas": 2})
    assert changed_keys(one.to_json(), many.to_json()) == []


@pytest.mark.parametrize(
    ("count", "micro", "share", "rows", "passes"),
    [(1, None, 1, 8, 1), (2, None, 1, 4, 1), (4, 16, 1, 1, 2), (2, 128, 1, 4, 1), (8, 32, 4, 2, 2)],
)
@pytest.mark.parametrize("way", ["context", "ulysses"])
def test_all_processes_together_learn_from_one_batch(
    run_config: Make, count: int, micro: int | None, share: int, rows: int, passes: int, way: str
) -> None:
    sharing = {"fsdp": True, way: share} if share > 1 else {}
    config = run_config(batch_tokens=128, micro_batch_tokens=micro, parallel=sharing)
    assert parallel.batch_shape(config, count) == (rows, passes)
    assert rows * passes * count // share == 8  # windows of 16 tokens


@pytest.mark.parametrize(
    ("changes", "count", "device", "says"),
    [
        ({"parallel": {"fsdp": True}}, 1, CUDA, "'parallel' is set and there is one process"),
        ({"parallel": {"fsdp": True}}, 2, CPU, "'parallel.fsdp' is for GPUs"),
        ({"parallel": {"fsdp": True, "context": 4}}, 6, CUDA, "needs a multiple of 4 processes and there are 6"),
        (
            {"model": {"from": "m"}, "data": {"text": "t"}, "distill": {"from": "m"}, "parallel": SHARED},
            2,
            CUDA,
            "'distill' compares whole windows",
        ),
        ({"batch_tokens": 96}, 4, CPU, "are 6 windows, which 4 processes cannot share evenly: take 128"),
        ({"batch_tokens": 96, "micro_batch_tokens": 32}, 2, CPU, "does not divide the 48 tokens"),
        (
            {"train_length": 12, "batch_tokens": 96, "parallel": {"fsdp": True, "context": 4}},
            4,
            CUDA,
            "take 'train_length' 16",
        ),
    ],
)
def test_a_number_of_processes_that_does_not_fit_is_refused(
    run_config: Make, changes: dict[str, Any], count: int, device: torch.device, says: str
) -> None:
    config = run_config(**changes)
    with pytest.raises(ConfigError, match=says):
        parallel.check_fit(config, count, device)


def test_windows_are_shared_by_heads_where_deepspeed_is_and_they_divide(
    run_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {"fsdp": True, "ulysses": 3}
    config = run_config(train_length=16, batch_tokens=48, parallel=shared)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ConfigError, match=r"needs deepspeed: pip install 'longspan\[ulysses\]'"):
        parallel.check_fit(config, 3, CUDA)
    monkeypatch.setitem(sys.modules, "deepspeed", types.ModuleType("deepspeed"))
    with pytest.raises(ConfigError, match="3 processes cannot share a window of 16 tokens: take 'train_length' 15"):
        parallel.check_fit(config, 3, CUDA)
    parallel.check_fit(run_config(train_length=15, batch_tokens=45, parallel=shared), 3, CUDA)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ACCELERATE_USE_FSDP", "true", "set 'parallel.fsdp: true'"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "launch with --multi_gpu"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "set 'parallel.context'"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed precision bf16 and the settings for dtype float32"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed precision fp16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "set 'compile: true'"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "micro_batch_tokens"),
    ],
)
def test_what_the_launcher_would_set_beside_the_settings_is_refused(
    run_config: Make, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    assert parallel.join(run_config(), CPU) is not None
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        parallel.join(run_config(), CPU)


def test_a_launcher_that_starts_one_process_where_several_were_asked_for_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `accelerate launch --cpu --num_processes 2` sets; with one process it sets no address."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert launched(on_processors=True) is ALONE
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match="starts one under --cpu: launch with --multi_gpu"):
        launched(on_processors=True)


@pytest.mark.parametrize("way", ["context", "ulysses"])
@pytest.mark.parametrize(
    ("family", "methods", "says"),
    [
        ("llama", "alibi", "Alibi adds a bias"),
        ("llama", "dynamic_ntk", "the frequencies of DynamicNtk follow the length"),
        ("llama", "self_extend", "SelfExtend attends by parts"),
        ("llama", "s2(group=8)", "S2 attends by parts"),
        ("llama", "select_merge", "SelectMerge attends by parts"),
        ("gemma3_text", "rope", "some layers see a window of the past only"),
        ("gptj", "rope", "attention is 'eager' and must be 'sdpa'"),
    ],
)
def test_what_processes_would_compute_wrongly_in_parts_is_refused(
    run_config: Make, tiny_model: Callable[[str], PreTrainedModel], family: str, methods: str, says: str, way: str
) -> None:
    model = tiny_model(family)
    if methods != "rope":
        surgery.extend(model, methods, target_length=128)
    shared = run_config(parallel={"fsdp": True, way: 2})
    with pytest.raises(MethodError, match=f"'parallel.{way}' cannot share these windows: {says}"):
        parallel.check_model(shared, model)
    parallel.check_model(run_config(parallel={"fsdp": True}), model)


def test_what_only_one_way_cannot_share_is_refused_there(
    run_config: Make, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    by_heads, by_ring = (run_config(parallel={"fsdp": True, way: 2}) for way in ("ulysses", "context"))
    model = tiny_model("gpt_neox")
    parallel.check_model(by_heads, model)
    with pytest.raises(MethodError, match="accelerate does not find the attention of gpt_neox"):
        parallel.check_model(by_ring, model)
    model = tiny_model("llama")
    model.config.num_attention_heads = model.config.num_key_value_heads = 3
    parallel.check_model(by_ring, model)
    with pytest.raises(MethodError, match="3 heads are no multiple of 2"):
        parallel.check_model(by_heads, model)
    model.config.num_attention_heads = 6
    with pytest.raises(MethodError, match="of 3 key heads and 2 processes neither divides the other"):
        parallel.check_model(by_heads, model)


@pytest.mark.parametrize("methods", ["coca+yarn", "coca", "yarn", "pope", "log_n"])
@pytest.mark.parametrize("way", ["context", "ulysses"])
def test_features_and_fixed_frequencies_can_be_computed_in_parts(
    run_config: Make, tiny_model: Callable[[str], PreTrainedModel], methods: str, way: str
) -> None:
    model = tiny_model("llama")
    surgery.extend(model, methods, target_length=128)
    parallel.check_model(run_config(parallel={"fsdp": True, way: 2}), model)


def test_one_process_alone_agrees_with_itself_and_its_errors_pass() -> None:
    assert (ALONE.first, ALONE.gather(3.0), ALONE.any(False), ALONE.all(True)) == (True, [3.0], False, True)
    with pytest.raises(ZeroDivisionError), ALONE.together():
        1 / 0  # noqa: B018


def test_what_torch_says_of_a_lost_process_is_one_line_and_other_errors_pass() -> None:
    for error in (
        RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:27151"),
        torch.distributed.DistBackendError("NCCL error"),
    ):
        with pytest.raises(TrainingError, match="another process of this run is gone"), lost_workers():
            raise error
    with pytest.raises(RuntimeError, match="shapes"), lost_workers():
        raise RuntimeError("shapes do not match")
