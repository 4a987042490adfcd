"""What a row gives, it gives as a column, to the bit, and both are as accurate as promised: every operation, with every
option, on numbers that cancel, overflow in parts, underflow, or are special.

Kernels have a text for rows, one for columns, and others for rows that are short, long, masked, or past the caches. So
each case is computed once for each row alone, which the oracles judge, and again as rows, columns and what is between
them. Cases are a fixed core, and a sample.
"""

import functools
import inspect
import itertools
import re
import zlib
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from conftest import SEED, USABLE_ISAS
from contract import GRADIENTS, REDUCTIONS, SLOW_ISAS, check_accuracy, check_gradient
from reference import LARGEST_TERMS, LONG, ORACLES, WIDE, Losses, WeightedSlices, as_long, assert_same_bits, bits
from toolchains import ROOT

import fastsoftmax as fs
from fastsoftmax import _core

FUNCTIONS = [*_core.ops(), *(f"{op}_with_grad" for op in _core.ops() if hasattr(fs, f"{op}_with_grad"))]
HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
STORAGES = {"float32": [np.dtype(np.float32)], "float64": [np.dtype(np.float64)], "half": HALVES}
LIMITS = np.finfo(np.float64)


def constant(name):
    """A number of csrc/fsm.h."""
    return int(re.search(rf"#define {name}\s+(\d+)", (ROOT / "csrc/fsm.h").read_text())[1])


CHUNK, SCRATCH = constant("FSM_CHUNK"), constant("FSM_SCRATCH")


