"""What the tests of all operations share: how to call them, and what they promise (the bounds of csrc/ops.def)."""

import contextlib
import functools
import inspect

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from reference import LARGEST_TERMS, LONG, ORACLES, as_long, as_mpf, assert_same_bits, ulp_error

import fastsoftmax as fs
from fastsoftmax import _core

SLOW_ISAS = ("scalar", "base")
NORMALIZERS = ["softmax", "log_softmax"]  # of the shape of x
REDUCTIONS = ["logsumexp", "logmeanexp", "softmax_entropy"]
FORWARD = NORMALIZERS + REDUCTIONS
GRADIENTS = {"softmax_grad": "softmax", "log_softmax_grad": "log_softmax"}  # and what they are the gradients of
MAX_SUBNORMAL_UNITS = 2  # of softmax, in the smallest subnormal; the largest of them are as precise as normal numbers
LONGDOUBLE_ULP = 8  # the bound of every operation in long double, of the same kind
ABSENT = {"softmax": 0, "log_softmax": -np.inf, "logsumexp": -np.inf, "logmeanexp": np.nan, "softmax_entropy": 0}
"""What a slice gives in which nothing takes part."""

STORAGES = {name: np.dtype(name) for name in ("float16", "float32", "float64", "longdouble", "bool")}
STORAGES |= {name: np.dtype(name) for name in ("int8", "int16", "int32", "int64", "longlong")}
STORAGES |= {f"u{name}": np.dtype(f"u{name}") for name in ("int8", "int16", "int32", "int64", "longlong")}
STORAGES |= {f"swapped {name}": d.newbyteorder("S") for name, d in STORAGES.items() if d.itemsize > 1}
STORAGES |= {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
"""Every dtype of an input."""


def result_of(storage):
    """The result's dtype for input of dtype STORAGES[storage]."""
    dtype = STORAGES[storage]
    return np.dtype(np.float64) if dtype.kind in "biu" else dtype.newbyteorder("=")


def compute_of(result):
    """What the arithmetic is done in."""
    return np.dtype(np.float32) if result.itemsize == 2 else result


def call(op, x, axis=-1, **options):
    return getattr(fs, op)(x, axis, **options)


@functools.cache
def takes(op, option):
    return option in inspect.signature(getattr(fs, op)).parameters


@functools.cache
def listed(rows, dtype):
    """What a generator of rows.py gives, once for all that ask."""
    return list(rows(dtype))


def exact_and_largest_term(op, x, axis=-1, **options):
    """The exact result, and that by which its error is measured if it is not the result itself."""
    exact = ORACLES[op](x, axis, **options)
    return exact, LARGEST_TERMS[op](x, axis, **options) if op in LARGEST_TERMS else None


def check_accuracy(op, got, exact, largest_term=None, name=""):
    """Special values are the exact ones, and every other result is within the bound of its operation."""
    got = np.asarray(got)
    error = np.asarray(ulp_error(got, exact, largest_term))
    magnitude = np.asarray(abs(exact if largest_term is None else largest_term))
    number = as_mpf if magnitude.dtype == object else as_long
    with np.errstate(invalid="ignore"):
        subnormal = np.asarray(magnitude < number(np.finfo(got.dtype).smallest_normal), bool)
    max_ulp = LONGDOUBLE_ULP if got.dtype.char == "g" else _core.ops()[op][0]
    assert error[~subnormal].max(initial=0) <= max_ulp, name
    if op == "softmax":
        assert error[subnormal].max(initial=0) <= MAX_SUBNORMAL_UNITS, name
    else:  # nothing is promised, but they are still small
        assert np.all(abs(got[subnormal]) <= 2 * np.finfo(got.dtype).smallest_normal), name


def check(op, x, axis=-1, name="", **options):
    """The result, which is as accurate as promised."""
    got = call(op, x, axis, **options)
    check_accuracy(op, got, *exact_and_largest_term(op, x, axis, **options), name)
    return got


def check_gradient(op, got, exact, largest_term, negligible, name=""):
    """As check_accuracy, but of elements that are a factor times a probability below the smallest number it is enough
    that they are small."""
    size = abs(np.asarray(exact, LONG)[negligible])
    assert np.all(abs(as_long(got[negligible])) <= 2 * (size + np.finfo(got.dtype).smallest_normal)), name
    check_accuracy(op, *(a if a is None else np.where(negligible, 0, a) for a in (got, exact, largest_term)), name)


# ---- losses


def both(logits, target, axis=-1, **options):
    """The loss and the gradient of cross_entropy; the loss alone is the same."""
    loss, gradient = fs.cross_entropy_with_grad(logits, target, axis, **options)
    if gradient is not logits:
        alone = fs.cross_entropy(logits, target, axis, **{k: v for k, v in options.items() if k != "out"})
        assert type(alone) is type(loss)
        assert_same_bits(alone, loss)
    return loss, gradient


def normal(dtype, shape, spread=4):
    return (np.random.default_rng(0).standard_normal(shape) * spread).astype(dtype)


def targets_for(x, rng):
    """(kind, target) of every kind for the rows of a matrix."""
    yield "the likeliest", x.argmax(1)
    yield "any label", rng.integers(0, x.shape[1], len(x))
    q = rng.random(x.shape) * (rng.random(x.shape) < 0.7)
    yield "probabilities", (q / np.maximum(q.sum(1, keepdims=True), 1e-3)).astype(x.dtype)


def loss_options(classes, rng):
    """Each option that changes a row's loss, and all at once."""
    weight = rng.random(classes) + 0.25
    yield {}
    yield {"weight": weight}
    yield {"label_smoothing": 0.1}
    yield {"z_loss": 1e-4}
    yield {"weight": weight, "label_smoothing": 0.3, "z_loss": 0.1}


@contextlib.contextmanager
def refused(error, *parts):
    """The block raises that error, with a text that has all these parts."""
    with pytest.raises(error) as caught:
        yield
    text = str(caught.value)
    assert all(str(part) in text for part in parts), text


# ---- the same values, lying otherwise in memory


@st.composite
def views(draw, values):
    """The values in another memory order, with steps of either sign, in a larger array; and that array."""
    order = draw(st.permutations(range(values.ndim)))
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in values.shape]
    big = np.zeros([values.shape[d] * abs(steps[d]) for d in order], values.dtype).transpose(np.argsort(order))
    view = big[(..., *(slice(None, None, step) for step in steps))]
    view[...] = values
    return view, big


def stepped(x):
    big = np.zeros((x.shape[0] * 2, x.shape[1] * 3), x.dtype)
    big[::-2, 1::3] = x
    return big[::-2, 1::3]


def misaligned(x):
    records = np.zeros(x.shape, [("tag", "u1"), ("value", x.dtype)])
    records["value"] = x
    return records["value"]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "C": np.copy,
    "F": np.asfortranarray,
    "steps": stepped,
    "reversed": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "misaligned": misaligned,
    "misaligned F": lambda x: misaligned(x.T).T,
    "read-only": read_only,
}
"""Of matrices."""
