"""The same bits, wherever a row lies and whatever computes it. tests/test_native.py adds other compilers and
machines."""

import functools

import numpy as np
import pytest
from conftest import USABLE_ISAS, running_on
from contract import FORWARD, NORMALIZERS, STORAGES, call, listed, takes, views
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_same_bits, joined_axes
from rows import LENGTHS, adversarial, breakers, confident, ordinary, short

FMA_ISAS = [isa for isa in USABLE_ISAS if isa != "base"]


@pytest.fixture(params=FMA_ISAS)
def fma_isa(request):
    with running_on(request.param):
        yield request.param


@functools.cache
def scalar_results(op, dtype, rows):
    with running_on("scalar"):
        return [(name, x, call(op, x)) for name, x in listed(rows, dtype)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rows", [ordinary, breakers, adversarial, confident, short])
def test_every_isa_gives_the_bits_of_scalar(fma_isa, dtype, op, rows):
    cases = scalar_results(op, dtype, rows)
    for name, x, expected in cases[:100] if fma_isa == "scalar" else cases:
        assert_same_bits(call(op, x), expected, name)
        assert_same_bits(call(op, x.T, 0).T, expected, name)
        columns = np.repeat(x.T, 20, axis=1)  # whole strips, where x.T has single columns
        if columns.size < 300_000:
            assert_same_bits(call(op, columns, 0), np.repeat(expected.T, 20, axis=-1), name)


@pytest.mark.sampled(3)
def test_every_isa_gives_the_bits_of_scalar_with_options(fma_isa, dtype, op):
    rng = np.random.default_rng(0)
    for name, x in [*adversarial(dtype, count=60), *confident(dtype)]:
        x = x[:2, :3000]
        options = {"where": rng.random(x.shape) < 0.8}
        if takes(op, "temperature"):
            options["temperature"] = float(rng.choice([0.7, 1e-3, 300, 2, 1e10]))
        if takes(op, "all_neg_inf"):
            options["all_neg_inf"] = "zero"
        if takes(op, "b") and rng.random() < 0.5:
            options |= {"b": rng.standard_normal(x.shape).astype(dtype), "return_sign": True}
        transposed = {k: v.T if isinstance(v, np.ndarray) else v for k, v in options.items()}
        with running_on("scalar"):
            expected = np.atleast_2d(call(op, x, **options))
        assert_same_bits(np.atleast_2d(call(op, x, **options)), expected, name)
        columns = call(op, np.ascontiguousarray(x.T), 0, **transposed)
        assert_same_bits(np.atleast_2d(columns if op == "logsumexp" else columns.T), expected, name)


@pytest.mark.sampled(3)
def test_alone_or_in_a_batch(isa, dtype, op):
    for n in LENGTHS:
        rng = np.random.default_rng(n)
        x = (rng.standard_normal((70, n)) * 10).astype(dtype)
        whole = call(op, x)
        columns = call(op, np.ascontiguousarray(x.T), 0).T
        for i in (0, 1, 31, 32, 69):
            alone = call(op, x[i])
            assert_same_bits(alone, whole[i])
            assert_same_bits(alone, columns[i])


def test_a_neighbour_changes_nothing(isa, dtype, op):
    """Wide, shifted and NaN columns share their strip's variant with the others."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300, 64)) * 3).astype(dtype)
    expected = call(op, x, 0)
    for neighbour in (1e9, np.nan, np.inf, -np.inf, np.linspace(-200, 0, 300)):
        disturbed = x.copy()
        disturbed[:, 5] = neighbour
        got = call(op, disturbed, 0)
        got[..., 5] = expected[..., 5]
        assert_same_bits(got, expected)
        mask = np.ones(x.shape, bool)
        mask[:, 5] = rng.random(300) < 0.5
        got = call(op, x, 0, where=mask)
        got[..., 5] = expected[..., 5]
        assert_same_bits(got, expected)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("n", [300, 1500, 4500])
def test_columns_that_rise_and_fall(isa, dtype, op, n):
    """Columns are summed relative to what their first elements promise (softmax.h): here that is far too little, too
    much, or nothing, in one column of a strip or in all of it."""
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, 4 * 32 + 5)).astype(dtype)
    high = np.array([39, 41, 60, 100, 1e3, 1e5, 3e6, 1e30])
    x[n // 2, 3 : 3 + len(high)] = high
    x[n - 1, 40 : 40 + len(high)] += high
    x[:200, 50] = -np.inf
    x[:200, 51] = -np.inf
    x[200:, 51] -= 60
    x[:200, 52] = -1e30
    x[:140, 53:56] += np.array([30, 200, 1e4])
    x[-1, 60:63] = np.inf, np.nan, -np.inf
    x[:, 96:] = np.linspace(-300, 300, n)[:, np.newaxis] * rng.standard_normal(x.shape[1] - 96)
    x[rng.random(x.shape) < 0.01] = 0
    x[rng.random(x.shape) < 0.01] = np.finfo(dtype).smallest_subnormal
    mask = rng.random(x.shape) < 0.5
    options = [{}, {"where": mask}]
    if takes(op, "temperature"):
        options += [{"temperature": 0.1}, {"temperature": 7}]
    for columns in (x, x[:, :128], x.astype(x.dtype.newbyteorder())):  # the last is never read in place
        for each in options:
            given = {k: v[:, : columns.shape[1]] if k == "where" else v for k, v in each.items()}
            rows = {k: v.T if k == "where" else v for k, v in given.items()}
            expected = call(op, np.ascontiguousarray(columns.T), **rows)
            got = call(op, columns, 0, **given)
            assert_same_bits(got if got.ndim == 1 else got.T, expected, str(rows))


def test_batches_of_short_rows(isa, dtype, op):
    """Rows that fit in a block are computed several at a time, relative to what others promise: here that is too
    little, too much, or nothing, for one row, for a batch, or from some row on."""
    lanes = 128 // np.dtype(dtype).itemsize
    for n in range(1, lanes + 2):
        rng = np.random.default_rng(n)
        x = rng.standard_normal((300, n)).astype(dtype)
        x[40] += 3e6
        x[75, -1] = [np.nan, np.inf, -np.inf][n % 3]
        x[77] = -np.inf
        x[110:112] -= 14
        x[150:] += [20, -20, 100, -1e5, 2.0**21][n % 5]
        x[200:] *= 30
        x[rng.random(x.shape) < 0.01] = 0
        x[rng.random(x.shape) < 0.01] = np.finfo(dtype).smallest_subnormal
        x[-1] = np.finfo(dtype).smallest_normal / 2
        huge = rng.choice([2.0**120, 2.0**121, -np.finfo(dtype).max], x.shape).astype(dtype)
        cases = [(x, {}), (x, {"temperature": 0.7}), (huge, {"temperature": 2.0**100})]
        for a, options in cases if takes(op, "temperature") else cases[:1]:
            expected = call(op, np.ascontiguousarray(a.T), 0, **options).T
            for rows in (slice(None), slice(1, 2), slice(33), slice(37, 103), slice(149, 160)):
                assert_same_bits(call(op, a[rows], **options), expected[rows], f"{n} {rows} {options}")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("storage", ["float16", "bfloat16", "int16", "bool"])
def test_short_rows_of_other_storages(isa, storage, op):
    """They are loaded together and computed several at a time: as one by one, whatever came before on the stack."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 8, 10, 16, 20, 31, 33, 64, 100, 128, 129):
        x = (rng.standard_normal((150, n)) * 20).astype(STORAGES[storage])
        if storage in ("float16", "bfloat16"):
            x[rng.random(x.shape) < 0.05] = -np.inf
            x[77, -1] = np.nan
            x[78] = -np.inf
        mask = rng.random(x.shape) < 0.5
        call(op, x, where=mask) if takes(op, "where") else call(op, x)
        expected = np.array([call(op, row) for row in x])
        for rows in (slice(None), slice(3), slice(7, 16), slice(60, 101)):
            assert_same_bits(call(op, x[rows]), expected[rows], f"{n} {rows}")
        padded = np.zeros((10, 16, n), x.dtype)[:, :15]
        padded[...] = x.reshape(10, 15, n)
        assert_same_bits(call(op, padded).reshape(expected.shape), expected, f"{n} padded")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("n", [150, 1000, 2048, 3000, 9000])
def test_rows_that_differ(isa, dtype, op, n):
    """Rows are summed relative to what rows before them, or their first elements, promise: here that is sometimes too
    little, or too much, or nothing."""
    rng = np.random.default_rng(n)
    apart = np.array([0, 3, 9, 10, 11, 12, 13, 13.5, 14, 15, 20, 39, 41, 60, 100, 1e3, 1e5, 3e6])
    steps = rng.permutation(np.concatenate([apart, -apart]))[: 3 if n > 8192 else None]
    x = rng.standard_normal((5 * len(steps) + 40, n)).astype(dtype)
    for i, step in enumerate(steps):  # four rows that are alike, and one that is not
        x[5 * i : 5 * i + 5] += rng.standard_normal() * 20
        x[5 * i + 4] += step
    others = x[5 * len(steps) :]
    at = np.array([n - 1, n // 2, 3 * n // 4])
    for i, number in enumerate((9, 13, 14, 41, 200, 1e4, np.inf, np.nan)):
        others[4 * i + 3, at[i % 3]] = number
    others[32:34, :100] = -np.inf
    others[34] = -np.inf
    others[35, n // 2 :] = np.finfo(dtype).smallest_subnormal
    others[36, :5] = 0
    others[37] = others[37, 0]
    others[38] *= 30
    for middle in (0, 2**21 - 3, 3 - 2**21):  # where maxima begin to be subtracted
        rows = (x + middle).astype(dtype)
        expected = np.atleast_2d(call(op, np.ascontiguousarray(rows.T), 0).T)
        got = call(op, rows)
        assert_same_bits(np.atleast_2d(got), expected, f"around {middle}")
        if got.shape == rows.shape:
            call(op, rows, out=rows)
            assert_same_bits(rows, expected, f"around {middle}, in place")


@pytest.mark.sampled(3)
def test_alignment(isa, dtype, op):
    for n in (1, 3, 10, 33, 100, 1000, 2049, 5000):
        rng = np.random.default_rng(n)
        x = (rng.standard_normal((3, n)) * 4).astype(dtype)
        mask = rng.random((3, n)) < 0.7
        expected = call(op, x)
        every_second = call(op, x[:, ::-2].copy())
        masked = call(op, x, where=mask)
        for offset in (*range(1, 9), 16, 32, 63):
            raw_x, raw_y = np.zeros((2, x.nbytes + 64), np.uint8)
            moved = raw_x[offset : offset + x.nbytes].view(dtype).reshape(x.shape)
            moved[...] = x
            moved_mask = np.zeros(mask.size + 64, bool)[offset : offset + mask.size].reshape(mask.shape)
            moved_mask[...] = mask
            assert_same_bits(call(op, moved), expected)
            assert_same_bits(call(op, moved[:, ::-2]), every_second)
            assert_same_bits(call(op, moved, where=moved_mask), masked)
            if takes(op, "out"):
                out = raw_y[64 - offset : 64 - offset + expected.nbytes].view(dtype).reshape(expected.shape)
                assert_same_bits(call(op, moved, out=out), expected)
                assert_same_bits(call(op, moved, where=moved_mask, out=out), masked)
            if op in NORMALIZERS:
                assert_same_bits(call(op, moved[:, ::-2], out=out[:, ::-2]), every_second)
                assert_same_bits(call(op, moved, where=moved_mask, out=moved), masked)
                moved[...] = x
                assert_same_bits(call(op, moved, out=moved), expected)


@st.composite
def axes(draw, ndim):
    """One axis, several or all."""
    some = st.lists(st.sampled_from(range(ndim)), unique=True, max_size=ndim)
    signed = some.flatmap(lambda chosen: st.tuples(*(st.sampled_from([i, i - ndim]) for i in chosen)))
    return draw(st.one_of(st.integers(-ndim, ndim - 1), st.integers(-ndim, ndim - 1), signed, st.none()))


def laid_out_as_rows(op, x, axis, where, **options):
    """The result by way of a contiguous matrix that has the joined axes' elements as rows."""
    joined = joined_axes(axis, x.ndim)
    order = [i for i in range(x.ndim) if i not in joined] + joined
    rows = np.ascontiguousarray(x.transpose(order))
    shape = rows.shape[: x.ndim - len(joined)]
    n = int(np.prod(rows.shape[len(shape) :]))
    if where is not None:
        options["where"] = np.ascontiguousarray(where.transpose(order)).reshape(-1, n)
    y = call(op, rows.reshape(-1, n), -1, **options)
    return y.reshape(rows.shape).transpose(np.argsort(order)) if op in NORMALIZERS else y.reshape(shape)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("part", range(4))  # of the examples
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_axes_order_strides_masks_and_in_place(part, data):
    op = data.draw(st.sampled_from(FORWARD))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    sides = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    shape = tuple(min(side, 8) if i > 1 else side for i, side in enumerate(sides))
    shape = tuple(data.draw(st.permutations(shape)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    axis = data.draw(axes(len(shape)))
    x = (rng.standard_normal(shape) * 5).astype(dtype)
    options = {}
    if takes(op, "temperature") and data.draw(st.booleans()):
        options["temperature"] = 0.7
    mask = rng.random(shape) < data.draw(st.sampled_from([0.1, 0.9])) if data.draw(st.booleans()) else None
    expected = laid_out_as_rows(op, x, axis, mask, **options)

    if mask is not None:
        options["where"], _ = data.draw(views(mask))
    view, big = data.draw(views(x))
    before = big.copy()
    assert_same_bits(call(op, view, axis, **options), expected)
    np.testing.assert_array_equal(big, before)

    if takes(op, "out"):
        target, big = data.draw(views(np.zeros(expected.shape, dtype)))
        big[...] = 7.25
        assert call(op, x, axis, out=target, **options) is target
        assert_same_bits(target, expected)
        target[...] = 7.25
        assert np.all(big == 7.25)  # nothing between the elements was touched

    if op in NORMALIZERS:
        assert call(op, view, axis, out=view, **options) is view
        assert_same_bits(view, expected)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("storage", ["float32", "float64", "float16", "bfloat16", "int16", "swapped float32"])
def test_short_rows_that_interleave(isa, storage, op):
    """A tile takes columns from several places along the other dimensions, and may begin or end amid a run of them."""
    rng = np.random.default_rng(0)
    for shape in ((600, 2, 1), (50, 10, 3), (70, 3, 2), (9, 33, 31), (40, 64, 7), (3, 100, 15), (2, 3, 5, 4, 3)):
        x = rng.standard_normal(shape) * 5
        if storage != "int16":
            x[0, 0] += 100
            x[-1, -1] = np.nan
            x[shape[0] // 2] = -np.inf
        x = x.astype(STORAGES[storage])
        mask = rng.random(shape) < 0.7
        spread = np.zeros((*shape[:-1], 2 * shape[-1]), x.dtype)[..., ::2]
        spread[...] = x
        axis = len(shape) - 2
        for where in (None, mask, mask[..., :1]):
            options = {} if where is None else {"where": where}
            whole = None if where is None else np.broadcast_to(where, shape)
            expected = laid_out_as_rows(op, x, axis, whole)
            for view in (x, spread, x[:, ::-1][:, ::-1], np.asfortranarray(x)):
                assert_same_bits(call(op, view, axis, **options), expected, str(shape))
            if takes(op, "out"):
                out = np.full_like(np.repeat(expected, 2, -1), 7)
                call(op, spread, axis, out=out[..., 1::2], **options)
                assert_same_bits(out[..., 1::2], expected, str(shape))
                assert np.all(out[..., ::2] == 7)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_mask_that_broadcasts(data):
    op = data.draw(st.sampled_from(FORWARD))
    shape = tuple(data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = (rng.standard_normal(shape) * 5).astype(data.draw(st.sampled_from(["float32", "float64"])))
    axis = data.draw(axes(len(shape)))
    small = [n if data.draw(st.booleans()) else 1 for n in shape][data.draw(st.integers(0, len(shape))) :]
    mask, _ = data.draw(views(rng.random(small) < 0.6)) if small else (np.True_, None)
    full = np.ascontiguousarray(np.broadcast_to(mask, shape))
    expected = call(op, x, axis, where=full)
    assert_same_bits(call(op, x, axis, where=mask), expected)
    assert_same_bits(call(op, x, axis, where=np.asarray(mask).tolist()), expected)
    assert_same_bits(call(op, x, axis, where=np.broadcast_to(mask, shape)), expected)


def test_broadcast_and_zero_strides(isa, dtype, op):
    row = np.linspace(-3, 3, 50).astype(dtype)
    expected = call(op, row)
    assert_same_bits(call(op, np.broadcast_to(row, (20, 50))), np.broadcast_to(expected, (20, *np.shape(expected))))
    column = np.broadcast_to(row[:, None], (50, 40))
    assert_same_bits(call(op, column, 0).T, np.broadcast_to(expected, (40, *np.shape(expected))))
    assert_same_bits(call(op, column, 1), call(op, column.copy(), 1))
    everywhere = np.broadcast_to(np.array(2, dtype), (3, 40, 50))
    for axis in (0, 1, 2, None, (0, 2)):
        assert_same_bits(call(op, everywhere, axis), call(op, everywhere.copy(), axis))


def test_a_range_of_work_units_is_a_range_of_the_result(isa, dtype, op):
    """What threads rely on: rows do not know which others are computed with them."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((3, 50, 100)) * 4).astype(dtype)
    for axis in range(3):
        for cut_axis in set(range(3)) - {axis}:
            for cut in (1, 2):
                parts = [call(op, part, axis) for part in (x, *np.split(x, [cut], axis=cut_axis))]
                if op not in NORMALIZERS:
                    parts = [np.expand_dims(part, axis) for part in parts]
                assert_same_bits(np.concatenate(parts[1:], axis=cut_axis), parts[0])


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2000, 900), 1),
        ((2000, 900), 0),
        ((2000, 900), None),
        ((30, 100, 500), 1),
        ((30, 100, 500), (0, 2)),
        ((30, 100, 500), (0, 1)),
        ((20000, 3), 1),
        ((2, 900000), 1),
        ((900000, 2), 0),
        ((1, 1500001), 1),
    ],
)
def test_same_bits_at_any_number_of_threads(dtype, op, shape, axis):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape, dtype="float32") * 4).astype(dtype)
    x.flat[:: x.size // 7] = 60  # the maximum is in another part than most elements
    expected = call(op, x[..., ::-1], axis, num_threads=1)
    assert_same_bits(call(op, x[..., ::-1], axis, num_threads=4), expected)
    halves = x.astype("f2")
    assert_same_bits(call(op, halves, axis, num_threads=4), call(op, halves, axis, num_threads=1))
    mask = x > -3
    for options in ({"where": mask, "temperature": 0.7} if takes(op, "temperature") else {"where": mask}, {}):
        expected = call(op, x, axis, num_threads=1, **options)
        for threads in (2, 4, 7):
            assert_same_bits(call(op, x, axis, num_threads=threads, **options), expected)
    if op in NORMALIZERS:
        assert call(op, x, axis, out=x, num_threads=4) is x
        assert_same_bits(x, expected)
