"""The C core without Python: the vector layer against Python's own arithmetic, and the bits of every operation against
this build's scalar reference. By GCC for this machine; with -m compilers by every compiler at hand, for x86-64 and
(emulated) AArch64."""

import functools
import re
from fractions import Fraction

import ml_dtypes
import mpmath
import numpy as np
import pytest
from conftest import running_on
from contract import GRADIENTS
from reference import assert_same_bits
from rows import adversarial, breakers, gradients
from toolchains import ROOT, TOOLCHAINS, Driver, require

import fastsoftmax as fs
from fastsoftmax import _core


@pytest.fixture(scope="module")
def build():
    """The driver of a toolchain, one for all tests."""
    built = {}

    def build_once(name):
        if name not in built:
            built[name] = None
            built[name] = Driver(name)
        assert built[name], f"{name} did not build"
        return built[name]

    yield build_once
    for driver in filter(None, built.values()):
        driver.close()


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name == "gcc-debug" else pytest.mark.compilers, id=name) for name in TOOLCHAINS
    ]
)
def driver(request, build):
    require(request.param)
    return build(request.param)


# ---- bits


def cases(dtype, op):
    """Each is computed on every instruction set, under an emulator for two toolchains: few for what is shared."""
    count = 60 if op == "softmax" else 8
    for i, (name, x) in enumerate([*adversarial(dtype, count=count, seed=7), *breakers(dtype)]):
        if op == "softmax" or i < count or i % 3 == 0 or "subnormal" in name:
            yield name, np.ascontiguousarray(x[:, :6000])


def calls(dtype, op):
    """(name, x, operands and numbers of a loss as Driver.run() takes them, expected results), rows as rows."""
    if op in GRADIENTS:
        of_op = gradient_calls
    else:
        of_op = {"logsumexp_grad": logsumexp_grad_calls, "cross_entropy": loss_calls}.get(op, forward_calls)
    with running_on("scalar"):
        yield from list(of_op(dtype, op))


def forward_calls(dtype, op):
    for name, x in cases(dtype, op):
        yield name, x, {}, (), [getattr(fs, op)(x, axis=1).reshape(len(x), -1)]


def gradient_calls(dtype, op):
    """A few for each kind of gradient that comes back, on rows that have a forward result."""
    results = [(name, getattr(fs, GRADIENTS[op])(x)) for name, x in cases(dtype, op)]
    results = [(name, saved) for name, saved in results if not np.isnan(saved).any()]
    for i, (name, saved) in enumerate(results):
        kinds = list(gradients(dtype, saved.shape, i))
        kind, grad = kinds[i % len(kinds)]
        yield f"{name}, {kind}", grad, {"saved": saved}, (), [getattr(fs, op)(grad, saved, axis=1)]


def logsumexp_grad_calls(dtype, op):
    rng = np.random.default_rng(0)
    for i, (name, x) in enumerate(cases(dtype, op)):
        operands = {"grad": rng.standard_normal((len(x), 1)).astype(dtype)}
        if i % 2:
            operands["lse"] = fs.logsumexp(x, 1, keepdims=True)
        yield f"{name}, {list(operands)}", x, operands, (), [fs.logsumexp_grad(a=x, axis=1, **operands)]


