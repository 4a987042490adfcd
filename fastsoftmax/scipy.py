"""Drop-in replacements for ``scipy.special``'s softmax, log_softmax and logsumexp: SciPy's signatures, defaults, result
dtypes and shapes, complex input included.

>>> from fastsoftmax.scipy import log_softmax, logsumexp, softmax

Real input goes to the functions of the same names in `fastsoftmax`, which see for accuracy. Complex input is computed
here, by NumPy, complex64 in complex128. Its errors, stated below in ULP, are for sums that do not cancel: where
``abs(sum(terms))`` is a fraction of ``sum(abs(terms))``, they grow by the inverse of that fraction.

Differences from SciPy 1.17, besides those that each function names:

- integers and bool are converted to float64 before anything is subtracted. SciPy's softmax and log_softmax subtract
  first: integers wrap around, int8 gives float16, and bool an error;
- sums of bfloat16 numbers are not rounded to bfloat16 on the way;
- masked arrays are a TypeError. SciPy ignores the mask;
- the result is a NumPy array or scalar, whatever library's array the input was;
- no call warns.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fastsoftmax as fs
from fastsoftmax import _check

__all__ = ["log_softmax", "logsumexp", "softmax"]


def softmax(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Softmax over one axis, several jointly, or all: ``exp(x) / sum(exp(x), axis)``; as ``scipy.special.softmax``.

    Parameters
    ----------
    x : array_like
        Logits, of any shape; real or complex.
    axis : int, tuple of ints or None, default None
        The axes whose elements sum to 1 together in the result. None: all elements.

    Returns
    -------
    ndarray or scalar
        The softmax, of the shape and dtype of `x` (integers and bool: float64); a NumPy scalar for a 0-d `x`.

    Raises
    ------
    TypeError
        If `x` is masked or not numeric, or `axis` is not an int, a tuple of ints or None.
    ValueError
        If `axis` names an axis twice; `numpy.exceptions.AxisError` if `x` has no such axis.

    See Also
    --------
    fastsoftmax.softmax : the same with options, and ``axis=-1`` by default.

    Notes
    -----
    Real results have the accuracy of `fastsoftmax.softmax`, a few ULP; complex ones are within 4 ULP of their modulus.

    Differences from SciPy, besides those of the module:

    - an axis of length 0 gives an empty result, not an error;
    - complex results keep their accuracy when elements lie far apart. SciPy rounds their differences from the maximum,
      which costs thousands of ULP when imaginary parts differ by 10^4.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax.scipy import softmax
    >>> softmax([[1, 2], [3, 4]])
    array([[0.0320586 , 0.08714432],
           [0.23688282, 0.64391426]])
    >>> softmax([0, 0.5j * np.pi]).round(6)
    array([0.5-0.5j, 0.5+0.5j])
    """
    if not np.iscomplexobj(x):
        return fs.softmax(x, axis)
    a = _numbers("softmax", "x", x)
    with np.errstate(all="ignore"):
        wide = _wide(a, a.dtype)
        axes = _check.axes(axis, wide.ndim)
        terms = _exp_of_difference(wide, _complex_max(wide, axes))
        return _result(terms / _sum(terms, axes), a)


