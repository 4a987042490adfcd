"""softmax_grad and log_softmax_grad: accuracy, bits, layouts, special values, errors."""

import functools

import numpy as np
import pytest
from conftest import USABLE_ISAS, running_on
from contract import GRADIENTS, LONGDOUBLE_ULP, SLOW_ISAS, STORAGES, compute_of, listed
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import LARGEST_TERMS, LONG, ORACLES, WIDE, as_long, assert_same_bits, ulp_error
from rows import breakers, confident, gradients, ordinary, short

import fastsoftmax as fs
from fastsoftmax import _core


@pytest.fixture(params=GRADIENTS)
def gradient(request):
    return request.param


def call(name, grad, saved, axis=-1, **options):
    return getattr(fs, name)(grad, saved, axis, **options)


def saved_for(name, x, axis=-1, **options):
    return getattr(fs, GRADIENTS[name])(x, axis, **options)


def exact(name, grad, saved, axis=-1, **options):
    """The exact gradient, and the largest term of it."""
    return ORACLES[name](grad, saved, axis, **options), LARGEST_TERMS[name](grad, saved, axis, **options)


def check(name, grad, saved, axis=-1, message="", **options):
    got = call(name, grad, saved, axis, **options)
    value, largest = exact(name, grad, saved, axis, **options)
    max_ulp = LONGDOUBLE_ULP if got.dtype == LONG else _core.ops()[name][0]
    assert ulp_error(got, value, largest).max(initial=0) <= max_ulp, message
    return got


@functools.cache
def cases(name, dtype):
    """[(message, grad, saved)] of all kinds of rows."""
    found = []
    most = 20_000 if WIDE or dtype == "float32" else 2000
    for rows in (ordinary, breakers, confident, short):
        for message, x in listed(rows, dtype):
            if x.size > most:
                continue
            with running_on("scalar"):
                saved = saved_for(name, x)
            if not np.isnan(saved).any():
                found += [(f"{message}, {kind}", g, saved) for kind, g in gradients(dtype, x.shape, len(found))]
    return found


@functools.cache
def exact_cases(name, dtype):
    return [exact(name, g, saved) for _, g, saved in cases(name, dtype)]


@pytest.mark.sampled(4)
def test_accuracy(isa, dtype, gradient):
    worst = 0
    for (message, g, saved), (value, largest) in zip(cases(gradient, dtype), exact_cases(gradient, dtype), strict=True):
        got = call(gradient, g, saved)
        finite = np.isfinite(as_long(saved)) & np.isfinite(np.asarray(value, dtype=LONG))
        error = ulp_error(got[finite], value[finite], largest[finite]).max(initial=0)
        assert error <= _core.ops()[gradient][0], message
        worst = max(worst, error)
        columns = call(gradient, np.repeat(g.T, 9, axis=1), np.repeat(saved.T, 9, axis=1), 0)
        assert_same_bits(columns[:, ::9].T, got, message)
    assert worst > 0.5


@pytest.mark.parametrize("isa", [isa for isa in USABLE_ISAS if isa not in SLOW_ISAS])
def test_every_isa_gives_the_bits_of_scalar(isa, dtype, gradient):
    for message, g, saved in cases(gradient, dtype)[::3]:
        with running_on("scalar"):
            expected = call(gradient, g, saved)
        with running_on(isa):
            assert_same_bits(call(gradient, g, saved), expected, message)


# ---- what they are


@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 2)])
def test_finite_differences(isa, gradient, axis):
    """The derivative of the forward function along a direction (forward mode), and against one (reverse mode)."""
    rng = np.random.default_rng(0)
    x, direction, back = (rng.standard_normal((5, 7, 4)).astype(LONG) for _ in range(3))
    for temperature in (1.0, 0.7):
        forward = functools.partial(getattr(fs, GRADIENTS[gradient]), axis=axis, temperature=temperature)
        h = 2.0**-20
        slope = (forward(x + h * direction) - forward(x - h * direction)) / (2 * h)
        got = call(gradient, back.astype(np.float64), forward(x).astype(np.float64), axis, temperature=temperature)
        np.testing.assert_allclose((got * direction).sum(), (back * slope).sum(), rtol=1e-9)
        if gradient == "softmax_grad":  # the Jacobian is symmetric
            y = forward(x).astype(np.float64)
            forward_mode = fs.softmax_grad(direction.astype(np.float64), y, axis, temperature=temperature)
            np.testing.assert_allclose(forward_mode, slope.astype(np.float64), rtol=1e-8, atol=1e-11)