def borders(lanes):
    """Lengths at which kernels change their way, and the next ones: less than a block, blocks, quads of them, chunks,
    rows from which exponentials are kept, panels for which there is no room in the scratch."""
    short = [1, 2, 3, lanes // 4 + 1, lanes // 2 + 1, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 1]
    quads = [4 * lanes - 1, 4 * lanes, 4 * lanes + 1, 5 * lanes, 7 * lanes + 3, 8 * lanes, 12 * lanes + 1]
    chunks = [CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + lanes // 2, CHUNK + 5 * lanes + 3, 2 * CHUNK + 1, 4 * CHUNK + 1]
    return [*short, *quads, *chunks, SCRATCH // 128 + 1]


# ---- numbers: each makes one row of n, to be rounded to a dtype whose limits are `info`


def ordinary(rng, info, n):
    return rng.standard_normal(n) * rng.choice([0.01, 1, 4]) + rng.choice([0, 0, 3, -30])


def up_to_0(rng, info, n):
    """Of the logarithm of their sum every bit is due to those below the largest."""
    row = rng.standard_normal(n) * rng.choice([0.3, 1, 4])
    return row - row.max()


def wide_apart(rng, info, n):
    """Most of their exponentials are tiny, or none."""
    return rng.standard_normal(n) * rng.choice([30, 100] if info.bits < 64 else [200, 700])


def confident(rng, info, n):
    row = -40 - abs(rng.standard_normal(n)) * 15
    row[rng.choice([0, n // 2, n - 1, rng.integers(n)])] = rng.choice([0, -20, 3])
    return row


def barely_there(rng, info, n):
    """Their probabilities, all but one, are among the smallest normal and the subnormal numbers; or so is their sum."""
    limit = 708 if info.bits == 64 else 87
    row = -limit - rng.choice([rng.uniform(-10, 18, n), np.full(n, rng.uniform(6, 16))])
    row[rng.choice([0, n - 1, rng.integers(n)])] = 0
    return row


def far(rng, info, n):
    """Beyond 2^21 in magnitude, or nearly, where a row's maximum is subtracted."""
    offset = rng.choice([2.0**21, 2.0**21 - 3, 3e6, 1e30]) * rng.choice([-1, 1])
    return np.clip(rng.standard_normal(n) * 3 + offset, -float(info.max) / 2, float(info.max) / 2)


def huge(rng, info, n):
    """Their differences overflow, and so do sums of them."""
    return rng.uniform(-1, 1, n) * float(info.max) * rng.choice([1, 2.0**-20])


def subnormal(rng, info, n):
    row = rng.standard_normal(n) * 3 * (rng.random(n) < 0.5)
    return np.where(rng.random(n) < 0.5, rng.integers(-1000, 1000, n) * float(info.smallest_subnormal), row)


def ties(rng, info, n):
    return np.round(rng.standard_normal(n) * 2)


def equal(rng, info, n):
    return np.full(n, rng.choice([0, 1, -0.7, 2.5, 40, -1e4]))


def drift(rng, info, n):
    return (np.linspace(-300, 300, n) if n > 1 else 0) * rng.choice([1, -1]) + rng.standard_normal(n)


def late(rng, info, n):
    """What the first elements promise is far too little, or too much."""
    row = rng.standard_normal(n)
    row[rng.integers(n) :] += rng.choice([11, 39, 45, 60, 1000, 3e6])
    return row[:: rng.choice([1, -1])]


def by_chunks(rng, info, n):
    """Each chunk needs what others do not, and has the maximum, or nearly."""
    offsets = np.resize(rng.permutation([0, 3e6, -3e6, 50, 60, -200, 2.1e6]), n // CHUNK + 1)
    return rng.standard_normal(n) * 3 + np.repeat(offsets, CHUNK)[:n]


def holes(rng, info, n):
    row = rng.standard_normal(n) * 4
    first = rng.integers(n)
    row[rng.choice([rng.random(n) < 0.3, np.arange(n) < first, np.arange(n) != first])] = -np.inf
    return row


def special(rng, info, n):
    row = ordinary(rng, info, n)
    row[rng.integers(n)] = rng.choice([np.nan, -np.nan, np.inf, -np.inf])
    return rng.choice([row, row, np.full(n, -np.inf), np.full(n, float(info.max)), np.full(n, -0.0)])


LOGITS = [ordinary, up_to_0, wide_apart, confident, barely_there, far, huge, subnormal]
LOGITS += [ties, equal, drift, late, by_chunks, holes, special, up_to_0]


def one_hot(rng, info, n):
    return -1.0 * (np.arange(n) == rng.integers(n))


def nearly_equal(rng, info, n):
    return 1 + rng.standard_normal(n) * 1e-6


def in_pairs(rng, info, n):
    """They cancel, where what they are multiplied by is equal."""
    return np.resize([1.0, -1.0], n) * rng.choice([1, 2.0**36]) * rng.choice([1, 1 + 2.0**-20])


def tiny(rng, info, n):
    return rng.standard_normal(n) * float(info.smallest_normal) * rng.choice([2.0**-8, 2.0**4, 2.0**30])


def of_any_size(rng, info, n):
    return rng.standard_normal(n) * np.exp2(rng.uniform(info.minexp, info.maxexp - 2, n))


def large(rng, info, n):
    """Not so large that a few of them overflow."""
    return rng.standard_normal(n) * float(info.max) ** rng.choice([0.5, 0.9])


GRADS = [ordinary, one_hot, nearly_equal, in_pairs, tiny, of_any_size, large, huge, subnormal, special]


def heavy(rng, info, n):
    """Factors that cancel, so large that what is made of the others is lost in their sum."""
    return rng.permutation(np.resize([1, -1], n)) * 2.0 ** min(36, info.maxexp - 2)


def factors(rng, info, n):
    return rng.random(n) + 0.25


def some_zero(rng, info, n):
    return rng.random(n) * (rng.random(n) < 0.6)


FACTORS = [factors, heavy, some_zero, in_pairs, tiny, large, ordinary]


# ---- arguments and options, by their names


class Maker:
    """Arguments of a function for `rows` different rows of n numbers. What belongs to elements has two dimensions, what
    belongs to rows has one. `turn`: all rows are of one kind, that with this number; None: as `rng` says."""

    def __init__(self, function, dtype, rng, rows, n, turn=None):
        self.parameters, self.dtype, self.rng = parameters_of(function), dtype, rng
        self.rows, self.n, self.turn = rows, n, turn

    def make(self, options):
        self.made = {}
        for name in [*(name for name, kind in self.parameters.items() if kind.default is kind.empty), *options]:
            self.made[name] = getattr(self, name)()
        return self.made

    def one_of(self, *values):
        return values[self.rng.integers(len(values))]

    def matrix(self, kinds, rows, n):
        some = [self.turn % len(kinds)] if self.turn is not None else self.rng.permutation(len(kinds))
        if self.rng.random() < 0.5:
            some = some[:1]
        with np.errstate(over="ignore"):
            each = [kinds[some[i % len(some)]](self.rng, ml_dtypes.finfo(self.dtype), n) for i in range(rows)]
            return np.array(each).astype(self.dtype)

    # ---- arguments

    def x(self):
        return self.matrix(LOGITS, self.rows, self.n)

    a = logits = x

    def logp(self):
        """Logarithms of probabilities, and some that are none."""
        x = as_long(self.x())
        with np.errstate(all="ignore"):
            d = x - x.max(1, keepdims=True)
            logp = (d - np.log(np.exp(d).sum(1, keepdims=True))).astype(self.dtype)
        if self.rng.random() < 0.3:
            logp[self.rng.integers(self.rows)] = self.matrix(LOGITS, 1, self.n)
        return logp

    def y(self):
        """Probabilities, and some numbers that are none."""
        with np.errstate(all="ignore"):
            y = np.exp(as_long(self.logp())).astype(self.dtype)
        if self.rng.random() < 0.3:
            y[self.rng.integers(self.rows)] = self.matrix([*FACTORS, special], 1, self.n)
        return y

    def grad(self):
        of_reduction = "a" in self.parameters
        return self.matrix(GRADS, 1, self.rows)[0] if of_reduction else self.matrix(GRADS, self.rows, self.n)

    def target(self):
        if self.rng.random() < 0.5:
            labels = self.one_of(self.rng.integers(0, self.n, self.rows), self.made["logits"].argmax(axis=1))
            return labels.astype(self.one_of("i8", ">i4", "u8"))
        return self.y() if self.rng.random() < 0.5 else self.matrix([*FACTORS, huge, special], self.rows, self.n)

    # ---- options: what is not the default

    def where(self):
        some = self.rng.random((self.rows, self.n)) < self.rng.choice([0, 0.1, 0.5, 0.95], (self.rows, 1))
        return self.one_of(some, np.repeat(some[:1], self.rows, axis=0))

    def temperature(self):
        return self.one_of(0.7, 1e-3, 300.0, 2.0, 2.0**-30, 1e10)

    def all_neg_inf(self):
        return "zero"

    def subnormals(self):
        return "flush"

    def b(self):
        return self.matrix([*FACTORS, of_any_size, huge, special], self.rows, self.n)

    def return_sign(self):
        return True

    def lse(self):
        with np.errstate(all="ignore"):
            lse = ORACLES["logsumexp"](self.made["a"], -1).astype(self.dtype)
        if self.rng.random() < 0.3:
            lse[self.rng.integers(self.rows)] = self.one_of(0, 3, -50, np.nan, np.inf, -np.inf)
        return lse

    def weight(self):
        return self.matrix([*FACTORS, heavy, special], 1, self.n)[0]

    def ignore_index(self):
        target = self.made["target"]
        if target.ndim > 1:
            return None
        if self.rng.random() < 0.5:
            return int(target[0])
        target[self.rng.random(self.rows) < 0.5] = 2**31 - 1
        return 2**31 - 1

    def label_smoothing(self):
        return self.one_of(0.1, 0.3, 1.0, 1e-6)

    def reduction(self):
        return self.one_of("mean", "sum")

    def z_loss(self):
        return self.one_of(1e-4, 0.1, 3.0, 1e-30)

    def softcap(self):
        return self.one_of(5.0, 30.0, 0.01, 1e6)


@functools.cache
def parameters_of(function):
    """Those that say what is computed, not where and how."""
    every = inspect.signature(getattr(fs, function)).parameters
    return {name: every[name] for name in every if name not in ("axis", "keepdims", "out", "dtype", "num_threads")}


@functools.cache
def options_of(function):
    return [name for name, parameter in parameters_of(function).items() if parameter.default is not parameter.empty]


# ---- layouts


class Layout:
    """Of a matrix of rows, as an array of other axes. `order` names these: o and i are the outer and inner ones of the
    rows, n and m those of what is along a row. `steps`: of each axis, in memory."""

    def __init__(self, order, sizes, steps=None, swapped=False, out="new", past_caches=False, threads=None):
        self.order, self.steps, self.swapped, self.out = order, steps or (1,) * len(order), swapped, out
        self.past_caches, self.threads = past_caches, threads
        self.along = [axis for axis in "oinm" if axis in order]
        self.sizes = [sizes[axis] for axis in self.along]
        self.of_rows = [size for axis, size in zip(self.along, self.sizes, strict=True) if axis in "oi"]
        self.permutation = [self.along.index(axis) for axis in order]
        joined = tuple(order.index(axis) for axis in "nm" if axis in order)
        self.axis = joined if len(joined) > 1 else joined[0]

    def __repr__(self):
        sizes = dict(zip(self.along, self.sizes, strict=True))
        how = f"swapped={self.swapped}, past_caches={self.past_caches}, threads={self.threads}, out={self.out}"
        return f"Layout({self.order}, {sizes}, steps={self.steps}, {how})"

    def lay(self, a):
        """The matrix, or one number a row; a mask that is the same for all rows is there once."""
        if np.ndim(a) < 2:
            return a.reshape(self.of_rows) if np.ndim(a) else a
        same = a.dtype == bool and (a == a[0]).all()
        a = a.reshape(self.sizes).transpose(self.permutation)
        dtype = a.dtype.newbyteorder() if self.swapped and a.dtype.kind != "V" else a.dtype
        view = np.zeros([n * abs(step) for n, step in zip(a.shape, self.steps, strict=True)], dtype)
        view = view[tuple(slice(None, None, step) for step in self.steps)]
        view[...] = a
        one = view[tuple(np.s_[: 1 if axis in "oi" else None] for axis in self.order)]
        return np.broadcast_to(one, a.shape) if same else view

    def taken(self, y):
        """What lay() would have laid so."""
        if y.ndim < len(self.order):
            return y.reshape(-1) if y.ndim else y
        y = y.transpose(np.argsort(self.permutation)).reshape(np.prod(self.of_rows), -1)
        return y.astype(y.dtype.newbyteorder("="), copy=False)

    def results(self, function, arguments):
        """As matrices or as one number a row; a loss of all rows as it is."""
        laid = {name: a if name == "weight" else self.lay(a) for name, a in arguments.items()}
        options = {name: laid.pop(name) for name in options_of(function) if name in laid}
        elements = [a for a in laid.values() if a.ndim == len(self.order)]
        if function not in (*REDUCTIONS, "cross_entropy"):
            other = np.empty(elements[0].shape[::-1], elements[0].dtype).T
            options["out"] = {"new": None, "first": elements[0], "last": elements[-1], "other": other}[self.out]
        if self.past_caches:
            _core.stream_from(0)
        try:
            results = getattr(fs, function)(*laid.values(), self.axis, num_threads=self.threads, **options)
        finally:
            _core.stream_from(-1)
        return [self.taken(np.asarray(y)) for y in (results if isinstance(results, tuple) else (results,))]


def layouts(rng, rows, n, several_axes):
    """Rows, columns, and what is drawn from `rng`."""
    yield Layout("on", {"o": rows, "n": n}, past_caches=rng.random() < 0.3)
    yield Layout("ni", {"n": n, "i": rows})
    orders = ["on", "ni", "ni", "oni", "noi"] + ["nim", "onm", "onim", "noim"] * several_axes
    while True:
        order = orders[rng.integers(len(orders))]
        inner = rng.choice([d for d in range(1, rows + 1) if rows % d == 0]) if {"o", "i"} < set(order) else 1
        minor = rng.choice([d for d in (1, 2, 3, 4, 5, 8, 16, 32) if n % d == 0]) if "m" in order else 1
        sizes = {"o": rows // inner, "i": inner if "o" in order else rows, "n": n // minor, "m": minor}
        yield Layout(
            order,
            sizes,
            steps=None if rng.random() < 0.5 else [int(rng.choice([1, 1, 2, -1, -3])) for _ in order],
            swapped=rng.random() < 0.1,
            out=str(rng.choice(["new", "first", "last", "other"])),
            past_caches=rng.random() < 0.2,
            threads=int(rng.choice([1, 3])),
        )


# ---- cases


class Case:
    """A call of a function on rows of which a few are different, and its layouts. If there is a loss of all rows
    together, all are different."""

    def __init__(self, name, function, dtype, rng, n, options=(), turn=None, rows=None, different=5, arguments=None):
        lanes = 16 if dtype == np.float64 or "b" in options else 32
        few = [lanes // 2 - 1, lanes // 2, lanes, lanes + 1, 2 * lanes, 2 * lanes + 4]
        rows = rows or int(rng.choice(few if n > 150 else [*few, 8 * lanes + 3, 17 * lanes + 4]))
        self.name, self.function, self.dtype, self.n = name, function, dtype, n
        self.together = "reduction" in options
        self.order = np.arange(rows) if self.together else rng.integers(0, min(rows, different), rows)
        if not self.together:
            by_panels = np.arange(rows) // lanes % (self.order.max() + 1)
            self.order = (self.order, np.sort(self.order), by_panels)[rng.integers(3)]
        self.different = np.arange(max(self.order) + 1)
        self.arguments = arguments or Maker(function, dtype, rng, len(self.different), n, turn).make(options)
        if "reduction" in parameters_of(function) and not self.together:
            self.arguments["reduction"] = "none"
        self.layouts = list(itertools.islice(layouts(rng, rows, n, "cross_entropy" not in function), 4))
        self.plain = self.arguments  # that which oracles judge
        if dtype.itemsize == 2 or "subnormals" in options:
            self.plain = {name: wide(a) for name, a in self.arguments.items() if name != "subnormals"}

    def __str__(self):
        options = {name: a if np.ndim(a) == 0 else np.shape(a) for name, a in self.arguments.items()}
        return f"{self.name}: {self.function} of {self.dtype}, {len(self.order)} rows of {self.n}, {options}"

    def alone(self, arguments):
        """The results of each different row by itself."""
        rows = [self.different] if self.together else self.different[:, np.newaxis]
        layout = Layout("on", {"o": len(rows[0]), "n": self.n})
        each = zip(*(layout.results(self.function, taken(arguments, some)) for some in rows), strict=True)
        return [results[0] if self.together else np.concatenate(results) for results in each]

    @functools.cached_property
    def exact(self):
        with np.errstate(all="ignore"):
            return list(exact_results(self.function, taken(self.plain, self.different)))

    def check(self):
        """On the instruction set that is active."""
        expected = self.alone(self.arguments)
        plain = expected if self.plain is self.arguments else self.alone(self.plain)
        for got, of, exact in zip(expected, plain, self.exact if WIDE else [], strict=WIDE):
            rows = exact.rows if np.ndim(got) else exact.rows.all()
            check_exact(self, of[rows], exact, rows)
            if not self.is_rounded_from_float64():
                same_bits(got[rows], self.rounded(of, got.dtype)[rows], self, "as float32, rounded")
        laid = taken(self.arguments, self.order)
        for layout in self.layouts:
            for got, right in zip(layout.results(self.function, laid), expected, strict=True):
                same_bits(got, right if self.together else right[self.order], self, layout)

    def rounded(self, plain, dtype):
        with np.errstate(over="ignore"):
            result = plain.astype(dtype)
        if "subnormals" in self.arguments:
            result[plain < float(ml_dtypes.finfo(dtype).smallest_normal)] = 0
        return result

    def is_rounded_from_float64(self):
        """A half, and not by way of float32."""
        sizes = abs(as_long(self.arguments.get("weight", 1.0)))
        return self.dtype.itemsize == 2 and ("b" in self.arguments or not np.all((sizes > 1e-7) & (sizes < 1e12)))


def same_bits(a, b, case, how):
    if not np.array_equal(bits(a), bits(b)):  # a message takes as long as many a case
        assert_same_bits(a, b, f"{case}, {how}")


def taken(arguments, rows):
    """The arguments of some rows."""
    return {name: a if np.ndim(a) == 0 or name == "weight" else a[rows] for name, a in arguments.items()}


def wide(a):
    """A half as float32."""
    return a.astype(np.float32) if getattr(a, "dtype", None) in HALVES else a


# ---- what is right


class Exact(NamedTuple):
    """A result, that by which its error is measured, what is only small (check_gradient()), and the rows that are
    judged: those where nothing that kernels compute overflows, or underflows, although the result does not."""

    value: np.ndarray
    largest: np.ndarray | None
    negligible: np.ndarray | None
    rows: np.ndarray


def exact_results(function, arguments):
    op, number = function.removesuffix("_with_grad"), len(parameters_of(function)) - len(options_of(function))
    inputs, options = list(arguments.values())[:number], dict(list(arguments.items())[number:])
    every = np.ones(len(inputs[0]), bool)
    if op == "cross_entropy":
        yield from exact_losses(inputs, options)[: 1 if function == op else 2]
        return
    value = ORACLES[op](*inputs, -1, **options)
    of_largest = {name: a for name, a in options.items() if name != "return_sign"}
    largest = LARGEST_TERMS[op](*inputs, -1, **of_largest) if op in LARGEST_TERMS else None
    if op == "logsumexp_grad":
        p = ORACLES[op](np.ones_like(inputs[0]), inputs[1], -1, **options)
        smallest = np.finfo(inputs[1].dtype).smallest_subnormal
        yield Exact(value, None, np.asarray(p < smallest, bool), np.isfinite(inputs[0]))
    elif op in GRADIENTS:
        yield Exact(value, largest, None, sums_are_normal(op, *map(as_long, inputs), options.get("temperature", 1)))
    else:
        value, *signs = value if isinstance(value, tuple) else (value,)
        if "b" in options:
            largest, every = of_weighted(largest, inputs[0], **of_largest)
        yield Exact(value, largest, None, every)
        yield from (Exact(sign, None, None, every) for sign in signs)


def sums_are_normal(op, grad, saved, temperature):
    """Sums are taken in float64. A temperature below 1 brings to light what they lose among subnormal numbers."""
    factors = saved if op == "softmax_grad" else np.exp(saved)
    sums = abs(grad * saved if op == "softmax_grad" else grad).sum(axis=1, keepdims=True)
    largest = np.maximum(1, abs(factors)).max(axis=1, keepdims=True) * sums
    lost = (temperature < 1) & (sums > 0) & (sums < LIMITS.smallest_normal * 2.0**60)
    return (~(largest > LIMITS.max / 2) & ~lost & np.isfinite(grad))[:, 0]


def of_weighted(largest, a, b, where=None):
    """The relative error of a sum that cancels is an absolute one of its logarithm. Factors beyond 2^+-100 join a
    (join_weights() in log_sum.h), and are rounded there."""
    s = WeightedSlices(a, -1, b, where)
    cancelled = s.reduced(lambda: s.cancelled)
    sizes = abs(as_long(np.where(s.take & (b != 0), b, 1)))
    joined = ((sizes < 2.0**-100) | (sizes > 2.0**100)).any(axis=1)
    of_joined = np.where(joined, np.where(s.live, abs(s.x), 0).max(axis=1), 1)
    rows = np.isfinite(sizes).all(axis=1) & ~(cancelled > 2.0**30) & (of_joined < 2.0**20)
    return np.maximum(np.maximum(largest, of_joined), 1) * cancelled, rows


def exact_losses(inputs, options):
    """Of the loss, and of the gradient."""
    e, limits = Losses(*inputs, **options), np.finfo(inputs[0].dtype)
    c, most = abs(e.c).max(axis=1), LONG(limits.max) / 256
    loss, gradient = e.largest_term_of_loss(), e.largest_term_of_gradient()
    rows = (c == 0) | (c >= limits.smallest_normal / limits.eps * 256) & (c <= most)
    rows &= (gradient.max(axis=1) <= most) & ((e.sum_of_sizes + 2 * e.z * e.lse_terms)[:, 0] <= LIMITS.max / 256)
    rows &= (e.others[:, 0] == 0) | (e.others[:, 0] > LIMITS.smallest_normal * 2.0**60) | (limits.bits < 64)
    rows |= ~e.kept[:, 0]
    of_loss = rows & (loss * (1 if np.ndim(loss) else len(rows)) <= most)
    return Exact(e.loss(), loss, None, of_loss), Exact(e.gradient(), gradient, e.negligible(inputs[0].dtype), rows)


def check_exact(case, got, exact, rows):
    """Of the rows that are judged; where the exact result is no finite number, it is that."""
    op = case.function.removesuffix("_with_grad")
    value, largest, negligible = (a if a is None else np.asarray(a)[rows] for a in exact[:3])
    odd = ~np.isfinite(value)
    np.testing.assert_array_equal(as_long(got[odd]), value[odd], str(case))
    got, value, largest = (a if a is None else np.where(odd, 0, a).astype(a.dtype) for a in (got, value, largest))
    if negligible is None:
        check_accuracy(op, got, value, largest, str(case))
    else:
        check_gradient(op, got, value, largest, negligible, str(case))


# ---- the tests


def rng_of(seed, *names):
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def dtype_of(storage, rng):
    return STORAGES[storage][rng.integers(len(STORAGES[storage]))]


@functools.cache
def core(function, storage):
    """Every border with rows of one kind, and with rows of all kinds; no option, each, all, and two at a time."""
    rng, options = rng_of(0, function, storage), options_of(function)
    chosen = [(), *((option,) for option in options), tuple(options), *itertools.combinations(options, 2)]
    cases = []
    for turn in (True, False):
        for n in borders(16 if storage == "float64" else 32):
            name, dtype = f"core {len(cases)}", dtype_of(storage, rng)
            turned = len(cases) if turn else None
            cases.append(Case(name, function, dtype, rng, n, chosen[len(cases) % len(chosen)], turned))
    dtype = dtype_of(storage, rng)
    for i, arguments in enumerate(found(Maker(function, dtype, rng, 5, 40))):
        n = next(a.shape[1] for a in arguments.values() if a.ndim == 2)
        cases.append(Case(f"found {i}", function, dtype, rng, n, arguments=arguments))
    return cases


def found(maker):
    """Arguments that once gave wrong results."""
    limits = ml_dtypes.finfo(maker.dtype)
    if "weight" in maker.parameters:  # the largest coefficient was not known: that which is lost in their sum
        for classes in (4, 40):
            logits, heavy_ones = maker.matrix([ordinary], 5, classes), maker.matrix([heavy], 5, classes)
            labels = maker.rng.integers(0, classes, 5)
            yield {"logits": logits, "target": labels, "weight": heavy_ones[0], "label_smoothing": 0.3}
            yield {"logits": logits, "target": heavy_ones}
        small = maker.matrix([factors], 5, 40) * maker.dtype.type(2 ** (limits.minexp * 0.98))
        yield {"logits": maker.matrix([ordinary], 5, 40), "target": small}
    if "lse" in maker.parameters:  # probabilities that are 0 as halves
        yield {"grad": np.array([1, np.inf, -np.inf, 1, np.inf], maker.dtype), "a": maker.matrix([wide_apart], 5, 40)}
    if "logp" in maker.parameters:  # their exponentials are subnormal, or 0; the sum makes up for that
        logp = np.full((5, 40), max(-1410, float(limits.min)), maker.dtype)
        yield {"grad": maker.matrix([large], 5, 40), "logp": logp}
        # a sum of subnormal numbers, times large ones
        few = np.arange(1, 4, dtype=maker.dtype) * limits.smallest_subnormal
        yield {
            "grad": np.tile(few, (5, 1)),
            "logp": np.full((5, 3), 49 if maker.dtype.itemsize > 2 else 9, maker.dtype),
        }


@functools.cache
def sample(function, storage, begin, count):
    """Anything."""
    cases = []
    for i in range(begin, begin + count):
        rng = rng_of(SEED, function, storage, str(i))
        n = rng.choice([*borders(16 if storage == "float64" else 32), *np.exp2(rng.uniform(0, 12, 9)).astype(int)])
        options = [option for option in options_of(function) if rng.random() < (0.1 if option == "reduction" else 0.35)]
        cases.append(Case(f"seed {SEED}, {i}", function, dtype_of(storage, rng), rng, int(n), options))
    return cases


def check_all(cases, isa):
    """All on the best instruction set, others on each other one, fewer of them on slow ones."""
    i = USABLE_ISAS.index(isa)
    for case in cases[i :: 6 if isa in SLOW_ISAS else 3] if i else cases:
        case.check()


everything = pytest.mark.parametrize(("function", "storage"), list(itertools.product(FUNCTIONS, STORAGES)))


@everything
def test_core(isa, function, storage):
    check_all(core(function, storage), isa)


@everything
def test_sample(isa, function, storage):
    check_all(sample(function, storage, 0, 20), isa)


def check_long_row(function, storage):
    rng = rng_of(SEED, function, storage)
    dtype = dtype_of(storage, rng)
    n = 1_000_000 // (8 if storage == "float64" else 4) + int(rng.integers(1, 100))
    options = [option for option in options_of(function) if option != "reduction" and rng.random() < 0.3]
    name = f"seed {SEED}, {dtype} long"
    Case(name, function, dtype, rng, n, options, rows=int(rng.choice([2, 9])), different=2).check()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_long_rows(function):
    """For which there is no room in the scratch, and which threads share."""
    check_long_row(function, "float64")


@pytest.mark.long
@everything
def test_longer_sample(function, storage):
    for case in sample(function, storage, 20, 80):
        case.check()


@pytest.mark.long
@pytest.mark.parametrize("storage", ["float32", "half"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_more_long_rows(function, storage):
    check_long_row(function, storage)
