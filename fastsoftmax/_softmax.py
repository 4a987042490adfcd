"""Normalizers: functions that turn a slice along an axis into a distribution over it."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsoftmax import _check
from fastsoftmax._core import normalize, ops

_OPS = list(ops())
_SOFTMAX = _OPS.index("softmax")


def softmax(
    x: ArrayLike,
    axis: int = -1,
    *,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike | None = None,
    num_threads: int | None = None,
) -> Any:
    """Softmax along an axis: ``exp(x) / sum(exp(x), axis)``, without overflow for any x.

    Parameters
    ----------
    x : array_like
        Logits, of any shape. float32 and float64 arrays are read where they lie, whatever their layout; float16,
        bfloat16, integers, bool, byte-swapped arrays and fields of records are copied first.
    axis : int, default -1
        The axis whose elements sum to 1 in the result. Note that ``scipy.special.softmax`` defaults to all
        axes together.
    out : ndarray, optional
        Where to put the result, of the shape of `x`; may be `x` itself, which then takes no further memory.
        The result is cast to its dtype by the "same_kind" rule.
    dtype : dtype, optional
        Of the result: float16, bfloat16, float32 or float64. Default: the dtype of `x` if that is one of them,
        else float64. The arithmetic is float64 for float64 results and float32 for the others; `x` is rounded to
        that before anything else.
    num_threads : int, optional
        How many threads may share the work, the calling one included. Default: see `get_num_threads`. Small arrays
        are left to the calling thread, and so is all that comes while other Python threads keep the workers busy.
        The result does not depend on it.

    Returns
    -------
    ndarray or scalar
        The softmax, in the memory order of `x`; `out` if that was given; a NumPy scalar for a 0-d `x`.

    Raises
    ------
    TypeError
        If `x` is masked, complex, longdouble or not numeric, `axis` is not an int, or `out` or `dtype` cannot
        hold the result, or `num_threads` is not an int.
    numpy.exceptions.AxisError
        If `x` has no such axis.
    ValueError
        If `out` has another shape than `x` or is read-only, or `num_threads` is less than 1.

    Notes
    -----
    Every normal result is within 6 ULP of the exact softmax of the given numbers (as converted), and usually within
    3; results
    below the smallest normal number are within 2 units of the smallest subnormal. float16 and bfloat16
    results are the float32 result rounded once. A slice with a NaN or +inf in it, or all -inf, is NaN throughout.

    Equal rows give equal bits, whatever the batch around them, the axis, the memory order, the number of threads or
    the CPU (with FMA).

    The method is the three-pass softmax, except that x is not rounded by subtracting its maximum: exponentials
    share a power of two instead, as in Dukhan and Ablavatski, "The Two-Pass Softmax Algorithm" (2020).

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> fs.softmax([0.0, 0.0, 0.0, 0.0])
    array([0.25, 0.25, 0.25, 0.25])
    >>> logits = np.array([[1, 2], [3, 5]], dtype=np.float32)
    >>> fs.softmax(logits, axis=0)
    array([[0.11920292, 0.04742587],
           [0.8807971 , 0.95257413]], dtype=float32)
    >>> fs.softmax(logits, out=logits) is logits
    True
    """
    threads = 0 if num_threads is None else _check.num_threads(num_threads)
    if dtype is None and type(axis) is int:
        y = normalize(_SOFTMAX, x, axis, out, threads)
        if y is not None:
            return y
    return _converted(_SOFTMAX, x, axis, out, dtype, threads)


def _converted(op: int, x: ArrayLike, axis: Any, out: Any, dtype: Any, threads: int) -> Any:
    """What `normalize` did not take as it came: checked, and converted where it must be."""
    name = _OPS[op]
    a = _check.array(name, x)
    axis = _check.axis(axis, a.ndim)
    compute, result = _check.float_dtypes(name, a.dtype, dtype)
    target = None if out is None else _check.out(out, a.shape, result)

    y = None
    if a.ndim and a.dtype == compute == result:
        y = normalize(op, a, axis, target, threads)
    if y is None:
        with np.errstate(all="ignore"):  # what a cast overflows or underflows to is the answer
            y = np.array(a, dtype=compute, order="K", ndmin=1)
            y = normalize(op, y, axis, y, threads)
            assert y is not None, "a fresh array of the compute dtype is always taken"
            y = y if a.ndim else y[0]
            if dtype is not None or target is None:
                y = y.astype(result, copy=False)
            if target is not None:
                np.copyto(target, y, casting="same_kind")
    return y if out is None else out