def loss_calls(dtype, op):
    """Rows twice: with labels, the first of three is ignored."""
    rng = np.random.default_rng(0)
    for i, (name, x) in enumerate(cases(dtype, op)):
        x = np.tile(x, (2, 1))
        classes = x.shape[1]
        weight = (rng.random(classes) + 0.25).astype(dtype) if i % 3 == 0 else None
        smoothing, cap = [0.0, 0.1][i // 2 % 2], [None, 30.0][i % 5 == 4]
        z = 1e-4 if i // 4 % 2 else 0.0
        options = {"weight": weight, "label_smoothing": smoothing, "z_loss": z, "softcap": cap, "reduction": "none"}
        if i % 2:
            target = (rng.random(x.shape) / classes).astype(dtype)
            operands = {"target": target}
        else:
            target = rng.integers(0, classes, len(x))
            target[::3] = options["ignore_index"] = -1
            operands = {"labels": target[:, None]}
        if weight is not None:
            operands["class_weight"] = weight[None]
        losses, gradient = fs.cross_entropy_with_grad(x, target, **options)
        numbers = smoothing, z, cap or 0.0
        yield f"{name}, {list(operands)}, {numbers}", x, operands, numbers, [gradient, losses[:, None]]


def as_rows(a):
    return a[:, :, None]


def in_columns(a):
    """The rows side by side, each with the one that is as far from the end."""
    return np.tile(np.stack([a, a[::-1]], axis=2), 18)[:, :, :35]


@pytest.mark.parametrize("op", _core.ops())
def test_every_isa_gives_the_bits_of_scalar(driver, dtype, op):
    for name, x, operands, numbers, expected in calls(dtype, op):
        for isa in driver.isas():
            if isa == "base" or (isa == "scalar" and x.size > 3000):
                continue
            for laid in (as_rows, in_columns) if x.shape[1] <= 1100 else (as_rows,):
                there = {key: a if key == "class_weight" else laid(a) for key, a in operands.items()}
                got = driver.run(op, isa, laid(x), *numbers, **there)
                for a, right in zip(got if numbers else [got], expected, strict=True):
                    with np.errstate(over="ignore"):  # of a loss, which is a float64 here
                        assert_same_bits(a.astype(dtype), laid(right), f"{name} on {isa}, {laid(x).shape}")


def test_the_expected_isas_ran(driver, request):
    isas = set(driver.isas())
    if TOOLCHAINS[request.node.callspec.params["driver"]].emulator:
        assert isas == {"sve", "neon", "base", "scalar"}
    else:
        assert isas == {name for name, usable in _core.isas().items() if usable}


@pytest.mark.compilers
@pytest.mark.parametrize(
    ("cpu", "isas"), [("Nehalem", ["base", "scalar"]), ("Haswell", ["avx2", "base", "scalar"])], ids=["old", "avx2"]
)
def test_dispatch_on_lesser_cpus(build, cpu, isas):
    """Nothing beyond what the CPU has is chosen, or runs before something is chosen."""
    emulator = "qemu-x86_64"
    require("gcc", emulator)
    driver = build("gcc").on([emulator, "-cpu", cpu])
    assert driver.isas() == isas
    x = np.linspace(-30, 5, 3 * 70, dtype=np.float32).reshape(1, 70, 3)
    for isa in isas:
        np.testing.assert_array_max_ulp(driver.run("softmax", isa, x), fs.softmax(x, axis=1), maxulp=1)
    driver.close()


# ---- the vector layer


def fused(a, b, c, dtype):
    """a*b + c, rounded once: half to even, as round() does for a Fraction."""
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return 0.0
    precision = np.finfo(dtype).nmant + 1
    exponent = exact.numerator.bit_length() - exact.denominator.bit_length() - precision
    scaled = exact / Fraction(2) ** exponent
    if abs(scaled) < 2 ** (precision - 1):
        exponent, scaled = exponent - 1, scaled * 2
    elif abs(scaled) >= 2**precision:
        exponent, scaled = exponent + 1, scaled / 2
    return float(np.ldexp(np.float64(round(scaled)), exponent))


def blocks(dtype, decades=4, count=40):
    """Triples of blocks with magnitudes spread over as many powers of ten on either side of 1."""
    lanes = 128 // np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield [(rng.standard_normal(lanes) * 10 ** rng.uniform(-decades, decades, lanes)).astype(dtype) for _ in "abc"]


def integer(dtype):
    return f"u{np.dtype(dtype).itemsize}"


def lanewise(function, dtype):
    """The expected result of a function from blocks to a block."""
    mantissa = np.finfo(dtype).nmant

    def fma(a, b, c):
        return np.array([fused(*abc, dtype) for abc in zip(a, b, c, strict=True)], dtype)

    return {
        "load": lambda a, b, c: a,
        "store": lambda a, b, c: a,
        "nt_store": lambda a, b, c: a,
        "nt_end": lambda a, b, c: a,
        "nt_store_line": lambda a, b, c: a[: 64 // a.itemsize],
        "set1": lambda a, b, c: np.full_like(a, a[0]),
        "add": lambda a, b, c: a + b,
        "sub": lambda a, b, c: a - b,
        "mul": lambda a, b, c: a * b,
        "fma": fma,
        "mul_error": lambda a, b, c: fma(a, b, -(a * b)),
        "scale": lambda a, b, c: fma(a, b, a * c),
        "max": lambda a, b, c: np.where(a > b, a, b),
        "min": lambda a, b, c: np.where(a < b, a, b),
        "abs": lambda a, b, c: np.abs(a),
        "clamp": lambda a, b, c: np.where(b > a, b, a),
        "flush": lambda a, b, c: a,
        "select_lt": lambda a, b, c: np.where(a < b, c, a),
        "pow2": lambda a, b, c: (a.view(integer(dtype)) << mantissa).view(dtype),
        "bits_sub": lambda a, b, c: (a.view(integer(dtype)) - b.view(integer(dtype))).view(dtype),
        "bits_or": lambda a, b, c: (a.view(integer(dtype)) | b.view(integer(dtype))).view(dtype),
    }[function]


LANEWISE = [
    "load",
    "store",
    "nt_store",
    "nt_end",
    "nt_store_line",
    "set1",
    "add",
    "sub",
    "mul",
    "fma",
    "mul_error",
    "scale",
    "max",
    "min",
    "abs",
    "clamp",
    "flush",
    "select_lt",
    "pow2",
    "bits_sub",
    "bits_or",
]


def usable(driver, function):
    """base has no fused multiply-add to test."""
    return [isa for isa in driver.isas() if not (isa == "base" and function in ("fma", "scale"))]


@pytest.mark.parametrize("function", LANEWISE)
def test_lanewise(driver, dtype, function):
    records = list(blocks(dtype))
    expected = np.concatenate([lanewise(function, dtype)(*abc) for abc in records])
    for isa in usable(driver, function):
        got = np.frombuffer(driver.vec(function, isa, dtype, [(0, *abc) for abc in records]), dtype)
        assert_same_bits(got, expected)


def test_clamp_keeps_nan_and_infinities(driver, dtype):
    lanes = 128 // np.dtype(dtype).itemsize
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 5, -5, 0, -0.0], dtype), lanes)
    for low in (-1.0, 1.0):
        records = [(0, x, np.full(lanes, low), x)]
        for isa in driver.isas():
            got = np.frombuffer(driver.vec("clamp", isa, dtype, records), dtype)
            np.testing.assert_array_equal(got, np.where(np.isnan(x), x, np.maximum(x, low)))