def test_known_values(isa, dtype):
    y = np.array([0.25, 0.25, 0.5], dtype)
    assert_same_bits(fs.softmax_grad(np.array([1, 0, 0], dtype), y), np.array([0.1875, -0.0625, -0.125], dtype))
    assert_same_bits(
        fs.softmax_grad(np.array([1, 0, 0], dtype), y, temperature=0.5), np.array([0.375, -0.125, -0.25], dtype)
    )
    got = fs.log_softmax_grad(np.array([-1, 0, 0], dtype), np.log(y))
    np.testing.assert_allclose(got, [-0.75, 0.25, 0.5], rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("temperature", [0.7, 1e-3, 1e3, 1e-200, 1e200])
def test_temperature(isa, dtype, gradient, temperature):
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((4, 300)) * 3).astype(dtype), rng.standard_normal((4, 300)).astype(dtype)
    check(gradient, g, saved_for(gradient, x), temperature=temperature)


@pytest.mark.parametrize("power", [-147, -146, -41, -40, -39, -38, -1, 0, 7, 20])
def test_wide_rows_at_any_temperature(isa, dtype, power):
    """Gradients from the smallest to the largest that have a finite sum, probabilities down to the smallest."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    y = np.exp2(rng.integers(info.minexp - info.nmant, 1, (40, 300)).astype(LONG)).astype(dtype)
    grads = np.exp2(rng.integers(info.minexp, info.maxexp, y.shape).astype(LONG)) * rng.standard_normal(y.shape)
    limit = LONG(2) ** (np.arange(40)[:, np.newaxis] * 2 - 10)  # of their product
    grads = np.where(np.abs(grads * y) < limit, grads, limit / y * rng.uniform(-1, 1, y.shape))
    grads = np.clip(grads, -LONG(info.max), LONG(info.max)).astype(dtype)
    for temperature in (2.0**power, 2.0**power * (1 + 2.0**-40), 2.0**power * (1 - 2.0**-40)):
        with np.errstate(over="ignore"):
            got = check("softmax_grad", grads, y, temperature=temperature)
        columns = fs.softmax_grad(np.ascontiguousarray(grads.T), np.ascontiguousarray(y.T), 0, temperature=temperature)
        assert_same_bits(columns.T, got)


@pytest.mark.parametrize("power", [-126, -133, -146])
def test_tiny_gradients_at_low_temperatures(isa, power):
    rng = np.random.default_rng(0)
    y = fs.softmax(rng.standard_normal((20, 200)).astype(np.float32))
    grads = (2.0**power * rng.standard_normal(y.shape)).astype(np.float32)
    for temperature in (1, 2.0**-10, 2.0**-30):
        check("softmax_grad", grads, y, temperature=temperature)


def test_differences_beyond_the_largest_number(isa, dtype):
    largest = np.finfo(dtype).max
    grads, y = np.array([largest, -largest / 2, 1], dtype), np.array([2.0**-30, 0.5, 0.5], dtype)
    check("softmax_grad", grads, y)


# ---- any array


@pytest.mark.parametrize("first", STORAGES)
@pytest.mark.parametrize("second", ["float16", "bfloat16", "float32", "swapped float64", "longdouble", "int8"])
def test_dtypes(gradient, first, second):
    rng = np.random.default_rng(0)
    g = (rng.random((6, 40)) * 3).astype(STORAGES[first])
    saved = rng.random((6, 40))
    saved = (saved / saved.sum(1, keepdims=True) * (3 if second == "int8" else 1)).astype(STORAGES[second])
    for axis in (0, 1):
        try:
            result = np.result_type(g.dtype, saved.dtype)
        except np.exceptions.DTypePromotionError:  # a 16-bit float and what it does not promote with
            result = np.dtype(np.float64)
        got = call(gradient, g, saved, axis)
        assert got.dtype == (result.newbyteorder("=") if result.kind in "fV" else np.float64)
        compute = compute_of(got.dtype)
        expected = call(gradient, g.astype(compute), saved.astype(compute), axis)
        assert_same_bits(got, expected.astype(got.dtype))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_layout_gives_the_bits_of_contiguous_rows(data):
    name = data.draw(st.sampled_from(list(GRADIENTS)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    shape = data.draw(st.sampled_from([(3, 5, 7), (40, 33), (30, 40, 3), (2, 300, 3), (1, 70), (65, 2), (4, 0, 3)]))
    axis = data.draw(st.sampled_from([*range(len(shape)), None, (0, 1)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    g = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)).astype(dtype)
    saved = saved_for(name, (rng.standard_normal(shape) * rng.choice([1, 30])).astype(dtype), axis)
    expected = call(name, g, saved, axis)
    arrays = []
    for a in (g, saved, np.empty_like(g)):
        order = data.draw(st.permutations(range(a.ndim)))
        steps = data.draw(st.tuples(*[st.sampled_from([1, 2, -1]) for _ in shape]))
        room = np.zeros([shape[i] * abs(steps[i]) for i in order], dtype)
        view = room.transpose(np.argsort(order))[tuple(slice(None, None, s) for s in steps)]
        view[...] = a
        arrays.append(view)
    moved_g, moved_saved, out = arrays
    assert_same_bits(call(name, moved_g, moved_saved, axis), expected)
    assert call(name, moved_g, moved_saved, axis, out=out) is out
    assert_same_bits(out, expected)
    threads = data.draw(st.sampled_from([1, 2, 3]))
    in_place = data.draw(st.sampled_from([moved_g, moved_saved]))
    assert call(name, moved_g, moved_saved, axis, out=in_place, num_threads=threads) is in_place
    assert_same_bits(in_place, expected)


def test_out_that_overlaps(gradient):
    rng = np.random.default_rng(0)
    room = rng.random((3, 50))
    for g, saved, out in (
        (room[:2], room[1:], room[:2]),
        (room[:2], room[:2], room[1:]),
        (room[1:], room[:2, ::-1], room[:2]),
        (room[:, :20], room[:, 10:30], room[:, 5:25]),
    ):
        before = room.copy()
        expected = call(gradient, g.copy(), saved.copy())
        call(gradient, g, saved, out=out)
        assert_same_bits(out, expected)
        room[...] = before


# ---- what is not ordinary


def test_special_values(isa, dtype, gradient):
    """A row with a NaN, an infinity or a saved number that is no probability is computed as it is written."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal((64, 40)).astype(dtype)
    saved = saved_for(gradient, rng.standard_normal((64, 40)).astype(dtype))
    expected = call(gradient, g, saved)
    specials = {3: np.nan, 7: np.inf, 11: -np.inf}
    for row, value in specials.items():
        for which in (0, 1):
            changed = [g.copy(), saved.copy()]
            changed[which][row, 5] = value
            got = call(gradient, *changed)
            with np.errstate(all="ignore"):
                a, s = (c[row].astype(LONG) for c in changed)
                plain = s * (a - (a * s).sum()) if gradient == "softmax_grad" else a - np.exp(s) * a.sum()
            np.testing.assert_allclose(got[row].astype(LONG), plain.astype(dtype).astype(LONG), rtol=1e-5, atol=1e-30)
            others = np.arange(64) != row
            assert_same_bits(got[others], expected[others])
            columns = call(gradient, *(np.ascontiguousarray(c.T) for c in changed), 0)
            assert_same_bits(columns.T, got)


