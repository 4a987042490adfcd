"""The same bits, wherever a row lies and whatever computes it. tests/test_native.py adds other compilers and
machines."""

import numpy as np
import pytest
from conftest import USABLE_ISAS, running_on
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_same_bits
from rows import LENGTHS, adversarial, breakers, ordinary

import fastsoftmax as fs

FMA_ISAS = [isa for isa in USABLE_ISAS if isa != "base"]


@pytest.fixture(params=FMA_ISAS)
def fma_isa(request):
    with running_on(request.param):
        yield request.param


@pytest.mark.parametrize("rows", [ordinary, breakers, adversarial])
def test_every_isa_gives_the_bits_of_scalar(fma_isa, dtype, rows):
    for name, x in rows(dtype):
        with running_on("scalar"):
            expected = fs.softmax(x)
        assert_same_bits(fs.softmax(x), expected, name)
        assert_same_bits(fs.softmax(x.T, axis=0).T, expected, name)
        columns = np.repeat(x.T, 20, axis=1)  # whole strips, where x.T has single columns
        assert_same_bits(fs.softmax(columns, axis=0), np.repeat(expected.T, 20, axis=1), name)


@pytest.mark.parametrize("n", LENGTHS)
def test_alone_or_in_a_batch(isa, dtype, n):
    rng = np.random.default_rng(n)
    x = (rng.standard_normal((70, n)) * 10).astype(dtype)
    whole = fs.softmax(x)
    columns = fs.softmax(np.ascontiguousarray(x.T), axis=0)
    for i in (0, 1, 31, 32, 69):
        alone = fs.softmax(x[i])
        assert_same_bits(alone, whole[i])
        assert_same_bits(alone, columns[:, i])


def test_a_neighbour_changes_nothing(isa, dtype):
    """Wide, shifted and NaN columns share their strip's variant with the others."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300, 64)) * 3).astype(dtype)
    expected = fs.softmax(x, axis=0)
    for neighbour in (1e9, np.nan, np.inf, -np.inf, np.linspace(-200, 0, 300)):
        disturbed = x.copy()
        disturbed[:, 5] = neighbour
        got = fs.softmax(disturbed, axis=0)
        got[:, 5] = expected[:, 5]
        assert_same_bits(got, expected)


@pytest.mark.parametrize("n", [1, 3, 10, 33, 100, 1000, 2049, 5000])
def test_alignment(isa, dtype, n):
    rng = np.random.default_rng(n)
    x = (rng.standard_normal((3, n)) * 4).astype(dtype)
    expected = fs.softmax(x)
    for offset in (*range(1, 9), 16, 32, 63):
        raw_x = np.zeros(x.nbytes + 64, np.uint8)
        raw_y = np.zeros(x.nbytes + 64, np.uint8)
        moved = raw_x[offset : offset + x.nbytes].view(dtype).reshape(x.shape)
        out = raw_y[64 - offset : 64 - offset + x.nbytes].view(dtype).reshape(x.shape)
        moved[...] = x
        assert_same_bits(fs.softmax(moved, out=out), expected)
        assert_same_bits(fs.softmax(moved[:, ::-2], out=out[:, ::-2]), fs.softmax(x[:, ::-2].copy()))
        assert_same_bits(fs.softmax(moved, out=moved), expected)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_axis_order_strides_and_in_place(data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    shape = tuple(data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = (rng.standard_normal(shape) * 5).astype(dtype)
    expected = np.moveaxis(fs.softmax(np.ascontiguousarray(np.moveaxis(x, axis, -1))), -1, axis)

    # The same values in another memory order, with steps of either sign, in a larger array.
    order = data.draw(st.permutations(range(len(shape))))
    steps = [data.draw(st.sampled_from([1, 2, 3, -1, -2])) for _ in shape]
    big = np.zeros([shape[d] * abs(steps[d]) for d in order], dtype).transpose(np.argsort(order))
    view = big[tuple(slice(None, None, step) for step in steps)]
    view[...] = x
    before = big.copy()
    assert_same_bits(fs.softmax(view, axis), expected)
    np.testing.assert_array_equal(big, before)

    out = np.zeros_like(big)
    target = out[tuple(slice(None, None, step) for step in steps)]
    assert fs.softmax(x, axis, out=target) is target
    assert_same_bits(target, expected)
    assert np.count_nonzero(out) <= x.size  # nothing between the elements was touched

    assert fs.softmax(view, axis, out=view) is view
    assert_same_bits(view, expected)


def test_broadcast_and_zero_strides(isa, dtype):
    row = np.linspace(-3, 3, 50).astype(dtype)
    expected = fs.softmax(row)
    assert_same_bits(fs.softmax(np.broadcast_to(row, (20, 50))), np.broadcast_to(expected, (20, 50)))
    column = np.broadcast_to(row[:, None], (50, 40))
    assert_same_bits(fs.softmax(column, axis=0), np.broadcast_to(expected[:, None], (50, 40)))
    assert_same_bits(fs.softmax(column, axis=1), fs.softmax(column.copy(), axis=1))


def test_a_range_of_work_units_is_a_range_of_the_result(isa, dtype):
    """What threads will rely on: rows do not know which others are computed with them."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((3, 50, 100)) * 4).astype(dtype)
    for axis in range(3):
        whole = fs.softmax(x, axis)
        for cut_axis in set(range(3)) - {axis}:
            for cut in (1, 2):
                head, tail = np.split(x, [cut], axis=cut_axis)
                parts = [fs.softmax(part, axis) for part in (head, tail)]
                assert_same_bits(np.concatenate(parts, axis=cut_axis), whole)
