"""Every argument rule, one function a rule. Errors are raised here only, before anything is written."""

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._core import MAX_THREADS


def array(function: str, x: Any) -> NDArray[Any]:
    """`x` as a base ndarray."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{function}() got a numpy.ma.MaskedArray; its mask would be ignored. "
            f"Pass {function}(x.filled(-np.inf)) to leave masked elements out."
        )
    return np.asarray(x)


def axis(value: Any, ndim: int) -> int:
    """One axis of an array of `ndim` dimensions, counted from 0; a 0-d array counts as one element."""
    try:
        index = operator.index(value)
    except TypeError:
        hint = " To join several axes, reshape x." if value is None or isinstance(value, tuple) else ""
        raise TypeError(f"axis must be an int, got {type(value).__name__}.{hint}") from None
    count = max(ndim, 1)
    if not -count <= index < count:
        raise np.exceptions.AxisError(index, ndim)
    return index % count


def float_dtypes(function: str, given: np.dtype[Any], wanted: Any) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The dtype to compute in and the dtype of the result, for input of dtype `given`."""
    if not (given.kind in "biu" or _is_float(given)):
        raise TypeError(f"{function}() supports float16/32/64, bfloat16, integer and bool input, got {given}.")
    if wanted is not None:
        result = np.dtype(wanted)
        if not _is_float(result):
            raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {result}.")
    else:
        result = given if _is_float(given) else np.dtype(np.float64)
    result = result.newbyteorder("=")
    compute = np.dtype(np.float64 if result == np.float64 else np.float32)
    return compute, result


def _is_float(dtype: np.dtype[Any]) -> bool:
    # bfloat16 is known by name: it comes from packages that register it with NumPy, such as ml_dtypes.
    return dtype.type in (np.float16, np.float32, np.float64) or dtype.name == "bfloat16"


def out(value: Any, shape: tuple[int, ...], result: np.dtype[Any]) -> NDArray[Any]:
    """`out` as a base ndarray that can take a result of this shape and dtype."""
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(value).__name__}.")
    if value.shape != shape:
        raise ValueError(f"out has shape {value.shape}, expected {shape}.")
    if not value.flags.writeable:
        raise ValueError("out is read-only.")
    is_number = _is_float(value.dtype) or value.dtype.kind in "fc"
    if not is_number or not np.can_cast(result, value.dtype, casting="same_kind"):
        raise TypeError(f"cannot cast {result} result to out of dtype {value.dtype}.")
    return np.asarray(value)


def num_threads(value: Any) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"num_threads must be an int, got {type(value).__name__}.") from None
    if not 1 <= count <= MAX_THREADS:
        raise ValueError(f"num_threads must be from 1 to {MAX_THREADS}, got {count}.")
    return count


def threads_variable(value: str) -> int:
    """The value of FASTSOFTMAX_NUM_THREADS."""
    if not value.strip().isdecimal() or not 1 <= int(value) <= MAX_THREADS:
        raise ValueError(
            f"FASTSOFTMAX_NUM_THREADS={value!r} is not a number from 1 to {MAX_THREADS}. "
            "Unset it to use all CPUs that the process may."
        )
    return int(value)


def isa(value: str, isas: dict[str, bool]) -> str:
    """The value of FASTSOFTMAX_ISA; `isas` says which ones exist and which this machine can run."""
    if not isas.get(value, False):
        problem = "cannot run on this machine" if value in isas else "is not in this build"
        usable = ", ".join(name for name, ok in isas.items() if ok)
        raise ValueError(f"FASTSOFTMAX_ISA={value!r} {problem}. Usable here: {usable}. Unset it to get the best.")
    return value
