from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from longspan.systems.discrec.beam import beam_search
from longspan.systems.discrec.codes import SemanticIds
from longspan.systems.discrec.metrics import METRICS, ndcg, ranks_of, recall
from longspan.systems.discrec.model import DiscRec
from longspan.systems.discrec.prepare import Prepared
from longspan.systems.discrec.recommend import next_items
from longspan.systems.discrec.rows import Rows
from longspan.systems.discrec.trie import Trie

Make = Callable[..., DiscRec]


def strings(ids: SemanticIds) -> np.ndarray:
    """The distinct rows of tokens, in the order of the groups."""
    return np.unique(ids.tokens, axis=0)


def rows(prepared: Prepared, count: int) -> torch.Tensor:
    """What the model reads of the first users."""
    reader = Rows(prepared.ids, history=5)
    return torch.from_numpy(np.stack([reader.encoder(row[:-1]) for row in prepared.interactions.histories[:count]]))


@pytest.mark.parametrize("settings", [{}, {"branch": "none"}, {"gate": "collaborative", "left_padding": True}])
def test_the_search_finds_what_the_generate_of_transformers_finds_without_a_cache(
    make_model: Make, prepared: Prepared, settings: dict[str, object]
) -> None:
    model, tokens, beams = make_model(**settings), rows(prepared, 3), 6
    allowed: dict[tuple[int, ...], set[int]] = {}
    for string in strings(prepared.ids).tolist():
        path = [0, *string, 1]
        for end in range(1, 6):
            allowed.setdefault(tuple(path[:end]), set()).add(path[end])
    expected = model.generate(
        tokens,
        attention_mask=(tokens != 0).long(),
        num_beams=beams,
        num_return_sequences=beams,
        early_stopping=True,
        max_length=10,
        use_cache=False,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        prefix_allowed_tokens_fn=lambda _, prefix: sorted(allowed[tuple(prefix.tolist())]),
    )
    groups, scores = beam_search(model, tokens, Trie(prepared.ids), beams)
    found = strings(prepared.ids)[groups.flatten().numpy()]
    assert expected.sequences[:, 1:5].tolist() == found.tolist()
    # theirs are divided by the number of tokens that were written: four codes and the end
    torch.testing.assert_close(expected.sequences_scores * 5, scores.flatten(), atol=1e-4, rtol=1e-4)


def test_a_score_is_the_log_probability_of_the_codes_and_the_end(make_model: Make, prepared: Prepared) -> None:
    model, tokens = make_model(), rows(prepared, 2)
    groups, scores = beam_search(model, tokens, Trie(prepared.ids), 5)
    for row in range(2):
        labels = torch.from_numpy(strings(prepared.ids)[groups[row].numpy()])
        labels = torch.cat([labels, torch.ones(5, 1, dtype=torch.long)], dim=1)
        inputs = tokens[row].expand(5, -1)
        logits = model(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=labels).logits
        each = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        torch.testing.assert_close(each.sum(-1), scores[row], atol=1e-4, rtol=1e-4)


def test_with_more_beams_than_items_every_item_comes_once_and_the_rest_is_empty(make_model: Make) -> None:
    ids = SemanticIds(np.array([[0, 1, 2, 3], [0, 1, 2, 4], [7, 7, 7, 7], [0, 1, 2, 3]]), 8)
    tokens = torch.from_numpy(Rows(ids, history=5).encoder(np.array([2])))[None]
    groups, scores = beam_search(make_model(), tokens, Trie(ids), 20)
    assert sorted(groups[0, :3].tolist()) == [0, 1, 2]
    assert groups[0, 3:].tolist() == [-1] * 17
    assert torch.isneginf(scores[0, 3:]).all()


def test_scores_fall_and_all_answers_are_items(make_model: Make, prepared: Prepared) -> None:
    trie = Trie(prepared.ids)
    groups, scores = beam_search(make_model(), rows(prepared, 8), trie, 20)
    assert (scores.diff(dim=-1) <= 0).all()
    assert all(len(set(row)) == 20 for row in groups.tolist())
    assert groups.min() >= 0
    assert groups.max() < len(trie.items)


def test_the_tree_holds_every_item_and_nothing_else() -> None:
    ids = SemanticIds(np.random.default_rng(0).integers(3, size=(25, 3)), 3)
    trie = Trie(ids)
    found = {}
    for string in np.ndindex(3, 3, 3):
        node = torch.zeros(1, 1, dtype=torch.long)
        for code in string:
            node = trie.step(node)[..., code]
        if node.item() >= 0:
            found[string] = trie.items[int(node)].tolist()
    codes = [tuple(row) for row in ids.codes.tolist()]
    assert found == {string: [i for i, code in enumerate(codes) if code == string] for string in set(codes)}


def test_a_hit_at_rank_3_is_worth_one_half() -> None:
    ranked = np.array([[4, 2, 7, 1, 0, 3], [4, 2, 7, 1, 0, 3], [4, 2, 7, 1, 0, -1]])
    ranks = ranks_of(ranked, np.array([7, 3, 9]))
    assert ranks.tolist() == [3, 6, 0]
    assert ndcg(ranks, 5).tolist() == [0.5, 0, 0]
    assert recall(ranks, 5).tolist() == [1, 0, 0]
    assert METRICS["recall@10"](ranks).tolist() == [1, 1, 0]
    assert METRICS["ndcg@10"](ranks)[1] == pytest.approx(1 / np.log2(7))


def test_items_that_share_their_codes_are_all_named_with_one_score(make_model: Make, prepared: Prepared) -> None:
    found = next_items(make_model(), prepared, prepared.interactions.histories[0], top=40)
    assert len(found) == 40
    groups = prepared.ids.groups
    (shared,) = (np.flatnonzero(groups == group) for group in range(39) if (groups == group).sum() == 2)
    scores = {row.item: row.score for row in found}
    first, second = (prepared.interactions.items[item] for item in shared)
    assert scores[first] == scores[second]


def test_what_was_taken_is_marked_or_left_out(make_model: Make, prepared: Prepared) -> None:
    history = prepared.interactions.histories[0]
    taken = {prepared.interactions.items[item] for item in history}
    found = next_items(make_model(), prepared, history, top=40)
    assert {row.item for row in found if row.seen} == taken
    fresh = next_items(make_model(), prepared, history, top=5, unseen=True)
    assert [row.item for row in fresh] == [row.item for row in found if not row.seen][:5]
    assert {row.name for row in found if row.name} <= set(prepared.interactions.names.values())
