"""Activation patterns: packing, hashing, flipping, and the convention for ties."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytope.errors import InputError
from polytope.pattern import ActivationPattern, PatternLayout, piece_of, winner_of

layouts = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 300)), max_size=5).map(tuple)


@st.composite
def patterns(draw: st.DrawFn) -> tuple[np.ndarray, PatternLayout]:
    """Pieces of a random layout."""
    layout = draw(layouts)
    pieces = [draw(st.integers(0, number - 1)) for count, number in layout for _ in range(count)]
    return np.array(pieces, dtype=np.int64), layout


@given(patterns())
def test_packing_is_undone(case: tuple[np.ndarray, PatternLayout]) -> None:
    pieces, layout = case
    pattern = ActivationPattern.from_pieces(pieces, layout)
    np.testing.assert_array_equal(pattern.pieces, pieces)
    assert pattern.pieces.dtype == np.int64
    assert len(pattern) == len(pieces)


@given(patterns())
def test_a_packed_pattern_is_small(case: tuple[np.ndarray, PatternLayout]) -> None:
    pieces, layout = case
    bits = sum(count * max(1, int(np.ceil(np.log2(number)))) for count, number in layout)
    assert len(ActivationPattern.from_pieces(pieces, layout).packed) == -(-bits // 8)


@given(patterns(), st.data())
def test_equal_patterns_are_one_key_and_others_are_not(
    case: tuple[np.ndarray, PatternLayout], data: st.DataObject
) -> None:
    pieces, layout = case
    pattern = ActivationPattern.from_pieces(pieces, layout)
    again = ActivationPattern.from_pieces(pieces.astype(np.int16), layout)
    assert pattern == again
    assert hash(pattern) == hash(again)
    numbers = [number for count, number in layout for _ in range(count)]
    free = [unit for unit, number in enumerate(numbers) if number > 1]
    if free:
        unit = data.draw(st.sampled_from(free))
        piece = data.draw(st.integers(0, numbers[unit] - 1).filter(lambda k: k != pieces[unit]))
        flipped = pattern.flip(unit, piece)
        assert flipped != pattern
        assert len({pattern, again, flipped}) == 2
        changed = np.flatnonzero(flipped.pieces != pieces)
        assert changed.tolist() == [unit]
        assert flipped.pieces[unit] == piece
        assert flipped.flip(unit, int(pieces[unit])) == pattern


def test_patterns_of_different_networks_differ() -> None:
    one = ActivationPattern.from_pieces(np.array([1, 0]), ((2, 2),))
    two = ActivationPattern.from_pieces(np.array([1, 0]), ((1, 2), (1, 2)))
    assert one.packed == two.packed
    assert one != two


def test_relu_takes_one_bit_and_three_pieces_two() -> None:
    layout = ((8, 2), (4, 3), (2, 9))
    pattern = ActivationPattern.from_pieces(np.array([1] * 8 + [2, 0, 1, 2] + [8, 5]), layout)
    assert len(pattern.packed) == 3
    assert pattern.pieces.tolist() == [1] * 8 + [2, 0, 1, 2] + [8, 5]


def test_booleans_are_pieces_of_relu_units() -> None:
    pattern = ActivationPattern.from_pieces(np.array([True, False, True]), ((3, 2),))
    assert pattern.pieces.tolist() == [1, 0, 1]


def test_a_network_without_units_has_a_pattern() -> None:
    pattern = ActivationPattern.from_pieces(np.zeros(0, np.int64), ())
    assert len(pattern) == 0
    assert pattern.packed == b""
    assert pattern.pieces.shape == (0,)


def test_a_pattern_cannot_be_changed() -> None:
    pieces = np.array([1, 0])
    pattern = ActivationPattern.from_pieces(pieces, ((2, 2),))
    pieces[0] = 0
    assert pattern.pieces.tolist() == [1, 0]
    with pytest.raises(ValueError, match="read-only"):
        pattern.pieces[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        pattern.packed = b""  # type: ignore[misc]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (np.array([0, 1]), r"3 units, got shape \(2,\)"),
        (np.array([[0, 1, 0]]), r"got shape \(1, 3\)"),
        (np.array([0, -1, 0]), "a piece that its unit does not have"),
        (np.array([0, 2, 0]), "a piece that its unit does not have"),
        (np.array([0, 1, 3]), "a piece that its unit does not have"),
        (np.array([0.0, 0.5, 1.0]), "whole numbers, got float64"),
        (np.array([0.0, np.nan, 1.0]), "whole numbers, got float64"),
    ],
)
def test_bad_pieces_are_refused(pieces: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ActivationPattern.from_pieces(pieces, ((2, 2), (1, 3)))


@pytest.mark.parametrize("unit", [-1, 3])
def test_flipping_a_unit_that_is_not_there_is_refused(unit: int) -> None:
    pattern = ActivationPattern.from_pieces(np.array([0, 1, 2]), ((2, 2), (1, 3)))
    with pytest.raises(InputError, match=f"unit {unit}.* 3 units"):
        pattern.flip(unit, 0)


def test_flipping_to_a_piece_that_is_not_there_is_refused() -> None:
    pattern = ActivationPattern.from_pieces(np.array([0, 1, 2]), ((2, 2), (1, 3)))
    with pytest.raises(InputError, match="a piece that its unit does not have"):
        pattern.flip(1, 2)


def test_a_value_on_a_breakpoint_is_in_the_piece_below() -> None:
    limits = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    above = torch.nextafter(limits, torch.full_like(limits, torch.inf))
    assert piece_of(limits, limits).tolist() == [0, 1, 2]
    assert piece_of(above, limits).tolist() == [1, 2, 3]
    assert piece_of(torch.tensor([-0.0, 0.0]), torch.tensor([0.0])).tolist() == [0, 0]


def test_each_unit_may_have_its_own_breakpoints() -> None:
    values = torch.tensor([[0.5, 0.5], [-3.0, 3.0]])
    limits = torch.tensor([[0.0, 1.0], [-2.0, 0.5]])
    assert piece_of(values, limits).tolist() == [[1, 1], [0, 2]]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=6))
def test_the_first_of_equal_candidates_wins(candidates: list[int]) -> None:
    values = torch.tensor([candidates], dtype=torch.float64)
    assert winner_of(values).tolist() == [candidates.index(max(candidates))]
