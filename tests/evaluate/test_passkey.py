"""Passkey with models whose answers are known: one copies what it saw, one copies badly, one is blind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutputWithPast

from longspan.data.passkey import FILLER, KEY_SENTENCE, QUESTION, TASK, PasskeyTemplate, passkey_sample
from longspan.data.tokenizer import train_tokenizer
from longspan.errors import DataError, LengthError
from longspan.evaluate import passkey, passkey_trials, reach
from longspan.records import Record
from longspan.scores import Score

COLUMNS = {"run": "r", "method": "rope", "model_name": "fake", "train_length": 256, "progress": False}
TEXT = " ".join([TASK, *FILLER, KEY_SENTENCE, QUESTION])


class Copier(nn.Module):
    """A decoder that predicts what followed the longest earlier copy of the last tokens; `spoiled` tokens come out
    as `instead`, and with `sees` off it gives every token the same probability."""

    def __init__(self, vocab_size: int, sees: bool, spoiled: set[int], instead: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, 1)  # transformers looks for it beside the head
        self.vocab_size, self.sees, self.spoiled, self.instead = vocab_size, sees, spoiled, instead

    def get_decoder(self) -> Copier:
        return self

    def forward(self, input_ids: Tensor, **_kwargs: object) -> BaseModelOutputWithPast:
        hidden = torch.zeros(*input_ids.shape, self.vocab_size)
        if self.sees:
            for row, tokens in enumerate(input_ids.tolist()):
                for column in range(len(tokens) - 12, len(tokens)):
                    token = self.copy(tokens[: column + 1])
                    hidden[row, column, self.instead if token in self.spoiled else token] = 20.0
        return BaseModelOutputWithPast(last_hidden_state=hidden)

    def copy(self, seen: list[int]) -> int:
        def matched(end: int) -> int:
            return next((n for n in range(end + 1) if seen[end - n] != seen[-1 - n]), end + 1)

        return seen[max(range(len(seen) - 1), key=lambda end: (matched(end), end)) + 1]


class Chatterer(Copier):
    """A copier that puts `preamble` between the question and its answer."""

    question: list[int]
    preamble: list[int]

    def copy(self, seen: list[int]) -> int:
        ends = [end for end in range(len(seen) + 1) if seen[:end][-len(self.question) :] == self.question]
        if not ends:  # not yet asked
            return super().copy(seen)
        last = ends[-1]
        said = seen[last : last + len(self.preamble)]
        if len(said) < len(self.preamble) and said == self.preamble[: len(said)]:
            return self.preamble[len(said)]
        started = len(self.preamble) if said == self.preamble else 0
        return super().copy(seen[:last] + seen[last + started :])


def chatterer(tokenizer: PreTrainedTokenizerFast, preamble: str) -> PreTrainedModel:
    model = fake(tokenizer)
    model.model.__class__ = Chatterer
    model.model.question = PasskeyTemplate(tokenizer).question(12345)[0]
    model.model.preamble = tokenizer(preamble, add_special_tokens=False)["input_ids"]
    return model


def fake(tokenizer: PreTrainedTokenizerFast, *, sees: bool = True, spoiled: str = "") -> PreTrainedModel:
    size = len(tokenizer)
    config = LlamaConfig(
        vocab_size=size, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    bad = {token for piece, token in tokenizer.get_vocab().items() if any(digit in piece for digit in spoiled)}
    (newline,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    model.model = Copier(size, sees, bad, newline)
    model.lm_head = nn.Linear(size, size, bias=False)
    nn.init.eye_(model.lm_head.weight)
    model.generation_config.use_cache = False
    return model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return train_tokenizer([TEXT], 400, tmp_path_factory.mktemp("tokenizer") / "bpe")


@pytest.fixture(scope="module")
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """One that makes some pairs of digits one token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=430,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT] * 20 + [f" {n}" for n in range(10000, 99999, 37)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def test_a_model_that_sees_scores_one_and_a_blind_one_scores_chance(tokenizer: PreTrainedTokenizerFast) -> None:
    grid = {"lengths": [150, 213], "depths": 3, "trials": 4, **COLUMNS}
    seeing = passkey(fake(tokenizer), tokenizer, **grid)
    assert {r.value for r in seeing if r.metric == "accuracy"} == {1.0}
    assert all(r.value < 0.01 for r in seeing if r.metric == "nll")
    blind = passkey(fake(tokenizer, sees=False), tokenizer, **grid)
    assert {r.value for r in blind if r.metric == "accuracy"} == {0.0}
    # uniform over the vocabulary for each answer token, in nats per digit
    tokens = len(passkey_sample(tokenizer, 150, 0.5, 12345).answer_ids)
    expected = tokens / 5 * math.log(len(tokenizer))
    assert [r.value for r in blind if r.metric == "nll"] == pytest.approx([expected] * 8)


def test_records_are_one_pair_a_cell_and_one_pair_a_length_over_all_depths(tokenizer: PreTrainedTokenizerFast) -> None:
    records = passkey(fake(tokenizer, spoiled="7"), tokenizer, lengths=[150], depths=3, trials=4, seed=5, **COLUMNS)
    assert [(r.metric, r.depth, r.n) for r in records] == [
        (metric, depth, 12 if depth is None else 4) for depth in (0.0, 0.5, 1.0, None) for metric in ("accuracy", "nll")
    ]
    assert {(r.task, r.length, r.seed, r.train_length) for r in records} == {("passkey", 150, 5, 256)}
    *cells, whole = records[::2]
    assert whole.value == pytest.approx(sum(cell.value for cell in cells) / 3)
    assert whole.low < whole.value < whole.high
    *cells, whole = records[1::2]
    assert whole.value == pytest.approx(sum(cell.value for cell in cells) / 3)
    # standard error of a stratified mean with equal strata: root of the sum of squares, over their number
    half = math.sqrt(sum((cell.high - cell.low) ** 2 for cell in cells)) / 2 / 3
    assert whole.high - whole.value == pytest.approx(half)


def test_forced_and_generated_answers_agree_and_are_right_for_keys_without_a_seven(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = fake(tokenizer, spoiled="7")
    cell = {"length": 160, "depth": 0.3, "trials": 24, "seed": 2}
    forced = passkey_trials(model, tokenizer, decoding="forced", batch_size=5, **cell)
    generated = passkey_trials(model, tokenizer, decoding="generate", batch_size=7, **cell)
    assert forced == generated == passkey_trials(model, tokenizer, **cell)
    assert [trial.correct for trial in forced] == ["7" not in str(trial.key) for trial in forced]
    assert {trial.correct for trial in forced} == {True, False}


def test_words_before_the_key_do_not_make_an_answer_wrong(tokenizer: PreTrainedTokenizerFast) -> None:
    model = chatterer(tokenizer, " is")
    cell = {"length": 160, "depth": 0.3, "trials": 6, "seed": 2, "batch_size": 4}
    assert all(trial.correct for trial in passkey_trials(model, tokenizer, **cell))
    assert all(trial.correct for trial in passkey_trials(model, tokenizer, decoding="generate", **cell))
    assert not any(trial.correct for trial in passkey_trials(model, tokenizer, decoding="forced", **cell))


def test_ten_new_tokens_and_the_first_five_digits_count(tokenizer: PreTrainedTokenizerFast) -> None:
    cell = {"length": 160, "depth": 0.3, "trials": 3, "seed": 2}
    assert not any(trial.correct for trial in passkey_trials(chatterer(tokenizer, " is" * 6), tokenizer, **cell))
    assert not any(trial.correct for trial in passkey_trials(chatterer(tokenizer, " 0"), tokenizer, **cell))


def test_a_digit_that_contradicts_the_key_needs_no_generation(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fake(tokenizer, spoiled="7")
    model.model.instead = tokenizer("0", add_special_tokens=False)["input_ids"][-1]
    cell = {"length": 160, "depth": 0.3, "trials": 24, "seed": 2}
    generated = passkey_trials(model, tokenizer, decoding="generate", **cell)
    monkeypatch.setattr(model, "generate", None)
    assert passkey_trials(model, tokenizer, **cell) == generated
    assert {trial.correct for trial in generated} == {True, False}


def test_merged_digits_are_generated_and_prompts_of_different_lengths_are_handled(
    merging_tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = fake(merging_tokenizer, spoiled="7")
    cell = {"length": 160, "depth": 0.3, "trials": 12, "seed": 2}
    trials = passkey_trials(model, merging_tokenizer, **cell)
    answers = [passkey_sample(merging_tokenizer, 160, 0.3, trial.key).answer_ids for trial in trials]
    assert len({len(answer) for answer in answers}) > 1
    assert [trial.correct for trial in trials] == ["7" not in str(trial.key) for trial in trials]
    with pytest.raises(DataError, match="merges digits"):
        passkey_trials(model, merging_tokenizer, decoding="forced", **cell)


def test_answer_nll_equals_full_logits(tiny_model: Callable[[str], PreTrainedModel], tmp_path: Path) -> None:
    model = tiny_model("llama")
    small = train_tokenizer([TEXT], 300, tmp_path / "bpe")
    model.resize_token_embeddings(len(small))
    for trial in passkey_trials(model, small, length=222, depth=0.5, trials=2, batch_size=2):
        sample = passkey_sample(small, 222, 0.5, trial.key)
        row = torch.tensor([*sample.prompt_ids, *sample.answer_ids])
        with torch.no_grad():
            logits = model(row[None]).logits[0].double()
        start = len(sample.prompt_ids)
        losses = -torch.log_softmax(logits, dim=-1)[torch.arange(start - 1, 221), row[start:]]
        assert trial.nll == pytest.approx(losses.sum().item() / 5, abs=1e-5)


def test_prompts_depend_on_seed_length_depth_and_trial_only(tokenizer: PreTrainedTokenizerFast) -> None:
    seen: list[list] = []
    model = fake(tokenizer, sees=False)
    options = {"seed": 3, **COLUMNS}
    passkey(model, tokenizer, lengths=[150, 180], depths=[0.2, 0.9], trials=3, on_trials=seen.append, **options)
    alone = passkey_trials(model, tokenizer, length=180, depth=0.9, trials=3, seed=3)
    assert seen[3] == alone
    keys = [trial.key for cell in seen for trial in cell]
    assert len(set(keys)) == 12
    assert all(10000 <= key <= 99999 for key in keys)
    assert keys[9:] != [t.key for t in passkey_trials(model, tokenizer, length=180, depth=0.9, trials=3, seed=4)]


def test_the_score_of_each_prompt_adds_up_to_the_records(tokenizer: PreTrainedTokenizerFast) -> None:
    scores: list[Score] = []
    grid = {"lengths": [150], "depths": 2, "trials": 3, **COLUMNS}
    records = passkey(fake(tokenizer, sees=False), tokenizer, on_scores=scores.extend, **grid)
    whole = {record.metric: record.value for record in records if record.depth is None}
    for metric, value in whole.items():
        assert value == pytest.approx(sum(score.values[metric] for score in scores) / len(scores))
    again: list[Score] = []
    passkey(fake(tokenizer), tokenizer, on_scores=again.extend, **grid)
    # another model, the same prompts: pairs
    assert [(score.depth, score.sample) for score in again] == [(score.depth, score.sample) for score in scores]
    assert len({score.sample for score in scores}) == 6


def test_short_prompts_of_several_depths_share_a_forward(tokenizer: PreTrainedTokenizerFast) -> None:
    rows: list[int] = []
    model = fake(tokenizer)
    model.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    options = {"lengths": [150], "depths": [0.2, 0.5, 0.9, 1.0, 0.2], "trials": 3, "progress": False, **COLUMNS}
    together = passkey(model, tokenizer, batch_size=8, **options)
    assert rows[0] == 6
    alone = passkey(model, tokenizer, batch_size=1, **options)
    strip = [replace(record, when="") for record in together]
    assert strip == [replace(record, when="") for record in alone]


def test_text_filler_is_another_stretch_for_each_trial(tokenizer: PreTrainedTokenizerFast) -> None:
    prompts: list[Tensor] = []
    model = fake(tokenizer)
    model.model.register_forward_pre_hook(lambda _m, _a, kwargs: prompts.append(kwargs["input_ids"]), with_kwargs=True)
    text = torch.randint(3, 60, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    trials = passkey_trials(model, tokenizer, length=150, depth=0.5, trials=3, filler=text)
    assert all(trial.correct for trial in trials)
    assert prompts[0].shape == (3, 150)
    head = passkey_sample(tokenizer, 150, 1.0, trials[0].key, [59] * 150).prompt_ids.index(59)
    stretches = {tuple(row[head : head + 5].tolist()) for row in prompts[0]}
    assert len(stretches) == 3
    assert all(any(tuple(text[i : i + 5]) == stretch for i in range(996)) for stretch in stretches)


def test_a_resumed_grid_runs_missing_cells_only_and_gives_the_same_totals(tokenizer: PreTrainedTokenizerFast) -> None:
    model = fake(tokenizer, spoiled="7")
    grid = {"lengths": [150], "depths": 3, "trials": 4, **COLUMNS}
    whole = passkey(model, tokenizer, **grid)
    written: list[Record] = []
    resumed = passkey(model, tokenizer, done=whole[:4], on_records=written.extend, **grid)
    assert [record.depth for record in written] == [1.0, 1.0, None, None]
    assert [replace(r, when="") for r in resumed] == [replace(r, when="") for r in whole]
    arm = passkey(model, tokenizer, lengths=[150], depths=1, trials=4, record_seed=9, done=whole, **COLUMNS)
    assert [(r.seed, r.depth) for r in arm[::2]] == [(9, 0.5), (9, None)]
    assert arm[0].value == whole[2].value


def test_bad_settings_are_refused_in_one_line(tokenizer: PreTrainedTokenizerFast) -> None:
    model = fake(tokenizer)
    with pytest.raises(LengthError, match="takes at least"):
        passkey(model, tokenizer, lengths=[150, 20], on_trials=pytest.fail, **COLUMNS)
    with pytest.raises(DataError, match="depths"):
        passkey(model, tokenizer, lengths=[150], depths=[0.5, 1.5], **COLUMNS)
    with pytest.raises(DataError, match="depths"):
        passkey(model, tokenizer, lengths=[150], depths=0, **COLUMNS)
    with pytest.raises(DataError, match="trials"):
        passkey(model, tokenizer, lengths=[150], trials=0, **COLUMNS)


def test_reach_is_the_largest_length_that_holds_at_every_depth() -> None:
    def cell(length: int, depth: float | None, value: float, metric: str = "accuracy") -> Record:
        return Record(
            run="r", method="m", model="a", task="passkey", metric=metric, value=value, length=length, depth=depth
        )

    records = [cell(256, 0.0, 1.0), cell(256, 1.0, 0.6), cell(512, 0.0, 0.5), cell(512, 1.0, 0.5)]
    records += [cell(1024, 0.0, 1.0), cell(1024, 1.0, 0.4), cell(1024, None, 0.7), cell(1024, 0.5, 9.0, "nll")]
    assert reach(records) == 512
    assert reach(records, threshold=0.55) == 256
    assert reach(records, threshold=1.1) is None