def test_flush_keeps_all_but_subnormals(driver, dtype):
    fmt = np.finfo(dtype)
    lanes = 128 // np.dtype(dtype).itemsize
    kept = np.resize(np.array([fmt.smallest_normal, -fmt.smallest_normal, 0, np.inf, -np.inf, np.nan], dtype), lanes)
    tiny = np.resize(np.array([fmt.smallest_subnormal, -fmt.smallest_normal / 2], dtype), lanes)
    for isa in driver.isas():
        got = np.frombuffer(driver.vec("flush", isa, dtype, [(0, x, x, x) for x in (kept, tiny)]), dtype)
        np.testing.assert_array_equal(got[:lanes], kept)
        assert np.all((got[lanes:] == tiny) | (got[lanes:] == 0))


@pytest.mark.parametrize("function", ["load_n", "store_n"])
def test_partial_memory(driver, dtype, function):
    lanes = 128 // np.dtype(dtype).itemsize
    a, b, c = next(blocks(dtype))
    rest = np.full_like(a, b[0]) if function == "load_n" else c
    expected = np.concatenate([np.where(np.arange(lanes) < n, a, rest) for n in range(lanes + 1)])
    for isa in driver.isas():
        got = np.frombuffer(driver.vec(function, isa, dtype, [(n, a, b, c) for n in range(lanes + 1)]), dtype)
        assert_same_bits(got, expected)


