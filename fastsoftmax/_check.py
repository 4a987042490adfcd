"""Every argument rule, one function a rule. Errors are raised here only, before anything is written."""

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._core import MAX_THREADS, count_labels, is_float, storage_of

_TAKE_WHERE = ("softmax", "log_softmax", "logsumexp", "logmeanexp", "softmax_entropy")


def array(function: str, parameter: str, value: Any) -> NDArray[Any]:
    """`value` as a base ndarray of a dtype that kernels know."""
    if isinstance(value, np.ma.MaskedArray):
        call = f"{function}({parameter}.data, where=~np.ma.getmaskarray({parameter}))"
        if function not in _TAKE_WHERE:
            call = f"{parameter}.data, or {parameter}.filled() with what its masked elements shall count as"
        raise TypeError(f"{function}() got a numpy.ma.MaskedArray; its mask would be ignored. Pass {call}.")
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
    result: np.dtype[Any] = given if is_float(given) else np.dtype(np.float64)
    if wanted is not None:
        result = np.dtype(wanted)
        if not is_float(result):
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
    if not is_float(value.dtype) or not np.can_cast(result, value.dtype, casting="same_kind"):
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


def real(parameter: str, value: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, str | bytes) or np.ndim(value) or np.iscomplexobj(value):
        raise TypeError(f"{parameter} must be a real number, got {type(value).__name__}.")
    try:
        return float(value)
    except TypeError:
        raise TypeError(f"{parameter} must be a real number, got {type(value).__name__}.") from None
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def temperature(value: Any) -> float:
    number = real("temperature", value)
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


def threads_of_call(value: Any) -> int:
    """num_threads= of a call; None is 0, as many as are set."""
    return 0 if value is None else num_threads(value)


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


# ---- losses


def class_axis(value: Any, ndim: int) -> int:
    """The axis of the classes, counted from 0."""
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"axis must be an int, got {type(value).__name__}.") from None
    if not -ndim <= index < ndim:
        raise np.exceptions.AxisError(index, ndim)
    return index % ndim


def classes(function: str, parameter: str, shape: tuple[int, ...], axis: int) -> int:
    """How many there are."""
    if shape[axis] == 0:
        raise ValueError(f"{function}() needs at least one class, got {parameter} of shape {shape}.")
    return shape[axis]


def target(value: Any, shape: tuple[int, ...], axis: int) -> NDArray[Any]:
    """`target` as class indices, of `shape` without `axis`, or as probabilities, of `shape`."""
    not_masked("target", value)
    a = np.asarray(value)
    rows = shape[:axis] + shape[axis + 1 :]
    if a.size == 0 and a.dtype == np.float64 and isinstance(value, list | tuple) and a.shape == rows:
        a = a.astype(np.intp)  # an empty list has no integers that would make it one
    if a.dtype.kind in "iu":
        if a.shape == shape:
            raise ValueError(
                f"target has integers in the shape of logits, {shape}: class indices have shape {rows}. "
                "Pass one-hot rows and probabilities as floats, target.astype(float)."
            )
        if a.shape != rows:
            raise ValueError(
                f"target has shape {a.shape}, expected {rows} for class indices: that of logits, {shape}, without "
                f"axis {axis}."
            )
        return a
    if not is_float(a.dtype):
        raise TypeError(f"target must be integers (class indices) or floats (probabilities), got {a.dtype}.")
    if a.shape != shape:
        hint = " (class indices have to be integers: target.astype(int))" if a.shape == rows else ""
        raise ValueError(
            f"target has floats in shape {a.shape}, expected probabilities in that of logits, {shape}{hint}."
        )
    return a


def labels(a: NDArray[Any], count: int, ignore_index: int | None) -> int:
    """How many of the class indices count; those are from 0 to count - 1."""
    counted, bad = count_labels(a, count, ignore_index)
    if bad >= 0:
        position = ", ".join(str(i) for i in np.unravel_index(bad, a.shape))
        where_ = f"[{position}]" if position else ""
        raise IndexError(
            f"target{where_} = {a.flat[bad]} is out of range for {count} classes (ignore_index= skips rows)."
        )
    return counted


def ignore_index(value: Any, dtype: np.dtype[Any]) -> int | None:
    """None if no target of `dtype` can be it."""
    if value is None:
        return None
    if dtype.kind not in "iu":
        raise ValueError("ignore_index needs class indices as target, got probabilities: set the rows' weights to 0.")
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"ignore_index must be an int or None, got {type(value).__name__}.") from None
    limits = np.iinfo(dtype)
    return index if limits.min <= index <= limits.max else None


def class_weight(function: str, value: Any, count: int) -> NDArray[Any]:
    not_masked("weight", value)
    a = array(function, "weight", value)
    if a.shape != (count,):
        raise ValueError(f"weight has shape {a.shape}, expected one for each class, ({count},).")
    return a


def reduction(value: Any) -> str:
    if not isinstance(value, str) or value not in ("mean", "sum", "none"):
        got = f'"{value}"' if isinstance(value, str) else repr(value)
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {got}.')
    return value


def label_smoothing(value: Any) -> float:
    number = real("label_smoothing", value)
    if not 0 <= number <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {value}.")
    return number


def z_loss(value: Any) -> float:
    number = real("z_loss", value)
    if not 0 <= number < math.inf:
        raise ValueError(f"z_loss must be 0 or a positive number, got {value}.")
    return number


def softcap(value: Any) -> float:
    """0 for None."""
    if value is None:
        return 0.0
    number = real("softcap", value)
    if not 0 < number < math.inf:
        raise ValueError(f"softcap must be a positive number, or None for no cap, got {value}.")
    return number


def reduced(parameter: str, a: NDArray[Any], of: NDArray[Any], axes_: tuple[int, ...]) -> NDArray[Any]:
    """An array in the shape of a reduction of `of`, with its axes kept."""
    kept = tuple(1 if d in axes_ else n for d, n in enumerate(of.shape))
    dropped = tuple(n for d, n in enumerate(of.shape) if d not in axes_)
    if a.shape not in (kept, dropped):
        raise ValueError(f"{parameter} has shape {a.shape}, expected that of logsumexp(a), {dropped} or {kept}.")
    return a.reshape(kept) if a.shape == kept else np.expand_dims(a, axes_)


def budget(value: Any) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"memory_budget must be an int, in bytes, got {type(value).__name__}.") from None
    if count < 1:
        raise ValueError(f"memory_budget must be at least 1 byte, got {count}.")
    return count


def linear_shapes(x: NDArray[Any], linear_weight: NDArray[Any], linear_bias: NDArray[Any] | None) -> None:
    if linear_weight.ndim != 2:
        raise ValueError(f"linear_weight has shape {linear_weight.shape}, expected (classes, features).")
    classes_, features = linear_weight.shape
    if x.ndim == 0 or x.shape[-1] != features:
        raise ValueError(
            f"x has shape {x.shape}, expected (..., {features}), as linear_weight has shape {linear_weight.shape}, "
            "(classes, features)."
        )
    if linear_bias is not None and linear_bias.shape != (classes_,):
        raise ValueError(f"linear_bias has shape {linear_bias.shape}, expected one for each class, ({classes_},).")
