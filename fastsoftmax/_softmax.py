"""Normalizers: functions that turn a slice along an axis into a distribution over it."""

from typing import Any, Literal

from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsoftmax import _call
from fastsoftmax._core import normalize

_SOFTMAX = _call.OPS["softmax"]
_LOG_SOFTMAX = _call.OPS["log_softmax"]


def softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike | None = None,
    where: ArrayLike | None = None,
    temperature: float = 1.0,
    all_neg_inf: Literal["nan", "zero"] = "nan",
    subnormals: Literal["keep", "flush"] = "keep",
    num_threads: int | None = None,
) -> Any:
    """Softmax along one or several axes: ``exp(x) / sum(exp(x), axis)``, without overflow for any x.

    Parameters
    ----------
    x : array_like
        Logits, of any shape, layout and byte order; float16, bfloat16 (of a package that registers it with NumPy, such
        as ml_dtypes), float32, float64, longdouble, integers or bool. It is read where it lies: nothing of its size is
        ever allocated but the result (and, if `out` overlaps it in another order, a copy).
    axis : int, tuple of ints or None, default -1
        The elements along this axis, or along these axes together, sum to 1 in the result; None: all of x. Note that
        ``scipy.special.softmax`` defaults to None.
    out : ndarray, optional
        Where to put the result, of the shape of `x`; may be `x` itself, which then takes no further memory.
        The result is cast to its dtype by the "same_kind" rule.
    dtype : dtype, optional
        Of the result: float16, bfloat16, float32, float64 or longdouble. Default: the dtype of `x` if that is one of
        them, else float64. The arithmetic is that of the result; of float32 for 16 bits. `x` is rounded to that before
        anything else, and the result is rounded once.
    where : array_like of bool, optional
        Which elements take part; broadcasts to the shape of `x`. The others are as if absent, even if they are NaN, and
        their own result is 0. A slice in which nothing takes part is 0 throughout.
    temperature : float, default 1.0
        A positive number T: the result is that of x / T, without the rounding of that division.
    all_neg_inf : {"nan", "zero"}, default "nan"
        What a slice gives whose elements that take part are all -inf.
    subnormals : {"keep", "flush"}, default "keep"
        "flush": results below the smallest normal number of their dtype are 0, for what comes next and would be slow
        with them. To keep them costs nothing here.
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
        If `x` is masked, complex or not numeric, or another argument is of a type that it cannot be.
    numpy.exceptions.AxisError
        If `x` has no such axis.
    ValueError
        If `out` or `where` do not fit the shape of `x`, `out` is read-only, an axis is named twice, or another argument
        has a value that it cannot have.

    See Also
    --------
    log_softmax : Its logarithm, accurate where softmax is nearly 1 or 0.
    fastsoftmax.scipy.softmax : The same with SciPy's signature.

    Notes
    -----
    In float32 and float64, every normal result is within 6 ULP of the exact softmax of the given numbers (as
    converted), and usually within 3; results below the smallest normal number are within 2 units of the smallest
    subnormal. float16 and bfloat16 results are the float32 result rounded once. longdouble is slower, uses the C
    library and is as accurate as that. A slice with a NaN or +inf in it, or all -inf, is NaN throughout.

    Equal rows give equal bits, whatever the batch around them, the axis, the memory order, the number of threads or
    the CPU (with FMA; longdouble aside).

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
    >>> fs.softmax(logits, where=[[True, True], [True, False]])
    array([[0.2689414, 0.7310586],
           [1.       , 0.       ]], dtype=float32)
    >>> fs.softmax(logits, axis=None, temperature=2).sum()
    np.float32(1.0)
    >>> fs.softmax(logits, out=logits) is logits
    True
    """
    y = normalize(_SOFTMAX, x, axis, out, dtype, where, temperature, all_neg_inf, subnormals, num_threads)
    if y is not None:
        return y
    return _call.normalize("softmax", x, axis, out, dtype, where, temperature, all_neg_inf, subnormals, num_threads)


def log_softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike | None = None,
    where: ArrayLike | None = None,
    temperature: float = 1.0,
    all_neg_inf: Literal["nan", "zero"] = "nan",
    num_threads: int | None = None,
) -> Any:
    """Logarithm of the softmax along one or several axes: ``x - log(sum(exp(x), axis))``.

    Parameters
    ----------
    x, axis, out, dtype, temperature, num_threads
        As of `softmax`.
    where : array_like of bool, optional
        Which elements take part; broadcasts to the shape of `x`. The others are as if absent, even if they are NaN, and
        their own result is -inf.
    all_neg_inf : {"nan", "zero"}, default "nan"
        What a slice gives whose elements that take part are all -inf: NaN, or the logarithm of zero, -inf.

    Returns
    -------
    ndarray or scalar
        In nats, of the shape and in the memory order of `x`; `out` if that was given; a NumPy scalar for a 0-d `x`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`.

    See Also
    --------
    softmax, logsumexp
    fastsoftmax.scipy.log_softmax : The same with SciPy's signature.

    Notes
    -----
    In float32 and float64, every normal result is within 6 ULP of the exact one, and usually within 3, also where one
    element is nearly all of the sum: ``log_softmax([0, -20])[0]`` is -2.06e-09, where other libraries give 0 or have no
    digit right. Equal rows give equal bits, as with `softmax`.

    The largest element is left out of the sum and ``log1p`` of the others' share is added: Blanchard, Higham and
    Higham, "Accurately computing the log-sum-exp and softmax functions" (2021).

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> fs.log_softmax([0.0, -20.0])
    array([-2.06115362e-09, -2.00000000e+01])
    >>> fs.log_softmax([0.0, np.nan], where=[True, False])
    array([  0., -inf])
    """
    y = normalize(_LOG_SOFTMAX, x, axis, out, dtype, where, temperature, all_neg_inf, "keep", num_threads)
    if y is not None:
        return y
    return _call.normalize("log_softmax", x, axis, out, dtype, where, temperature, all_neg_inf, "keep", num_threads)