def test_maximum_across_lanes(driver, dtype):
    # Every lane is the largest once.
    lanes = 128 // np.dtype(dtype).itemsize
    a = next(blocks(dtype))[0]
    rolled = [np.roll(np.sort(a), shift) for shift in range(lanes)]
    for isa in driver.isas():
        got = np.frombuffer(driver.vec("hmax", isa, dtype, [(0, r, r, r) for r in rolled]), dtype)
        assert_same_bits(got, np.full(lanes, a.max()))


def test_any_less_than(driver, dtype):
    # No lane, then each lane alone; equal is not less, and a NaN is not either.
    lanes = 128 // np.dtype(dtype).itemsize
    limit = np.ones(lanes, dtype)
    x = np.resize(np.array([1, 2, np.nan], dtype), (lanes + 1, lanes))
    for j in range(lanes):
        x[j + 1, j] = 0.5
    for isa in driver.isas():
        got = np.frombuffer(driver.vec("any_lt", isa, dtype, [(0, row, limit, row) for row in x]), dtype)
        np.testing.assert_array_equal(got, [0] + [1] * lanes)


def test_select_less_than(driver, dtype):
    """Equal is not less, -0 is not less than +0, a NaN is not either; a NaN that is chosen is kept."""
    lanes = 128 // np.dtype(dtype).itemsize
    edges = np.array([np.nan, np.inf, -np.inf, 1, -1, 0, -0.0, np.finfo(dtype).smallest_subnormal], dtype)
    records = [(np.resize(edges, lanes), np.full(lanes, b, dtype), np.arange(lanes, dtype=dtype)) for b in edges]
    expected = np.concatenate([np.where(a < b, c, a) for a, b, c in records])
    for isa in driver.isas():
        got = np.frombuffer(driver.vec("select_lt", isa, dtype, [(0, *abc) for abc in records]), dtype)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


def test_first_equal_lane(driver, dtype):
    """No lane, each lane alone, each pair of lanes; zeros of either sign are equal, NaNs are not."""
    lanes = 128 // np.dtype(dtype).itemsize
    none = np.resize(np.array([1, -1, np.nan, np.inf], dtype), lanes)
    records, expected = [], []
    for wanted, met in [(0, -0.0), (-0.0, 0), (np.nan, np.nan), (-np.inf, -np.inf), (2, 2)]:
        for first in range(lanes + 1):
            for second in range(first, lanes + 1):
                x = none.copy()
                x[[j for j in (first, second) if j < lanes]] = met
                records.append((0, x, np.full(lanes, wanted), x))
                expected.append(lanes if np.isnan(met) else first)
    for isa in driver.isas():
        np.testing.assert_array_equal(np.frombuffer(driver.vec("find_eq", isa, dtype, records), dtype), expected)


# ---- squares


