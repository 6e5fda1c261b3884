"""What evaluation costs: our perplexity and passkey grid against the common ways, with the same tokens and model.

Perplexity  against the loop over overlapping windows of transformers' guide, and against the rolling log-likelihood of
            lm-eval, whose windows do not overlap: it is given each window as a document, and both must find one number
Passkey     a grid of depths and trials against generating each answer from its own prompt: one verdict

On a processor ratios are of its time, as a busy machine would blur any other.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.bench.paired import left_out, ratio, seconds_records, take_turns
from longspan.bench.settings import BenchSettings
from longspan.data.passkey import FILLER, KEY_SENTENCE, QUESTION, TASK
from longspan.data.tokenizer import train_tokenizer
from longspan.evaluate import document_nll, make_protocol
from longspan.evaluate.runner import frame_of, outcomes, places_of
from longspan.evaluate.task import Bench
from longspan.evaluate.tasks.passkey import Passkey
from longspan.evaluate.windows import Protocol, spans
from longspan.records import Record
from longspan.train.sizes import Size, build_model

OVERLAPS = {1024: 512, 2048: 256}
"""Windows, and tokens between them: transformers' guide for GPT-2; papers on long context (PI and YaRN have 256)."""
ROLLING = 1024
ROLLING_TASK = "evaluate, rolling"
LOSS_MODEL = "10m"
"""Heads of 64; with 32,000 tokens the logits are half of its products, as in small models that people evaluate."""
VOCABULARY = 32_000
WINDOWS = 4
"""That are read of a document, behind its first ones: in a long document nearly all are such."""
BOS = 0
TOLERANCE = 1e-6
"""How far the two losses may be apart, as a share."""
GRID_LENGTHS = (2048, 8192)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
TRIALS = 2
GRID_MODEL = Size(layers=4, width=128, heads=2, intermediate=344, tied=True)
NEW_TOKENS = 10
TURNS = 3

Answer = tuple[str, float]
"""What was said, and its score."""


def evaluation_costs(settings: BenchSettings) -> Iterator[Record]:
    """Ratios of the time of ours to the common way, by length."""
    yield from _perplexity_costs(settings)
    yield from _passkey_costs(settings)


def _perplexity_costs(settings: BenchSettings) -> Iterator[Record]:
    model = build_model("llama", LOSS_MODEL, VOCABULARY, 256, 10000.0, "none", 0).to(settings.device).eval()
    model.config.bos_token_id = BOS
    generator = torch.Generator().manual_seed(0)
    for length, stride in OVERLAPS.items():
        document = torch.randint(3, VOCABULARY, (length + WINDOWS * stride,), generator=generator)
        document = document.to(settings.device)
        protocol = make_protocol([length], stride, "matched", None, None)
        calls = {
            "ours": functools.partial(_ours, model, document, length, protocol),
            "stride loop": functools.partial(_stride_loop, model, document, length, protocol),
        }
        yield from _same_loss("evaluate, perplexity", calls, length, settings)
    if importlib.util.find_spec("lm_eval") is None:
        yield left_out(ROLLING_TASK, "lm-eval", "it is not installed: pip install longspan[lm-eval]", ROLLING)
        return
    windows = torch.randint(3, VOCABULARY, (3, ROLLING - 1), generator=generator).to(settings.device)
    protocol = make_protocol([ROLLING], ROLLING - 1, "all", None, None)
    calls = {
        "ours": functools.partial(_ours, model, windows.flatten(), ROLLING, protocol),
        "lm-eval": functools.partial(_rolling, _harness(model, ROLLING - 1), windows.tolist()),
    }
    yield from _same_loss(ROLLING_TASK, calls, ROLLING, settings)


def _same_loss(
    task: str, calls: Mapping[str, Callable[[], float]], length: int, settings: BenchSettings
) -> Iterator[Record]:
    """Seconds and ratio, once both have found the same number."""
    ours, other = (call() for call in calls.values())
    assert math.isclose(ours, other, rel_tol=TOLERANCE), f"not the same number: {ours} and {other}"
    yield from _measured(task, calls, length, settings)


