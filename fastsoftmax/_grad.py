"""Gradients: what comes back through a normalizer, from what came back to its result and that result."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastsoftmax import _call
from fastsoftmax._core import normalize

_SOFTMAX_GRAD = _call.OPS["softmax_grad"]
_LOG_SOFTMAX_GRAD = _call.OPS["log_softmax_grad"]


def softmax_grad(
    grad: ArrayLike,
    y: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    out: NDArray[Any] | None = None,
    temperature: float = 1.0,
    num_threads: int | None = None,
) -> Any:
    """Gradient through `softmax`: ``y * (grad - sum(grad * y, axis)) / temperature``.

    Parameters
    ----------
    grad : array_like
        The gradient with respect to the result of ``softmax(x, axis)``, of any dtype and layout that `softmax` takes.
    y : array_like
        That result, of the shape of `grad`.
    axis : int, tuple of ints or None, default -1
        As given to `softmax`.
    out : ndarray, optional
        Where to put the result; may be `grad` itself, or `y`, which then takes no further memory.
    temperature : float, default 1.0
        As given to `softmax`.
    num_threads : int, optional
        As of `softmax`.

    Returns
    -------
    ndarray or scalar
        The gradient with respect to x, of the dtype that `grad` and `y` promote to, if that is a float, else float64.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`; ValueError if `y` is not of the shape of `grad`.

    See Also
    --------
    log_softmax_grad, softmax

    Notes
    -----
    The Jacobian of softmax is symmetric, so this is the vector-Jacobian product (reverse mode) and the
    Jacobian-vector product (forward mode) in one: for the latter `grad` is the tangent of x.

    In float32 and float64 every result is within 8 ULP of its largest term, ``y * max(abs(grad), sum(abs(grad) * y))``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> y = fs.softmax([0.0, 0.0, np.log(2)])
    >>> fs.softmax_grad([1.0, 0.0, 0.0], y)
    array([ 0.1875, -0.0625, -0.125 ])
    """
    dx = normalize(_SOFTMAX_GRAD, grad, axis, out, None, None, temperature, "nan", "keep", num_threads, y)
    if dx is not None:
        return dx
    return _call.gradient("softmax_grad", grad, "y", y, axis, out, temperature, num_threads)


def log_softmax_grad(
    grad: ArrayLike,
    logp: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    out: NDArray[Any] | None = None,
    temperature: float = 1.0,
    num_threads: int | None = None,
) -> Any:
    """Gradient through `log_softmax`: ``(grad - exp(logp) * sum(grad, axis)) / temperature``.

    Parameters
    ----------
    grad : array_like
        The gradient with respect to the result of ``log_softmax(x, axis)``.
    logp : array_like
        That result, of the shape of `grad`.
    axis, out, temperature, num_threads
        As of `softmax_grad`.

    Returns
    -------
    ndarray or scalar
        The gradient with respect to x, of the dtype that `grad` and `logp` promote to, if that is a float, else
        float64.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax_grad`.

    See Also
    --------
    softmax_grad, log_softmax

    Notes
    -----
    In float32 and float64 every result is within 6 ULP of its largest term, of `grad` and
    ``exp(logp) * sum(abs(grad))``, for the very `logp` that is given: what that was rounded by, times itself, is how
    far exp(logp) is off.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> logp = fs.log_softmax([0.0, 0.0])
    >>> fs.log_softmax_grad([-1.0, 0.0], logp)
    array([-0.5,  0.5])
    """
    dx = normalize(_LOG_SOFTMAX_GRAD, grad, axis, out, None, None, temperature, "nan", "keep", num_threads, logp)
    if dx is not None:
        return dx
    return _call.gradient("log_softmax_grad", grad, "logp", logp, axis, out, temperature, num_threads)


def logsumexp_grad(
    grad: ArrayLike,
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    lse: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> Any:
    """Gradient through `logsumexp`: ``grad * softmax(a, axis)``.

    Parameters
    ----------
    grad : array_like
        The gradient with respect to the result of ``logsumexp(a, axis)``, in its shape, with or without kept axes.
    a : array_like
        What `logsumexp` was given, of any dtype and layout that it takes.
    axis : int, tuple of ints or None, default None
        As given to `logsumexp`.
    lse : array_like, optional
        What ``logsumexp(a, axis)`` gave, with or without kept axes. It saves a sweep over `a`, but what it was rounded
        by, to the result's dtype too, is how far the result is off, relatively. Elements of `a` that are larger than
        it count as equal to it.
    out : ndarray, optional
        Where to put the result, of the shape of `a`; may be `a` itself, which then takes no further memory.
    num_threads : int, optional
        As of `softmax`.

    Returns
    -------
    ndarray or scalar
        The gradient with respect to a, of the dtype that `grad` and `a` promote to, if that is a float, else float64.
        NaN along the axis where `softmax` is.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`; ValueError if `grad` or `lse` is not of the shape of the reduction.

    See Also
    --------
    logsumexp, softmax

    Notes
    -----
    In float32 and float64 every normal result is within 6 ULP of the exact one (without `lse`), if the probability
    itself is not smaller than the smallest subnormal number.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> a = np.log([[1.0, 1.0, 2.0], [3.0, 1.0, 0.0]], where=[[1, 1, 1], [1, 1, 0]], out=np.full((2, 3), -np.inf))
    >>> fs.logsumexp_grad([1.0, 2.0], a, axis=1)
    array([[0.25, 0.25, 0.5 ],
           [1.5 , 0.5 , 0.  ]])
    """
    return _call.logsumexp_gradient("logsumexp_grad", grad, a, axis, lse, out, num_threads)
