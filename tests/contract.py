"""What the tests of all operations share: how to call them, and what they promise (the bounds of csrc/ops.def)."""

import functools
import inspect

import ml_dtypes
import numpy as np
from reference import LARGEST_TERMS, ORACLES, as_long, as_mpf, ulp_error

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


# ---- the same values, lying otherwise in memory


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