def _measured(
    task: str, calls: Mapping[str, Callable[[], object]], length: int, settings: BenchSettings
) -> Iterator[Record]:
    """Seconds of both and their ratio; both have been called once already."""
    clock = time.perf_counter if settings.on_gpu else time.process_time
    calls = {name: settings.finished(call) for name, call in calls.items()}
    times = take_turns(
        calls, seconds=settings.seconds, least=TURNS, warm_up=False, clock=clock, label=task,
        progress=settings.progress,
    )  # fmt: skip
    yield from seconds_records(times, task, length)
    yield ratio(times, *calls).record(task, length)


def _ours(model: PreTrainedModel, document: torch.Tensor, length: int, protocol: Protocol) -> float:
    return document_nll(model, document, length=length, protocol=protocol, progress=False).mean


@torch.no_grad()
def _stride_loop(model: PreTrainedModel, document: torch.Tensor, length: int, protocol: Protocol) -> float:
    """One window at a time, labels of -100 before the tokens that count: as in the guide of transformers."""
    total, count = 0.0, 0
    for span in spans(0, len(document), length, protocol):
        ids = torch.cat([document.new_tensor([BOS]), document[span.start : span.start + length - 1]])[None]
        labels = ids.clone()
        labels[:, : span.first - span.start + 1] = -100
        targets = span.last - span.first
        total += float(model(ids, labels=labels, use_cache=False).loss) * targets
        count += targets
    return total / count


def _harness(model: PreTrainedModel, length: int) -> Any:
    """lm-eval's model of ours, for documents that are spelled as numbers of tokens."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(["a b c"], 300, Path(folder) / "bpe")
    models = importlib.import_module("lm_eval.models.huggingface")
    harness = models.HFLM(pretrained=model, tokenizer=tokenizer, max_length=length, prefix_token_id=BOS, batch_size=1)
    harness.tok_encode = lambda text, **_: list(map(int, text.split()))
    return harness


def _rolling(harness: Any, documents: Sequence[Sequence[int]]) -> float:
    """Nats a token of lm-eval's `loglikelihood_rolling`."""
    instance = importlib.import_module("lm_eval.api.instance").Instance
    requests = [
        instance(request_type="loglikelihood_rolling", doc={}, arguments=(" ".join(map(str, document)),), idx=number)
        for number, document in enumerate(documents)
    ]
    with contextlib.redirect_stderr(io.StringIO()):  # bars that cannot be turned off
        found = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    return -sum(found) / sum(map(len, documents))


def _passkey_costs(settings: BenchSettings) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer([" ".join([TASK, *FILLER, KEY_SENTENCE, QUESTION])], 400, Path(folder) / "bpe")
    model = build_model("llama", GRID_MODEL, len(tokenizer), 256, 10000.0, "none", 0).to(settings.device).eval()
    for length in GRID_LENGTHS:
        calls = _grids(model, tokenizer, length)
        _check_answers(calls["ours"](), calls["each from scratch"]())
        yield from _measured("evaluate, passkey", calls, length, settings)


def _check_answers(ours: list[Answer], theirs: list[Answer]) -> None:
    """The same verdicts, and the same words as far as ours had to be read."""
    for (text, score), (whole, other) in zip(ours, theirs, strict=True):
        assert score == other, "not the same verdicts"
        assert whole.strip().startswith(text.strip()), "not the same answers"


def _grids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int
) -> dict[str, Callable[[], list[Answer]]]:
    """Answers and scores of a grid of depths and trials, depth after depth."""
    task, bench = Passkey(), Bench(model=model, tokenizer=tokenizer, lengths=[length], depths=DEPTHS, trials=TRIALS)
    frame, places = frame_of(bench, "passkey"), places_of(task, bench, length)

    def ours() -> list[Answer]:
        return [(found.answer, found.score) for found in outcomes(task, bench, frame, places)]

    @torch.no_grad()
    def from_scratch() -> list[Answer]:
        answers = []
        for sample in (task.sample(frame, place) for place in places):
            ids = torch.tensor([sample.prompt_ids], device=model.device)
            made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
            text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
            answers.append((text, task.score(text, sample)))
        return answers

    return {"ours": ours, "each from scratch": from_scratch}
