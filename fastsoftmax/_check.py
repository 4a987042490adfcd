"""Every argument rule, one function a rule. Errors are raised here only, before anything is written."""

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._core import MAX_THREADS, storage_of

_FLOATS = ("float16", "bfloat16", "float32", "float64", np.dtype(np.longdouble).name)


def array(function: str, parameter: str, value: Any) -> NDArray[Any]:
    """`value` as a base ndarray of a dtype that kernels know."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{function}() got a numpy.ma.MaskedArray; its mask would be ignored. "
            f"Pass {function}({parameter}.data, where=~np.ma.getmaskarray({parameter}))."
        )
    a = np.asarray(value)
    if storage_of(a.dtype) < 0:
        hint = " (fastsoftmax.scipy takes complex)" if a.dtype.kind == "c" else ""
        raise TypeError(
            f"{function}() supports float16/32/64, bfloat16, longdouble, integer and bool input, got {a.dtype}{hint}."
        )
    return a


def not_masked(parameter: str, value: Any) -> None:
    """Refuses a masked array for an argument other than the first."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{parameter} is a numpy.ma.MaskedArray; its mask would be ignored. "
            f"Pass {parameter}.data, and where=~np.ma.getmaskarray({parameter}) for what takes no part."
        )


def axes(value: Any, ndim: int) -> tuple[int, ...]:
    """The axes that are joined, in order, counted from 0; a 0-d array counts as one element."""
    if value is None:
        return tuple(range(ndim))
    count = max(ndim, 1)
    indices = []
    for item in value if isinstance(value, tuple) else (value,):
        try:
            index = operator.index(item)
        except TypeError:
            got = f"a tuple with {type(item).__name__}" if isinstance(value, tuple) else type(item).__name__
            raise TypeError(f"axis must be an int, a tuple of ints or None, got {got}.") from None
        if not -count <= index < count:
            raise np.exceptions.AxisError(index, ndim)
        if index % count in indices:
            raise ValueError(f"repeated axis: {value} names axis {index % count} of {ndim} dimensions more than once.")
        indices.append(index % count)
    return tuple(sorted(indices)) if ndim else ()


def result_dtype(given: np.dtype[Any], wanted: Any) -> np.dtype[Any]:
    """The dtype of the result, native, for input of dtype `given`."""
    result: np.dtype[Any] = given if given.name in _FLOATS else np.dtype(np.float64)
    if wanted is not None:
        result = np.dtype(wanted)
        if result.name not in _FLOATS:
            raise TypeError(f"dtype must be float16, bfloat16, float32, float64 or longdouble, got {result}.")
    return result.newbyteorder("=")


def out(value: Any, shape: tuple[int, ...], result: np.dtype[Any]) -> NDArray[Any]:
    """`out` as a base ndarray that can take a result of this shape and dtype."""
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(value).__name__}.")
    if value.shape != shape:
        raise ValueError(f"out has shape {value.shape}, expected {shape}.")
    if not value.flags.writeable:
        raise ValueError("out is read-only.")
    if value.dtype.name not in _FLOATS or not np.can_cast(result, value.dtype, casting="same_kind"):
        raise TypeError(f"cannot cast {result} result to out of dtype {value.dtype}.")
    return np.asarray(value)


def mask(value: Any, shape: tuple[int, ...], parameter: str) -> NDArray[np.bool]:
    """`where` as a base ndarray that broadcasts to `shape`."""
    not_masked("where", value)
    a = np.asarray(value)
    if a.dtype != bool:
        raise TypeError(f"where must be bool, got {a.dtype} (additive masks: add them to {parameter}).")
    if not _broadcasts(a.shape, shape):
        raise ValueError(f"where has shape {a.shape}, which does not broadcast to {parameter}'s shape {shape}.")
    return a


def weights(value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """`b` of logsumexp as a base ndarray that broadcasts with `a`, of shape `shape`."""
    not_masked("b", value)
    b = array("logsumexp", "b", value)
    try:
        np.broadcast_shapes(shape, b.shape)
    except ValueError:
        raise ValueError(f"b has shape {b.shape}, which does not broadcast with a's shape {shape}.") from None
    return b


def same_shape(first: str, a: NDArray[Any], second: str, b: NDArray[Any]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{second} has shape {b.shape}, expected that of {first}, {a.shape}.")


def promoted(*pairs: tuple[Any, NDArray[Any]]) -> np.dtype[Any]:
    """The dtype that arguments, given as themselves and as arrays, promote to; Python's own numbers are weak."""
    try:
        return np.result_type(*(value if type(value) in (bool, int, float) else a.dtype for value, a in pairs))
    except np.exceptions.DTypePromotionError:
        return np.dtype(np.float64)  # a 16-bit float and integers that it does not promote with


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    ends = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(length in (1, wanted) for length, wanted in ends)


def temperature(value: Any) -> float:
    if isinstance(value, str | bytes) or np.ndim(value) or np.iscomplexobj(value):
        raise TypeError(f"temperature must be a real number, got {type(value).__name__}.")
    try:
        number = float(value)
    except TypeError:
        raise TypeError(f"temperature must be a real number, got {type(value).__name__}.") from None
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if not number > 0:
        raise ValueError(f"temperature must be > 0, got {value}.")
    return number


def choice(parameter: str, value: Any, first: str, second: str) -> bool:
    """Whether an argument that is one of two words is the second."""
    if not isinstance(value, str) or value not in (first, second):
        got = f'"{value}"' if isinstance(value, str) else repr(value)
        raise ValueError(f'{parameter} must be "{first}" or "{second}", got {got}.')
    return value == second


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
