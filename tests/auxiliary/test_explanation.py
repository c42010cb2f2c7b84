"""Rows of `explain`."""

import pytest

from charladder import auxiliary as aux
from charladder.auxiliary import presets

NEXT = [("A", "B"), ("AB", "C"), ("ABC", "D"), ("ABCD", "E"), ("ABCDE", "F")]
SECOND = [("A", "C"), ("AB", "D"), ("ABC", "E"), ("ABCD", "F")]


def test_rows_of_a_short_text():
    rows = aux.explain("ABCDEF", layers=3, targets=2, progress=0.2)
    golden = [
        (loss, layer, given, offset, target, weight, weight > 0)
        for loss, layer, offset, pairs, weight in (
            ("layer1.target1", 1, 1, NEXT, 0.0),  # inactive since 1/6
            ("layer1.target2", 1, 2, SECOND, 0.0),
            ("layer2.target1", 2, 1, NEXT, 1.0),  # until 1/3
            ("layer2.target2", 2, 2, SECOND, 0.5),
            ("main", 3, 1, NEXT, 1.0),
            ("layer3.target2", 3, 2, SECOND, 0.5),
        )
        for given, target in pairs
    ]
    assert [tuple(vars(row).values()) for row in rows] == golden


@pytest.mark.parametrize("preset", sorted(presets.INTERMEDIATE | presets.TARGETS))
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_every_preset_can_be_explained(preset, progress):
    rows = aux.explain("ABCD", layers=4, targets=3, progress=progress, weight=preset, step=2)
    assert len(rows) == 4 * (3 + 2 + 1)
    assert all(row.active == (row.weight != 0) for row in rows)
    assert all("ABCD"["ABCD".index(row.given[-1]) + row.offset] == row.target for row in rows)


def test_targets_past_the_end_are_left_out():
    assert aux.explain("A", 1, 1, 0.0) == []
    assert [row.offset for row in aux.explain("AB", 1, 9, 0.0)] == [1]


@pytest.mark.parametrize(("layers", "targets", "progress"), [(0, 1, 0.0), (1, 0, 0.0), (1, 1, -0.1), (1, 1, 1.5)])
def test_invalid_layers_targets_and_progress_raise(layers, targets, progress):
    with pytest.raises(aux.AuxiliaryError):
        aux.explain("AB", layers, targets, progress)
