"""What evaluation costs: our perplexity against the common loop over windows, our passkey grid against generating each.

Both contestants read the same windows or prompts with the same model, and must come to the same numbers. On a processor
ratios are of its time, as a busy machine would blur any other.
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.bench.paired import ratio, seconds_records, take_turns
from longspan.bench.settings import BenchSettings
from longspan.data.passkey import FILLER, KEY_SENTENCE, QUESTION, TASK
from longspan.data.tokenizer import train_tokenizer
from longspan.evaluate import document_nll, make_protocol
from longspan.evaluate.runner import frame_of, outcomes, places_of
from longspan.evaluate.task import Bench
from longspan.evaluate.tasks.passkey import Passkey
from longspan.evaluate.windows import spans
from longspan.records import Record
from longspan.train.sizes import Size, build_model

WINDOWS = (256, 1024)
VOCABULARY = 32_000
"""Of models that people evaluate: the logits of a window are most of a small model's work."""
DOCUMENT = 2048
TOLERANCE = 1e-6
"""How far the two losses may be apart, as a share."""
GRID_LENGTHS = (2048, 8192)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
TRIALS = 2
GRID_MODEL = Size(layers=2, width=64, heads=2, intermediate=128, tied=True)
NEW_TOKENS = 10
TURNS = 3

Answer = tuple[str, float]
"""What was said, and its score."""


def evaluation_costs(settings: BenchSettings) -> Iterator[Record]:
    """Ratios of the time of ours to the common way, by length."""
    yield from _perplexity_costs(settings)
    yield from _passkey_costs(settings)


def _perplexity_costs(settings: BenchSettings) -> Iterator[Record]:
    model = build_model("llama", "1m", VOCABULARY, 256, 10000.0, "none", 0).to(settings.device).eval()
    model.config.bos_token_id = 0
    document = torch.randint(3, VOCABULARY, (DOCUMENT,), generator=torch.Generator().manual_seed(0))
    document = document.to(settings.device)
    for length in WINDOWS:
        calls = {
            "ours": functools.partial(_ours, model, document, length),
            "stride loop": functools.partial(_stride_loop, model, document, length),
        }
        assert math.isclose(calls["ours"](), calls["stride loop"](), rel_tol=TOLERANCE), "not the same number"
        yield from _measured("evaluate, perplexity", calls, length, settings)


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


def _ours(model: PreTrainedModel, document: torch.Tensor, length: int) -> float:
    protocol = make_protocol([length], None, "all", None, None)
    return document_nll(model, document, length=length, protocol=protocol, progress=False).mean


@torch.no_grad()
def _stride_loop(model: PreTrainedModel, document: torch.Tensor, length: int) -> float:
    """One window at a time, labels of -100 before the tokens that count: as in the guide of transformers."""
    total, count = 0.0, 0
    for span in spans(0, len(document), length, make_protocol([length], None, "all", None, None)):
        ids = torch.cat([document.new_zeros(1), document[span.start : span.start + length - 1]])[None]
        labels = ids.clone()
        labels[:, : span.first - span.start + 1] = -100
        targets = span.last - span.first
        total += float(model(ids, labels=labels, use_cache=False).loss) * targets
        count += targets
    return total / count


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
