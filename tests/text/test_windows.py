import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.text import Windows
from charladder.text.windows import permute

IDS = (np.arange(1000) % 251).astype(np.uint8)


@given(st.integers(0, 2**32), st.integers(1, 500))
def test_permute_is_a_permutation(seed, count):
    assert sorted(permute(seed, np.arange(count), count)) == list(range(count))


@pytest.mark.parametrize("order", ["random", "epochs"])
def test_windows_lie_in_the_part_with_their_targets(order):
    windows = Windows(IDS, (100, 600), 16, 3, seed=1, order=order)
    taken, examples = windows.take(64)
    assert taken.shape == (64, 19)
    starts = windows.starts(examples)
    assert starts.min() >= 100
    assert starts.max() + 19 <= 600
    assert all(np.array_equal(row, IDS[s : s + 19]) for row, s in zip(taken, starts, strict=True))


@pytest.mark.parametrize("order", ["random", "epochs"])
def test_examples_do_not_depend_on_batches_or_history(order):
    one, many = Windows(IDS, (0, 1000), 16, 2, 5, order), Windows(IDS, (0, 1000), 16, 2, 5, order)
    whole = one.take(120)[0]
    pieces = np.concatenate([many.take(n)[0] for n in (1, 7, 50, 62)])
    assert np.array_equal(whole, pieces)
    resumed = Windows(IDS, (0, 1000), 16, 2, 5, order)
    resumed.load_state_dict({"examples": 100})
    assert np.array_equal(resumed.take(20)[0], whole[100:])


def test_an_epoch_covers_the_text_once_and_the_next_differs():
    windows = Windows(IDS, (0, 1000), 16, 2, 3, "epochs")
    first = windows.starts(np.arange(windows.windows_per_pass))
    assert len(set(first)) == windows.windows_per_pass == 62
    gaps = np.diff(np.sort(first))
    assert (gaps == 16).all()
    second = windows.starts(np.arange(windows.windows_per_pass, 2 * windows.windows_per_pass))
    assert (np.diff(np.sort(second)) == 16).all()
    assert not np.array_equal(first, second)


def test_random_starts_are_uniform():
    windows = Windows(IDS, (0, 1000), 16, 1, seed=7)
    counts = np.bincount(windows.starts(np.arange(98_400)), minlength=984)
    assert len(counts) == 984
    chi_square = ((counts - 100) ** 2 / 100).sum()
    assert abs(chi_square - 983) < 5 * np.sqrt(2 * 983)


def test_seeds_differ():
    assert not np.array_equal(
        Windows(IDS, (0, 1000), 16, 1, 0).take(8)[0], Windows(IDS, (0, 1000), 16, 1, 1).take(8)[0]
    )


def test_passes():
    windows = Windows(IDS, (0, 1000), 10, 1, 0)
    windows.take(250)
    assert windows.passes == 2.5


def test_text_shorter_than_a_window():
    with pytest.raises(UserError, match="fewer than one window of 990"):
        Windows(IDS, (0, 1000), 990, 11, 0)


ENDS = np.array([3, 40, 41, 60, 97, 300])


@pytest.mark.parametrize("order", ["random", "epochs"])
@given(seed=st.integers(0, 1000), begin=st.integers(0, 45), cut=st.integers(0, 45))
def test_windows_do_not_cross_file_ends(order, seed, begin, cut):
    windows = Windows(np.arange(300), (begin, 300 - cut), 8, 2, seed, order, ENDS)
    taken_BT, _ = windows.take(400)
    firsts, lasts = taken_BT[:, 0], taken_BT[:, -1]
    assert (lasts - firsts == 9).all()
    assert firsts.min() >= begin
    assert lasts.max() < 300 - cut
    assert np.array_equal(np.searchsorted(ENDS, firsts, "right"), np.searchsorted(ENDS, lasts, "right"))


def test_windows_inside_files_use_every_start():
    windows = Windows(np.arange(300), (0, 300), 8, 2, 0, "random", ENDS)
    starts = set(windows.take(20_000)[0][:, 0].tolist())
    begins = [0, *ENDS[:-1].tolist()]
    assert starts == {p for begin, end in zip(begins, ENDS, strict=True) for p in range(begin, end - 9)}


def test_epoch_inside_files_covers_each_once():
    windows = Windows(np.arange(300), (0, 300), 8, 1, 0, "epochs", ENDS)
    inputs = windows.take(windows.windows_per_pass)[0][:, :8].ravel()
    assert len(set(inputs.tolist())) == len(inputs)
    begins = [0, *ENDS[:-1].tolist()]
    assert windows.windows_per_pass == sum((end - begin - 1) // 8 for begin, end in zip(begins, ENDS, strict=True))


@pytest.mark.parametrize("order", ["random", "epochs"])
def test_single_file_gives_the_same_windows_with_file_ends(order):
    crossed = Windows(np.arange(300), (10, 290), 8, 2, 5, order)
    kept = Windows(np.arange(300), (10, 290), 8, 2, 5, order, np.array([300]))
    assert np.array_equal(crossed.take(200)[0], kept.take(200)[0])


def test_too_short_files_are_refused():
    with pytest.raises(UserError, match="the longest file of the training part has 37 characters, fewer than"):
        Windows(np.arange(97), (0, 97), 40, 2, 0, "random", ENDS[:5])


@pytest.mark.parametrize("order", ["random", "epochs"])
def test_pieces_are_the_same_text_with_their_own_targets(order):
    ids = np.arange(1000) % 251
    whole, cut = (Windows(ids, (0, 1000), 12, 2, seed=3, order=order) for _ in range(2))
    windows, examples = whole.take(5)
    pieces, numbers = cut.take(5, pieces=3)
    assert pieces.shape == (15, 4 + 2)
    for at in range(15):
        begin = 4 * (at % 3)
        assert (pieces[at] == windows[at // 3, begin : begin + 6]).all()
    assert numbers.tolist() == [3 * example + part for example in examples for part in range(3)]
    assert whole.state_dict() == cut.state_dict()
    assert cut.take(5, pieces=5)[0].shape == (25, 2 + 2)
