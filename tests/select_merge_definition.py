"""Select-and-merge written as its definition reads: loops, lists and dictionaries, float64. For tests only."""

import math

import torch


@torch.no_grad()
def choices(q, k, sizes, *, routing="shifted", eligible="draft", per_key_head=False, rating="mean", follow=False):
    """`[batch][head][group]` -> the selected region ids: those seen in any case, then as they were found."""
    batch, heads, length, _ = q.shape
    share = heads // k.shape[1]
    result = []
    for b in range(batch):
        result.append([])
        for h in range(heads):
            key = k[b, h // share].double()
            if per_key_head:
                first = h // share * share
                query = q[b, first : first + share].double().mean(0)
            else:
                query = q[b, h].double()
            result[b].append(_choices_of_head(query, key, sizes, length, routing, eligible, rating, follow))
    return result


def _choices_of_head(query, key, sizes, length, routing, eligible, rating, follow):
    regions = math.ceil(length / sizes.region)

    def mean(x, region):
        rows = x[region * sizes.region : (region + 1) * sizes.region]
        return sum(rows) / len(rows)

    def rated(asked, region):
        if rating == "mean":
            return float(asked @ mean(key, region))
        rows = key[region * sizes.region : (region + 1) * sizes.region]
        return sum(max(float(a) * float(row[d]) for row in rows) for d, a in enumerate(asked))

    groups, start = [], sizes.top
    while start < regions:
        rankings = []
        for member in range(sizes.merge):
            i = start + member
            router = i if routing == "lookahead" else i - sizes.merge
            if router >= regions:
                continue
            last = i - sizes.merge if eligible == "draft" else start - 1
            last = min(last, start - sizes.local - 1)
            asked = mean(query, router)
            own = {j: rated(asked, j) for j in range(last + 1)}
            # a region and its place behind the one that is rated: itself, or the next
            marks = {j: (own[j], 0) for j in range(sizes.sinks, last + 1)}
            if follow:
                marks = {j: max(mark, (own.get(j - 1, -math.inf), -1)) for j, mark in marks.items()}
            rankings.append(sorted(marks, key=lambda j: marks[j], reverse=True))
        found = dict.fromkeys([*range(sizes.sinks), *range(start - sizes.local, start)])
        for rank in range(regions):
            for ranking in rankings:
                if rank < len(ranking):
                    found.setdefault(ranking[rank], None)
        groups.append(list(found)[: sizes.selected])
        start += sizes.merge
    return groups


def attention(q, k, v, sizes, chosen, turn=None):
    """Each query by itself: softmax over the tokens it may see. `turn(x, positions)` rotates rows."""
    batch, heads, length, width = q.shape
    share = heads // k.shape[1]
    rows = []
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                seen, own = _seen(sizes, chosen[b][h], t)
                query, keys = q[b, h, t], k[b, h // share][seen]
                if turn is not None:
                    places = torch.arange(len(seen)) if t < sizes.front else _compact(sizes, len(seen), own)
                    query, keys = turn(query[None], places[-1:])[0], turn(keys, places)
                weights = (keys @ query / math.sqrt(width)).softmax(-1)
                rows.append(weights @ v[b, h // share][seen])
    return torch.stack(rows).view(batch, heads, length, v.shape[-1])


def _seen(sizes, chosen, t):
    """Tokens that token t sees, in order, and how many of them are of its own group."""
    if t < sizes.front:
        return list(range(t + 1)), t + 1
    number = (t - sizes.front) // sizes.group
    start = sizes.front + number * sizes.group
    picked = [r * sizes.region + i for r in sorted(chosen[number]) for i in range(sizes.region)]
    own = list(range(start, t + 1))
    return picked + own, len(own)


def _compact(sizes, count, own):
    assert count - own == sizes.selected * sizes.region
    return torch.arange(count)
