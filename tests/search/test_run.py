"""Searches on a tiny model: what is measured, taken up again, and left behind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import longspan as ls
from longspan.errors import CheckpointError, ConfigError, DataError, LengthError, MethodError
from longspan.evaluate import document_nll, make_protocol
from longspan.search import Candidate, FactorSearch, Individual, SearchFolder, SearchSettings, pieces, search_factors

SMALL = SearchSettings(population=8, rounds=2)
TARGET = 128


class Kept(dict):
    """Remembers individuals, and stops the search after some."""

    def __init__(self, stop: int = 10**9) -> None:
        super().__init__()
        self.stop = stop

    def __call__(self, individual: Individual) -> None:
        self[individual.candidate] = individual.nll
        if len(self) == self.stop:
            raise KeyboardInterrupt


def test_the_factors_found_give_the_perplexity_that_was_measured(
    model: PreTrainedModel, documents: list[torch.Tensor]
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = search_factors(model, documents, target_length=TARGET, settings=SMALL, progress=False)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    ls.extend(model, [found.method], target_length=TARGET)
    rows = torch.stack([torch.cat((torch.tensor([1]), document[: TARGET - 1])) for document in documents])
    with torch.no_grad():
        logits = model(rows, use_cache=False).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()
    assert found.best.nll == pytest.approx(nll, rel=1e-5)
    assert found.best.nll <= min(start.nll for start in found.starts.values())
    assert found.perplexities["found"] == pytest.approx(math.exp(nll), rel=1e-4)


def test_the_starts_are_measured_as_pi_ntk_and_yarn_under_its_temperature(
    model: PreTrainedModel, documents: list[torch.Tensor]
) -> None:
    settings = SearchSettings(budget=6)
    found = search_factors(model, documents, target_length=TARGET, settings=settings, progress=False)
    assert (found.individuals, found.forward_passes) == (3, 6)
    root = math.sqrt(1 + math.log(2) / math.log(64))
    with ls.extend(model, f"yarn(attention_factor={root})", target_length=TARGET):
        protocol = make_protocol([TARGET], 1, "all", None, TARGET - 1)
        sums = document_nll(model, documents, length=TARGET, protocol=protocol, progress=False)
    assert sums.tokens.tolist() == [TARGET - 1] * 2
    assert found.starts["yarn"].nll == pytest.approx(sums.mean, rel=1e-6)


def test_each_individual_takes_one_forward_a_document(model: PreTrainedModel, documents: list[torch.Tensor]) -> None:
    rows = []
    model.model.register_forward_hook(lambda _module, _args, output: rows.append(len(output.last_hidden_state)))
    settings = SearchSettings(population=8, rounds=2, budget=21)
    found = search_factors(model, documents, target_length=TARGET, settings=settings, progress=False)
    assert sum(rows) == found.forward_passes == 20
    assert found.individuals == 10


@pytest.mark.parametrize("stop", [1, 3, 9, 13])
def test_a_search_that_was_stopped_ends_as_one_that_was_not(
    stop: int, model: PreTrainedModel, documents: list[torch.Tensor]
) -> None:
    settings = SearchSettings(population=8, rounds=2, start_tokens=True, seed=3)
    search = FactorSearch(model, documents, target_length=TARGET, settings=settings)
    whole, kept = Kept(), Kept(stop)
    expected = search.run(on_individual=whole, progress=False)
    with pytest.raises(KeyboardInterrupt):
        search.run(on_individual=kept, progress=False)
    assert list(kept.items()) == list(whole.items())[:stop]
    assert type(model).__name__ == "LlamaForCausalLM"
    rest = Kept()
    assert search.run(done=kept, on_individual=rest, progress=False) == expected
    assert {**kept, **rest} == whole
    assert not set(kept) & set(rest)


def test_features_of_the_model_are_searched_with_their_own_number_of_pairs(
    model: PreTrainedModel, documents: list[torch.Tensor]
) -> None:
    ls.extend(model, "pope")
    found = search_factors(model, documents, target_length=TARGET, settings=SearchSettings(budget=8), progress=False)
    assert len(found.best.candidate.factors) == 16
    ls.extend(model, [found.method], target_length=TARGET)


def test_what_cannot_be_searched_is_refused_before_anything_is_measured(
    model: PreTrainedModel, documents: list[torch.Tensor]
) -> None:
    with pytest.raises(LengthError, match="nothing to search at the original length, 64"):
        search_factors(model, documents, target_length=64)
    with pytest.raises(LengthError, match="shorter than original_length 64"):
        search_factors(model, documents, target_length=32)
    with pytest.raises(DataError, match="the longest has 130 tokens and 257 are needed"):
        search_factors(model, documents, target_length=256)
    with pytest.raises(ConfigError, match="does not reach the 3 starts on 2 documents"):
        search_factors(model, documents, target_length=TARGET, settings=SearchSettings(budget=5))
    ls.extend(model, "yarn", target_length=TARGET)
    with pytest.raises(MethodError, match="already extended from 64 to 128 tokens by yarn"):
        search_factors(model, documents, target_length=TARGET)


def test_a_model_without_finite_numbers_is_refused(model: PreTrainedModel, documents: list[torch.Tensor]) -> None:
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.inf
    with pytest.raises(CheckpointError, match="no finite number at 128 tokens"):
        search_factors(model, documents, target_length=TARGET, settings=SearchSettings(budget=6), progress=False)


def test_pieces_come_from_all_documents_before_any_gives_a_second() -> None:
    documents = [torch.arange(25), torch.arange(100, 105), torch.arange(200, 210)]
    found = pieces(documents, 10, 3)
    assert [piece[0].item() for piece in found] == [0, 200, 10]
    assert {len(piece) for piece in found} == {10}
    assert len(pieces(documents, 10, None)) == 3
    assert [piece[0].item() for piece in pieces([torch.arange(1000)], 10, None)] == [0, 10, 20, 30, 40]
    with pytest.raises(DataError, match="the text holds 3 pieces of 10 tokens, not 4"):
        pieces(documents, 10, 4)
    with pytest.raises(DataError, match="the longest has 25 tokens and 30 are needed"):
        pieces(documents, 30, None)


PROTOCOL = {"model": "abc", "target_length": 128}
ONE = Individual(Candidate((1.0, 1.5, 2.0), 4), 3.25, "mutant", 1)
BROKEN = Individual(Candidate((1.0, 2.0, 2.0), 0), math.inf, "crossover", 2)


def test_a_folder_gives_back_what_it_was_given(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "out", PROTOCOL)
    assert not (tmp_path / "out").exists()
    with folder.opened() as done:
        assert done == {}
        folder.keep(ONE)
        folder.keep(BROKEN)
    with SearchFolder(tmp_path / "out", PROTOCOL).opened() as done:
        assert done == {ONE.candidate: 3.25, BROKEN.candidate: math.inf}


def test_a_line_torn_by_a_kill_is_cut_off(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "out", PROTOCOL)
    with folder.opened():
        folder.keep(ONE)
        folder.keep(BROKEN)
    log = tmp_path / "out" / "search.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-20])
    with folder.opened() as done:
        assert set(done) == {ONE.candidate}
        folder.keep(BROKEN)
    assert log.read_bytes() == whole


def test_a_folder_is_kept_to_one_kind_of_numbers(tmp_path: Path) -> None:
    folder, second = SearchFolder(tmp_path / "out", PROTOCOL), SearchFolder(tmp_path / "out", PROTOCOL)
    with folder.opened(), pytest.raises(ConfigError, match="at work"), second.opened():
        pass
    with pytest.raises(ConfigError, match=r"searched with another target_length \(128, now 256\)"):
        SearchFolder(tmp_path / "out", {**PROTOCOL, "target_length": 256})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files and no search"):
        SearchFolder(tmp_path, PROTOCOL)
    (tmp_path / "out" / "search.jsonl").write_text('{"nll": 1}\n')
    with pytest.raises(DataError, match=r"search.jsonl, line 1: not an individual"), folder.opened():
        pass