def test_squares_are_transposed(driver, dtype):
    """Rows that follow each other, that are apart, that share numbers, and that begin between two of the size."""
    size = np.dtype(dtype).itemsize
    side = 32 // size
    numbers = np.arange(3 * 128 // size, dtype=dtype)
    steps = [side * size, (side + 1) * size, (side + 3) * size, size, 0, side * size + 1]
    a, b, c = numbers.reshape(3, -1)
    for isa in driver.isas():
        got = np.frombuffer(driver.vec("transpose", isa, dtype, [(step, a, b, c) for step in steps]), dtype)
        for square, step in zip(got.reshape(-1, side, side), steps, strict=True):
            rows = [np.frombuffer(numbers.tobytes()[i * step :], dtype, side) for i in range(side)]
            assert_same_bits(square, np.array(rows).T, f"{isa}: {step} bytes apart")


# ---- rows side by side


def shared(dtype):
    """(records, (rows in a block, their length, block, block) of each): every number there is, of every length there
    is room for."""
    lanes = 128 // np.dtype(dtype).itemsize
    pool = list(blocks(dtype, decades=12))
    kinds = [(parts, n) for parts in (1, 2, 4, 8) for n in range(1, lanes // parts + 1)]
    cases = [(parts, n, *pool[i % len(pool)]) for i, (parts, n) in enumerate(8 * kinds)]
    rng = np.random.default_rng(0)
    cases = [(parts, n, a, np.where(rng.random(lanes) < 2 * parts / lanes, a, b), c) for parts, n, a, b, c in cases]
    return [(16 * n + parts, *abc) for parts, n, *abc in cases], cases


def side_by_side(rows, n, parts, fill):
    """The first parts * n numbers of a block as rows, each in its part."""
    wide = np.full((parts, len(rows) // parts), fill)
    wide[:, :n] = rows[: parts * n].reshape(parts, n)
    return wide.ravel()


def first_equal(a, b, n, parts):
    """Where the rows of a block first hold what b does, or their width. No zeros are among them."""
    equal = (a == b).reshape(parts, -1)
    return np.where(equal.any(axis=1), equal.argmax(axis=1), equal.shape[1]).astype(a.dtype)


PARTS = {
    "load_parts": lambda a, b, n, parts: side_by_side(a, n, parts, b[0]),
    "store_parts": lambda a, b, n, parts: a.reshape(parts, -1)[:, :n].ravel(),
    "set_parts": lambda a, b, n, parts: np.repeat(a[:parts], len(a) // parts),
    "max_parts": lambda a, b, n, parts: a.reshape(parts, -1).max(axis=1),
    "find_parts": first_equal,
}


@pytest.mark.parametrize("function", PARTS)
def test_rows_side_by_side(driver, dtype, function):
    records, cases = shared(dtype)
    expected = [PARTS[function](a, b, n, parts) for parts, n, a, b, _ in cases]
    for isa in driver.isas():
        got = np.frombuffer(driver.vec(function, isa, dtype, records), dtype)
        if function == "store_parts":  # what follows the rows may be anything
            got = got.reshape(len(cases), -1)
            got = np.concatenate([row[: parts * n] for row, (parts, n, *_) in zip(got, cases, strict=True)])
        assert_same_bits(got, np.concatenate(expected), isa)


# ---- half precision

HALVES = np.arange(2**16, dtype=np.uint16)


def in_blocks(values):
    """Records for Driver.vec that hold the values in their first block, the last one filled up with zeros."""
    lanes = 128 // values.itemsize
    padded = np.zeros(-(-len(values) // lanes) * lanes, values.dtype)
    padded[: len(values)] = values
    return [(0, block, block, block) for block in padded.reshape(-1, lanes)]


def halves_in_blocks(dtype):
    """Records that hold each 16-bit number once, at the start of the first block."""
    dtype = np.dtype(dtype)
    lanes = 128 // dtype.itemsize
    blocks = np.zeros((2**16 // lanes, lanes), dtype)
    blocks.view(np.uint16)[:, :lanes] = HALVES.reshape(-1, lanes)
    return [(0, block, block, block) for block in blocks]


def to_be_rounded(half, dtype):
    """Numbers of `dtype` on, between and beside those of a 16-bit format; and any at all."""
    infinity = np.array(np.inf, half).view(np.uint16)
    numbers = HALVES[:infinity].view(half).astype(np.float64)
    numbers = np.append(numbers, 2 * numbers[-1] - numbers[-2])
    with np.errstate(over="ignore"):
        x = np.concatenate([numbers, (numbers[:-1] + numbers[1:]) / 2]).astype(dtype)
    fmt = np.finfo(dtype)
    rng = np.random.default_rng(0)
    random = rng.integers(0, 2 ** (8 * x.itemsize), 20_000, dtype=integer(dtype), endpoint=False).view(dtype)
    limits = np.array([0, np.inf, fmt.max, fmt.smallest_normal, fmt.smallest_subnormal, 65519.999, 65520], dtype)
    x = np.concatenate([x, np.nextafter(x, 0), np.nextafter(x, np.inf), random, limits])
    return np.where(rng.random(len(x)) < 0.5, x, -x).astype(dtype)


def nearest(x, half):
    """Finite float64 numbers rounded once to a 16-bit format; NumPy and ml_dtypes go by way of float32 at times."""
    fmt = ml_dtypes.finfo(half)
    unit = np.ldexp(1.0, np.maximum(np.frexp(x)[1] - 1, fmt.minexp) - fmt.nmant)
    with np.errstate(over="ignore"):  # beyond the largest number: infinity
        return (np.rint(x / unit) * unit).astype(half)


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_half_load(driver, dtype, half):
    function = "load_f16" if half is np.float16 else "load_bf16"
    with np.errstate(invalid="ignore"):  # signalling NaNs
        expected = HALVES.view(half).astype(dtype)
    for isa in driver.isas():
        got = np.frombuffer(driver.vec(function, isa, dtype, halves_in_blocks(dtype)), dtype)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_half_store(driver, dtype, half):
    function = "store_f16" if half is np.float16 else "store_bf16"
    x = to_be_rounded(half, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.where(np.isfinite(x), nearest(x.astype(np.float64), half), x.astype(half))
        if half is np.float16:
            np.testing.assert_array_equal(expected, x.astype(half))
    nan = np.isnan(x)
    for isa in driver.isas():
        got = np.frombuffer(driver.vec(function, isa, dtype, in_blocks(x)), np.uint16)[: len(x)]
        np.testing.assert_array_equal(got[~nan], expected.view(np.uint16)[~nan])
        assert np.all(np.isnan(got[nan].view(half)))
        quiet = np.array(0x7E00 if half is np.float16 else 0x7FC0, np.uint16).view(half)
        assert np.all(got[nan] & quiet.view(np.uint16) == quiet.view(np.uint16))
        canonical = driver.vec(function, isa, dtype, in_blocks(np.array([np.nan], dtype)))
        assert canonical[:2] == quiet.tobytes()


def test_rounding_to_odd(driver):
    x = to_be_rounded(ml_dtypes.bfloat16, "float64")
    with np.errstate(over="ignore"):
        x = np.concatenate([x, np.arange(1, 4000) * 2.0**-151, 2.0 ** np.arange(-160, 130), [np.finfo("f4").max * 1.1]])
    fmt = np.finfo(np.float32)
    x = x[~np.isnan(x)]
    finite = np.clip(x, -float(fmt.max), float(fmt.max))
    unit = np.ldexp(1.0, np.maximum(np.frexp(finite)[1] - 1, fmt.minexp) - fmt.nmant)
    expected = (np.trunc(finite / unit) * unit).astype(np.float32)
    expected.view(np.uint32)[expected != finite] |= 1
    expected = np.copysign(np.where(np.isinf(x), x, expected), x).astype(np.float32)
    for isa in driver.isas():
        got = np.frombuffer(driver.vec("odd", isa, "float64", in_blocks(x)), np.float32)[: len(x)]
        assert_same_bits(got, expected)


# ---- functions of scalars


def scalar_inputs(function):
    """Magnitudes of every kind; neighbours of where a step of csrc/math/scalar_math.h changes."""
    rng = np.random.default_rng(0)
    if function == "exp":
        steps = -np.log(2) * (np.arange(1, 1009) - 0.5)  # the nearest power of two changes
        return np.concatenate([[0, -0.0, -5e-324, -1e-20, -700], steps, rng.uniform(-700, 0, 1000), -rng.random(1000)])
    powers = np.ldexp(1.0, np.arange(-1074, 1024))
    near_one = rng.uniform(0.3, 3, 2000)
    x = np.concatenate([powers, powers[-1022:] * np.sqrt(2), near_one])
    if function == "log1p":
        x = np.concatenate([x, powers[1000:1200] - 1, near_one - 1, -powers[powers < 1], [0, -0.0]])
    x = np.concatenate([x, np.nextafter(x, -np.inf), np.nextafter(x, np.inf), [np.finfo(float).max]])
    return x[x > (-1 if function == "log1p" else 0)]


@functools.cache
def scalar_exact(function):
    """The exact results for scalar_inputs as multiples of a double's last bit."""
    exact, units = [], []
    with mpmath.workprec(120):
        for x in scalar_inputs(function):
            value = getattr(mpmath, function)(mpmath.mpf(float(x)))
            units.append(float(np.ldexp(1.0, max(mpmath.mag(value) - 53, -1074) if value else -1074)))
            exact.append(value)
    return exact, units


INF, NAN = np.inf, np.nan
FIRST_BITS = {}  # of each function, on whatever came first


@pytest.mark.parametrize(("function", "bound"), [("log1p", 0.8), ("log", 0.8), ("exp", 0.95)])
def test_scalar_functions(driver, function, bound):
    x = scalar_inputs(function)
    for isa in driver.isas():
        got = np.frombuffer(driver.vec(function, isa, "float64", in_blocks(x)))[: len(x)]
        assert_same_bits(got, FIRST_BITS.setdefault(function, got), isa)
    exact, units = scalar_exact(function)
    with mpmath.workprec(120):
        errors = [abs(mpmath.mpf(float(y)) - e) / unit for y, e, unit in zip(got, exact, units, strict=True)]
    worst = int(np.argmax(errors))
    assert errors[worst] <= bound, x[worst]


@pytest.mark.parametrize(
    ("function", "values"),
    [
        ("log1p", [(0, 0), (-0.0, -0.0), (-1, -INF), (-1.5, NAN), (-1e300, NAN), (-INF, NAN), (INF, INF), (NAN, NAN)]),
        ("log", [(1, 0), (0, -INF), (-0.0, -INF), (-5e-324, NAN), (-1, NAN), (-INF, NAN), (INF, INF), (NAN, NAN)]),
        ("exp", [(0, 1), (-0.0, 1), (-701, 0), (-1e300, 0), (-INF, 0), (NAN, NAN)]),
    ],
)
def test_scalar_functions_at_the_ends(driver, function, values):
    x, expected = np.array(values).T.copy()
    for isa in driver.isas():
        got = np.frombuffer(driver.vec(function, isa, "float64", in_blocks(x)))[: len(x)]
        np.testing.assert_array_equal(got, expected, isa)
        zero = expected == 0
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(expected[zero]), isa)


# ---- sums


def lane_sums(terms):
    """hi and lo of vec_acc_add for a list of blocks."""
    if terms[0].dtype == np.float32:
        total = sum((t.astype(np.float64) for t in terms), np.zeros(len(terms[0])))
        return total, np.zeros(len(total))
    hi, lo = np.zeros(len(terms[0])), np.zeros(len(terms[0]))
    for t in terms:
        hi, lo = merge(hi, lo, t, np.zeros(len(t)), t.dtype)
    return hi, lo


def merge(a_hi, a_lo, b_hi, b_lo, dtype):
    hi = a_hi + b_hi
    if dtype == np.float32:
        return hi, np.zeros_like(hi)
    error = [float(Fraction(a) + Fraction(b) - Fraction(h)) for a, b, h in zip(a_hi, b_hi, hi, strict=True)]
    return hi, (a_lo + b_lo) + np.array(error)


SUMS = ["acc_zero", "acc_of", "acc_add", "acc_get", "acc_merge", "acc_fold"]


@pytest.mark.parametrize("function", SUMS)
def test_sums(driver, dtype, function):
    expected = []
    records = list(blocks(dtype, decades=12))  # else a float64 holds sums of float32 exactly, in any order
    for a, b, c in records:
        hi, lo = lane_sums([a, b, c])
        if function == "acc_zero":
            hi, lo = np.zeros_like(hi), np.zeros_like(hi)
        if function == "acc_of":
            hi, lo = lane_sums([a])
        if function == "acc_merge":
            hi, lo = merge(hi, lo, *lane_sums([c, b]), a.dtype)
        if function == "acc_fold":
            width = len(hi) // 2
            while width:
                hi, lo = merge(hi[:width], lo[:width], hi[width : 2 * width], lo[width : 2 * width], a.dtype)
                width //= 2
        expected += [hi, lo]
    for isa in driver.isas():
        got = np.frombuffer(driver.vec(function, isa, dtype, [(0, *abc) for abc in records]))
        np.testing.assert_array_equal(got, np.concatenate(expected))


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_sums_of_rows_side_by_side(driver, dtype, parts):
    records = list(blocks(dtype, decades=12))
    expected = []
    for a, b, c in records:
        hi, lo = (lanes.reshape(parts, -1) for lanes in lane_sums([a, b, c]))
        while (width := hi.shape[1] // 2) > 0:
            halves = hi[:, :width], lo[:, :width], hi[:, width:], lo[:, width:]
            hi, lo = (lanes.reshape(parts, -1) for lanes in merge(*(half.ravel() for half in halves), a.dtype))
        expected += [hi.ravel(), lo.ravel()]
    for isa in driver.isas():
        got = np.frombuffer(driver.vec("acc_fold_parts", isa, dtype, [(parts, *abc) for abc in records]))
        np.testing.assert_array_equal(got, np.concatenate(expected), isa)


# ---- the order of summation


def defined_sum(e):
    """The sum of a row's exponentials as (hi, lo), as csrc/kernels/sum.h defines it, bit for bit."""
    lanes = 128 // e.itemsize
    total = np.zeros(1), np.zeros(1)
    for start in range(0, len(e), 2048):
        chunk = e[start : start + 2048]
        steps = np.zeros(-(-len(chunk) // (4 * lanes)) * 4 * lanes, e.dtype)
        steps[: len(chunk)] = chunk
        hi, lo = np.zeros(lanes), np.zeros(lanes)
        for s in steps.reshape(-1, 4, lanes):
            quad = ((s[0] + s[2]) + (s[1] + s[3])).astype(np.float64)
            hi, lo = merge(hi, lo, quad, np.zeros(lanes), e.dtype)
        while len(hi) > 1:
            half = len(hi) // 2
            hi, lo = merge(hi[:half], lo[:half], hi[half:], lo[half:], e.dtype)
        total = merge(*total, hi, lo, e.dtype)
    return np.array(total).ravel()


@pytest.mark.parametrize("n", [1, 31, 33, 100, 128, 129, 300, 2047, 2048, 2049, 7000])
def test_order_of_summation(driver, dtype, n):
    rng = np.random.default_rng(n)
    # Wide enough that a float64 cannot hold a sum of float32 exactly: there the order would not matter.
    row = (rng.standard_normal(n) * 8 + 2).astype(dtype)
    columns = (rng.standard_normal((n, 5)) * 8 + 2).astype(dtype)
    for isa in driver.isas():
        e, sums = driver.sums(isa, row, 0)
        np.testing.assert_array_equal(sums[0], defined_sum(e), isa)
        e, sums = driver.sums(isa, columns, 5)
        for j in range(5):
            np.testing.assert_array_equal(sums[j], defined_sum(e[:, j].copy()), isa)


def test_every_function_of_the_contract_is_tested():
    text = "".join((ROOT / f"csrc/simd/{name}.h").read_text() for name in ("block", "parts"))
    declared = set(re.findall(r"^FSM_\w+ [\w ]+?vec_(\w+)\(", text, re.MULTILINE))
    halves = ["load_f16", "store_f16", "load_bf16", "store_bf16"]
    one_by_one = ["load_n", "store_n", "transpose", "hmax", "any_lt", "find_eq", *halves, "acc_fold_parts"]
    tested = [*LANEWISE, *PARTS, *SUMS, *one_by_one]
    assert sorted(declared) == sorted(tested)