def log_softmax(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Logarithm of softmax: ``x - log(sum(exp(x), axis))``; as ``scipy.special.log_softmax``.

    Parameters
    ----------
    x : array_like
        Logits, of any shape; real or complex.
    axis : int, tuple of ints or None, default None
        The axes whose elements are one distribution. None: all elements.

    Returns
    -------
    ndarray or scalar
        The logarithm of the softmax, of the shape and dtype of `x` (integers and bool: float64); a NumPy scalar for a
        0-d `x`.

    Raises
    ------
    TypeError
        If `x` is masked or not numeric, or `axis` is not an int, a tuple of ints or None.
    ValueError
        If `axis` names an axis twice; `numpy.exceptions.AxisError` if `x` has no such axis.

    See Also
    --------
    fastsoftmax.log_softmax : the same with options, and ``axis=-1`` by default.

    Notes
    -----
    Real results have the accuracy of `fastsoftmax.log_softmax`, a few ULP. Real and imaginary parts of complex ones are
    within 4 ULP of the larger of themselves and 1; a real part near 0 because one element outweighs the others keeps
    its relative accuracy.

    The imaginary part is ``(x - x_max).imag - angle(sum(exp(x - x_max)))`` as in SciPy, not reduced to (-pi, pi]; x_max
    is the element with the largest real part, of those the one with the largest imaginary part.

    Differences from SciPy, besides those of the module:

    - a slice with +inf in it is NaN throughout. SciPy gives -inf at its finite elements;
    - an axis of length 0 gives an empty result, not an error;
    - a complex result near 0 keeps its relative accuracy; and see `softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax.scipy import log_softmax
    >>> log_softmax([1000.0, 1.0])
    array([   0., -999.])
    >>> log_softmax([0, 0.5j * np.pi]).round(6)
    array([-0.346574-0.785398j, -0.346574+0.785398j])
    """
    if not np.iscomplexobj(x):
        return fs.log_softmax(x, axis)
    a = _numbers("log_softmax", "x", x)
    with np.errstate(all="ignore"):
        wide = _wide(a, a.dtype)
        axes = _check.axes(axis, wide.ndim)
        top = _complex_max(wide, axes)
        return _result(wide - top - _log_sum(wide, top, None, axes)[0], a)


def logsumexp(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> Any:
    """Logarithm of a sum of exponentials: ``log(sum(b * exp(a), axis))``; as ``scipy.special.logsumexp``.

    Parameters
    ----------
    a : array_like
        Exponents, of any shape; real or complex.
    axis : int, tuple of ints or None, default None
        The axes to sum over, of `a` and `b` broadcast together. None: all.
    b : array_like, optional
        Weights, of a shape that broadcasts with that of `a`; real (also negative) or complex. An element with the
        weight 0 takes no part, even if it is infinite or NaN.
    keepdims : bool, default False
        Whether to keep the reduced axes, with length 1.
    return_sign : bool, default False
        Whether to return the sign of the sum too, and the logarithm of its absolute value.

    Returns
    -------
    value : ndarray or scalar
        The logarithm, in the common dtype of `a` and `b` by NumPy's promotion, float64 for integers and bool. The
        imaginary part of a complex logarithm is in (-pi, pi]. A sum of 0 gives -inf, a negative one NaN unless `a` or
        `b` is complex. With `return_sign`, the logarithm of the absolute value of the sum, which is real.
    sign : ndarray or scalar
        Only if `return_sign`: -1, 0, 1 or NaN; for complex input ``sum / abs(sum)``. In the shape of `value`.

    Raises
    ------
    TypeError
        If `a` or `b` is masked or not numeric, or `axis` is not an int, a tuple of ints or None.
    ValueError
        If `a` and `b` do not broadcast together, or `axis` names an axis twice; `numpy.exceptions.AxisError` if they
        have no such axis.

    See Also
    --------
    fastsoftmax.logsumexp : the same with more options.

    Notes
    -----
    Real results have the accuracy of `fastsoftmax.logsumexp`, 5 ULP of the largest term. The real part of a complex
    result is within 4 ULP of the largest of itself, the largest real part of `a`, and 1; if it is near 0 because one
    term outweighs the others, it keeps its relative accuracy. The imaginary part and a complex sign are within 4 ULP
    of 1.

    Differences from SciPy, besides those of the module:

    - the sum over no elements is 0, and so is its sign. SciPy's sign is -1, and over several axes the call an error;
    - complex results near 0 keep their relative accuracy, and large imaginary parts cost none.

    Examples
    --------
    >>> from fastsoftmax.scipy import logsumexp
    >>> logsumexp([1000, 1000])
    np.float64(1000.6931471805599)
    >>> logsumexp([1, 2], b=[1, -1], return_sign=True)
    (np.float64(1.5413248546129181), np.float64(-1.0))
    >>> logsumexp([0, 0], b=[-1, -1 + 0j])
    np.complex128(0.6931471805599453+3.141592653589793j)
    """
    if np.iscomplexobj(a) or (b is not None and np.iscomplexobj(b)):
        result = _complex_logsumexp(a, axis, b, keepdims, return_sign)
    else:
        result = fs.logsumexp(a, axis, b=b, keepdims=keepdims, return_sign=return_sign)
    if keepdims:  # SciPy takes a scalar for an array of one dimension
        result = np.atleast_1d(*result) if return_sign else np.atleast_1d(result)
    return result


# ---- complex numbers, computed in complex128 or clongdouble


def _complex_logsumexp(a: Any, axis: Any, b: Any, keepdims: bool, return_sign: bool) -> Any:
    given = {"a": a} if b is None else {"a": a, "b": b}
    arrays = {name: _numbers("logsumexp", name, value) for name, value in given.items()}
    # Python's scalars adapt to the dtype of arrays.
    adapting = (bool, int, float, complex)
    dtype = np.result_type(*(given[name] if type(given[name]) in adapting else arrays[name] for name in given))
    a, *weights = np.broadcast_arrays(*(_wide(array, dtype) for array in arrays.values()))
    axes = _check.axes(axis, a.ndim)

    with np.errstate(all="ignore"):
        log_scale: Any = 0.0
        if weights:
            a = np.where(weights[0] == 0, -np.inf, a)
            # Lest a sum of the very largest weights overflow. A scale of 1 changes nothing.
            huge = np.abs(weights[0]).max(axis=axes, keepdims=True, initial=0) > 2.0**960
            b = weights[0] / np.where(huge, 2.0**64, 1.0)
            log_scale = np.where(huge, 64 * np.log(2.0), 0.0)
        top = a.real.max(axis=axes, keepdims=True, initial=-np.inf)
        top[~np.isfinite(top)] = 0
        log, total = _log_sum(a, top, b, axes)
        value = (log + (top + log_scale)).astype(dtype)
        sign = np.sign(total).astype(dtype)
        sign[np.isnan(total)] = complex(np.nan, np.nan)
    pi = np.log(np.array(-1, dtype)).imag
    value.imag[value.imag == -pi] = pi
    if not keepdims:
        value, sign = value.squeeze(axes), sign.squeeze(axes)
    return (value.real.copy()[()], sign[()]) if return_sign else value[()]


def _log_sum(
    a: NDArray[Any], top: NDArray[Any], b: NDArray[Any] | None, axes: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """log(sum) and sum of b * exp(a - top) over `axes`, which are kept; Re top = max Re a."""
    terms = _exp_of_difference(a, top)
    if b is not None:
        terms = terms * b
    total = _sum(terms, axes)
    log = np.log(total)
    if a.size == 0:
        return log, total

    # Where one term outweighs the rest, log|sum| = log|term| + log|1 + s|, s = rest / term, keeps its relative
    # accuracy: |1 + s|^2 = 1 + Re s (2 + Re s) + (Im s)^2. Elsewhere that may cancel, and log(sum) is as good.
    rest = _rows(terms, axes)
    largest = _rows(a.real, axes).argmax(axis=-1)[..., np.newaxis]
    term = np.take_along_axis(rest, largest, -1)
    np.put_along_axis(rest, largest, 0, -1)
    s = rest.sum(axis=-1, keepdims=True) / term
    log_abs = np.log1p(s.real * (2 + s.real) + s.imag**2) / 2
    if b is not None:
        log_abs += np.log(np.abs(np.take_along_axis(_rows(b, axes), largest, -1)))
    outweighs = np.isfinite(log) & (np.abs(s) < 0.5).reshape(log.shape)
    log.real[outweighs] = log_abs.reshape(log.shape)[outweighs]
    return log, total


def _exp_of_difference(a: NDArray[Any], top: NDArray[Any]) -> NDArray[Any]:
    """exp(a - top); what the subtraction rounds away (`lost`, by TwoSum) would be a relative error of the result."""
    d = a - top
    of_top = a - d
    lost = (a - (d + of_top)) + (of_top - top)
    e: NDArray[Any] = np.exp(d)
    return np.where(np.isfinite(lost) & (lost != 0), e * np.exp(lost), e)


def _complex_max(a: NDArray[Any], axes: tuple[int, ...]) -> Any:
    """The element with the largest real part, of those the one with the largest imaginary part; NaN if one is."""
    return a.max(axis=axes, keepdims=True, initial=-np.inf)


def _sum(a: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """The sum over `axes`, which are kept, with length 1; always pairwise."""
    return np.expand_dims(_rows(a, axes).sum(axis=-1), axes)


def _rows(a: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """`a` with `axes` moved to the end and joined to one, C-contiguous."""
    moved = np.moveaxis(a, axes, range(-len(axes), 0))
    kept = moved.shape[: a.ndim - len(axes)]
    return np.ascontiguousarray(moved.reshape(*kept, math.prod(moved.shape[len(kept) :])))


def _numbers(function: str, parameter: str, x: Any) -> NDArray[Any]:
    """`x` as an array, which may be complex besides all that the package takes."""
    _check.array(function, parameter, np.real(x))
    return np.asarray(x)


def _wide(a: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`a` with one dimension at least, in the dtype in which results of `dtype` are computed."""
    return np.atleast_1d(a.astype(np.result_type(dtype, np.complex128), copy=False))


def _result(y: NDArray[Any], like: NDArray[Any]) -> Any:
    return y.astype(like.dtype.newbyteorder("="), copy=False).reshape(like.shape)[()]