def test_batches_of_short_rows(isa, dtype, gradient):
    """Rows that fit in a block are computed several at a time, unless one of a batch is not ordinary."""
    lanes = 128 // np.dtype(dtype).itemsize
    for n in range(1, lanes + 2):
        rng = np.random.default_rng(n)
        x = rng.standard_normal((300, n)) * 3
        x[150:] *= 30
        g = rng.standard_normal((300, n)).astype(dtype)
        g[10, n // 2] = [np.nan, np.inf, np.finfo(dtype).max][n % 3]
        g[60:80] = -0.0
        g[170:] *= np.finfo(dtype).smallest_normal * 8
        saved = saved_for(gradient, x.astype(dtype))
        saved[101, n // 2] = [np.nan, np.inf, -np.inf][n % 3]
        for options in ({}, {"temperature": 0.7}, {"temperature": 300}):
            columns = (np.ascontiguousarray(a.T) for a in (g, saved))
            expected = call(gradient, *columns, 0, **options).T
            for rows in (slice(None), slice(1, 2), slice(33), slice(37, 130), slice(149, 160)):
                got = call(gradient, g[rows], saved[rows], **options)
                assert_same_bits(got, expected[rows], f"{n} {rows} {options}")


def test_nothing_comes_back_where_nothing_is(isa, dtype):
    y = np.zeros((3, 40), dtype)
    y[:, 7] = 1
    g = np.random.default_rng(0).standard_normal((3, 40)).astype(dtype)
    assert_same_bits(fs.softmax_grad(g, y), np.zeros((3, 40), dtype))
    assert_same_bits(fs.softmax_grad(g, np.zeros((3, 40), dtype)), np.zeros((3, 40), dtype))


# ---- errors


def test_errors(gradient):
    g, y = np.zeros((3, 4)), np.zeros((3, 4))
    other = "y" if gradient == "softmax_grad" else "logp"
    with pytest.raises(ValueError, match=rf"{other} has shape \(3, 5\), expected that of grad, \(3, 4\)."):
        call(gradient, g, np.zeros((3, 5)))
    with pytest.raises(np.exceptions.AxisError):
        call(gradient, g, y, 2)
    with pytest.raises(ValueError, match="out"):
        call(gradient, g, y, out=np.zeros((3, 5)))
    with pytest.raises(TypeError, match="out"):
        call(gradient, g, y, out=np.zeros((3, 4), int))
    with pytest.raises(ValueError, match="temperature must be > 0"):
        call(gradient, g, y, temperature=0)
    with pytest.raises(TypeError, match="complex"):
        call(gradient, g, y.astype(complex))
    with pytest.raises(ValueError, match="num_threads"):
        call(gradient, g, y, num_threads=0)
    with pytest.raises(TypeError, match="got object"):
        call(gradient, g, None)
    with pytest.raises(TypeError, match="got object"):
        call(gradient, None, y)


@pytest.mark.parametrize("n", [1, 3, 100, 128, 1000, 1024, 5000])
def test_nan_everywhere_gives_nan(isa, dtype, gradient, n):
    """As of a row of -inf whose gradient is masked to 0."""
    nothing, zero = np.full((40, n), np.nan, dtype), np.zeros((40, n), dtype)
    rows = call(gradient, zero, nothing)
    assert np.isnan(rows).all()
    assert_same_bits(call(gradient, zero.T.copy(), nothing.T.copy(), 0), rows.T)


def test_misaligned_rows_with_infinities(dtype, gradient):
    raw = np.zeros(3 * np.dtype(dtype).itemsize + 1, np.uint8)
    grad = np.ndarray((3,), dtype, buffer=raw.data, offset=1)
    grad[:] = [1, np.inf, 2]
    expected = call(gradient, grad.copy(), np.full(3, 0.25, dtype))
    assert_same_bits(call(gradient, grad, np.full(3, 0.25, dtype), out=grad), expected)


def test_large_gradients_of_unlikely_elements():
    got = fs.log_softmax_grad(np.array([1e200, 0]), np.array([0, -705.0]))
    np.testing.assert_allclose(got[1], -1e200 * np.exp(-705.0), rtol=1e-13)
