import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlab.functional import (
    budget,
    cells,
    evenly_spaced,
    frame_budgets,
    mean_segments,
    segment_starts,
    top_per_frame,
)


@given(st.floats(0.001, 1), st.integers(1, 1000))
def test_budget_is_rounded_and_never_empty(ratio, total):
    kept = budget(ratio, total)
    assert 1 <= kept <= total
    assert abs(kept - ratio * total) <= 0.5 or kept == 1


@given(st.integers(1, 40), st.integers(0, 40))
def test_spread_is_even(count, extra):
    places = evenly_spaced(count, count + extra).tolist()
    assert sorted(set(places)) == places
    assert places[0] >= 0
    assert places[-1] < count + extra
    gaps = [b - a for a, b in zip(places, places[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30), st.integers(1, 5))
def test_top_per_frame_against_sorting(tokens, keep):
    """Few distinct scores, so that there are ties: the lowest index wins."""
    tokens = sorted(tokens, key=lambda token: token[0])
    frame, score = (torch.tensor(column) for column in zip(*tokens, strict=True))
    expected = []
    for f in sorted(set(frame.tolist())):
        members = [i for i in range(len(tokens)) if frame[i] == f]
        expected += sorted(members, key=lambda i: (-score[i].item(), i))[:keep]
    assert top_per_frame(score.float(), frame, keep).tolist() == sorted(expected)
    assert top_per_frame(score.float(), frame, torch.full((9,), keep)).tolist() == sorted(expected)


@given(st.lists(st.integers(0, 3), min_size=0, max_size=12), st.data())
def test_segments_cut_at_the_highest_steps(steps, data):
    segments = data.draw(st.integers(1, len(steps) + 1))
    starts = segment_starts(torch.tensor(steps, dtype=torch.float32), segments).tolist()
    by_score = sorted(range(len(steps)), key=lambda i: (-steps[i], i))[: segments - 1]
    assert starts == [0, *sorted(i + 1 for i in by_score)]


@given(st.integers(1, 6), st.integers(1, 4), st.data())
def test_segments_become_their_means(frames, tokens, data):
    cuts = data.draw(st.sets(st.integers(1, frames - 1)) if frames > 1 else st.just(set()))
    starts = [0, *sorted(cuts)]
    values = torch.randn(frames, tokens, 3, generator=torch.Generator().manual_seed(0))
    reduction = mean_segments(torch.tensor(starts), frames, tokens).check()
    merged = reduction.apply(values.flatten(0, 1)).reshape(len(starts), tokens, 3)
    for k, (start, stop) in enumerate(zip(starts, [*starts[1:], frames], strict=True)):
        assert torch.allclose(merged[k], values[start:stop].mean(0), atol=1e-6)
        assert (reduction.anchor[k * tokens : (k + 1) * tokens] // tokens == start).all()
        if stop - start == 1:
            assert torch.equal(merged[k], values[start])


@given(st.integers(1, 27), st.integers(1, 27), st.data())
def test_cells_are_so_many_and_hold_every_token(rows, columns, data):
    count = data.draw(st.integers(1, rows * columns))
    label, middle = cells(count, rows, columns)
    assert label.unique().tolist() == list(range(count))
    assert label[middle].tolist() == list(range(count))
    sizes = label.bincount()
    strips = sorted({int(index) // columns for index in middle})
    assert sizes.max() <= -(-rows // len(strips)) * -(-columns // (count // len(strips)))


def test_cells_are_squares_where_they_can_be():
    for k in (1, 2, 3, 4):
        label, middle = cells((24 // k) ** 2, 24, 24)
        assert label.bincount().unique().tolist() == [k * k]
        assert middle[0] == k // 2 * 25


@given(st.floats(0.001, 1), st.lists(st.integers(1, 300), min_size=1, max_size=9))
def test_frames_of_several_sizes_share_the_budget_of_the_medium(ratio, sizes):
    counts = frame_budgets(ratio, sizes)
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    if len(set(sizes)) == 1:
        assert counts == [budget(ratio, sizes[0])] * len(sizes)
    elif all(ratio * size >= 1 for size in sizes):
        assert sum(counts) == budget(ratio, sum(sizes))
        assert all(abs(count - ratio * size) < 1 for count, size in zip(counts, sizes, strict=True))
