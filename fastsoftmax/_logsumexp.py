"""Reductions: functions that leave one number of each slice."""

import math
from typing import Any

from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsoftmax import _call
from fastsoftmax._core import reduce

_LOGSUMEXP = _call.OPS["logsumexp"]
_LOGMEANEXP = _call.OPS["logmeanexp"]
_SOFTMAX_ENTROPY = _call.OPS["softmax_entropy"]


def logsumexp(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike | None = None,
    num_threads: int | None = None,
) -> Any:
    """Logarithm of a sum of exponentials: ``log(sum(b * exp(a), axis))``, without overflow for any a.

    Parameters
    ----------
    a : array_like
        Of any shape, layout and dtype, as `x` of `softmax`. It is read once, where it lies.
    axis : int, tuple of ints or None, default None
        The axis, or the axes, that are summed over; None: all.
    b : array_like, optional
        Factors of the exponentials, of any sign; broadcasts with `a`. An element whose factor is 0 takes no part, even
        if it is NaN or infinite. The arithmetic is then that of float64 (or longdouble).
    keepdims : bool, default False
        Whether the axes that were summed over stay, with length 1.
    return_sign : bool, default False
        Whether to return the sign of the sum as well. Without it the result for a negative sum is NaN.
    where : array_like of bool, optional
        Which elements take part; broadcasts to the shape of `a` (of `a` and `b`). The sum of nothing is 0, and its
        logarithm -inf.
    out : ndarray, optional
        Where to put the result, of the shape of the result.
    dtype : dtype, optional
        Of the result, as of `softmax`. Default: what `a` and `b` promote to, if that is a float, else float64.
    num_threads : int, optional
        As of `softmax`.

    Returns
    -------
    value : ndarray or scalar
        The logarithm of the sum, or with `return_sign` of its absolute value; a NumPy scalar if 0-d.
    sign : ndarray or scalar
        With `return_sign`: 1, 0, -1 or NaN, in the shape of `value` and the dtype that it has without `out`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`; ValueError if `b` does not broadcast with `a`.

    See Also
    --------
    logmeanexp
    fastsoftmax.scipy.logsumexp : The same with SciPy's signature.

    Notes
    -----
    With m the largest element, the result is m + log1p(T), T the share of the others. In float32 and float64 it is
    within 5 ULP of the larger of these two terms (without `b`), and so of itself where m is 0. +inf gives inf, NaN
    gives NaN, -inf is as if absent. Equal slices give equal bits, as with `softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> fs.logsumexp([1000.0, 1000.0])
    np.float64(1000.6931471805599)
    >>> a = np.array([[1, 2], [3, 5]], dtype=np.float32)
    >>> fs.logsumexp(a, axis=1)
    array([2.3132617, 5.126928 ], dtype=float32)
    >>> fs.logsumexp([1.0, 2.0], b=[1, -1], return_sign=True)
    (np.float64(1.5413248546129181), np.float64(-1.0))
    """
    if b is None and not return_sign:
        y = reduce(_LOGSUMEXP, a, axis, keepdims, out, dtype, where, 1.0, num_threads)
        if y is not None:
            return y
    return _call.reduce(
        "logsumexp",
        "a",
        a,
        axis,
        keepdims,
        out,
        dtype,
        where,
        -math.inf,
        num_threads,
        b=b,
        return_sign=return_sign,
    )


def logmeanexp(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    keepdims: bool = False,
    where: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
    dtype: DTypeLike | None = None,
    num_threads: int | None = None,
) -> Any:
    """Logarithm of a mean of exponentials: ``log(mean(exp(a), axis))``, without overflow for any a.

    Parameters
    ----------
    a, axis, keepdims, out, dtype, num_threads
        As of `logsumexp`.
    where : array_like of bool, optional
        Which elements take part, and are counted; broadcasts to the shape of `a`. The mean of nothing is NaN.

    Returns
    -------
    ndarray or scalar
        A NumPy scalar if 0-d.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`.

    See Also
    --------
    logsumexp

    Notes
    -----
    In float32 and float64 the result is within 4 ULP of the largest of its terms: the largest element, what the others
    add to it, and the logarithm of their number.

    Examples
    --------
    >>> import fastsoftmax as fs
    >>> fs.logmeanexp([1000.0, 1000.0])
    np.float64(1000.0)
    """
    y = reduce(_LOGMEANEXP, a, axis, keepdims, out, dtype, where, 1.0, num_threads)
    if y is not None:
        return y
    return _call.reduce(
        "logmeanexp",
        "a",
        a,
        axis,
        keepdims,
        out,
        dtype,
        where,
        math.nan,
        num_threads,
    )


def softmax_entropy(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    temperature: float = 1.0,
    num_threads: int | None = None,
) -> Any:
    """Entropy of the softmax, ``-sum(p * log(p), axis)`` with ``p = softmax(x, axis)``, in nats; p is never formed.

    Parameters
    ----------
    x : array_like
        Logits, of any shape, layout and dtype, as of `softmax`. Read once, where they lie.
    axis : int, tuple of ints or None, default -1
        The axis, or the axes together, along which p sums to 1.
    where : array_like of bool, optional
        Which elements take part; broadcasts to the shape of `x`. Where nothing does, the entropy is 0.
    temperature : float, default 1.0
        A positive number T: the result is that of x / T.
    num_threads : int, optional
        As of `softmax`.

    Returns
    -------
    ndarray or scalar
        From 0 to the logarithm of the number of elements, without the axes, in the dtype of `x` if that is a float,
        else float64; a NumPy scalar if 0-d.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`.

    See Also
    --------
    softmax, log_softmax

    Notes
    -----
    With m the largest element and S the sum of the exponentials, the entropy is log(S/e^m) + sum(exp(x)*(m - x))/S, two
    sums of positive terms: in float32 and float64 it is within 6 ULP of the exact value, also near 0. A slice with a
    NaN or +inf in it, or all -inf, gives NaN.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> fs.softmax_entropy([0.0, 0.0]) == np.log(2)
    np.True_
    >>> fs.softmax_entropy([[0.0, -50.0], [0.0, -5.0]])
    array([9.83662422e-21, 4.01796031e-02])
    """
    y = reduce(_SOFTMAX_ENTROPY, x, axis, False, None, None, where, temperature, num_threads)
    if y is not None:
        return y
    return _call.reduce(
        "softmax_entropy",
        "x",
        x,
        axis,
        False,
        None,
        None,
        where,
        0.0,
        num_threads,
        temperature=temperature,
    )
