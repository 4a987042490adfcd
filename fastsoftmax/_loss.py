"""Cross-entropy losses and their gradients."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsoftmax import _call, _check
from fastsoftmax._core import loss_of_labels

Array = NDArray[Any]

_BUDGET = 1 << 26
_CROSS_ENTROPY = _call.OPS["cross_entropy"]


def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    axis: int = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    z_loss: float = 0.0,
    softcap: float | None = None,
    num_threads: int | None = None,
) -> Any:
    """Cross-entropy of softmax(logits) against class indices or probabilities.

    The logits are read once, and nothing of their size is allocated. The loss of a row is
    ``sum(c * (logsumexp(logits) - logits)) + z_loss * logsumexp(logits)**2``, where
    ``c = weight * ((1 - label_smoothing) * q + label_smoothing / classes)`` and q is the row of `target`, or one-hot.

    Parameters
    ----------
    logits : array_like
        Unnormalized log-probabilities of the classes, of any dtype and layout that `softmax` takes.
    target : array_like
        Class indices of any integer dtype, in the shape of `logits` without `axis`; or probabilities of any float
        dtype, in the shape of `logits`. Rows of probabilities need not sum to 1.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, optional
        A factor for each class, of shape (classes,).
    ignore_index : int, optional
        Rows whose target is this do not count: their loss and gradient are 0, whatever their logits are. It may be out
        of range.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of every target that is spread evenly over the classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        What becomes of the losses of the rows. The mean over class indices is weighted: it divides by the sum of the
        targets' weights. That over probabilities divides by the number of rows.
    z_loss : float, default 0.0
        Factor of the square of logsumexp(logits), which keeps that near 0. It is not weighted: the mean is that over
        the rows that count.
    softcap : float, optional
        Take ``softcap * np.tanh(logits / softcap)`` for the logits.
    num_threads : int, optional
        As of `softmax`. No bit of the result depends on it.

    Returns
    -------
    ndarray or scalar
        The loss, of the dtype of `logits`, float32 if that has 16 bits, float64 if it is no float. With reduction
        "none" one for each row. The mean of no rows is NaN.

    Raises
    ------
    IndexError
        If a class index is out of range.
    TypeError, ValueError, numpy.exceptions.AxisError
        If `target` or `weight` does not fit `logits`, or an option is not what it can be.

    See Also
    --------
    cross_entropy_with_grad, linear_cross_entropy, log_softmax

    Notes
    -----
    In float32 and float64 the loss of every row is within 6 ULP of the sum of the sizes of its terms; for class indices
    without smoothing and `z_loss` that is the loss itself, however confident the row. With `softcap` the tanh adds an
    error of its own, of a few ULP of the capped logits. Terms whose coefficient c is 0 count as 0 even where a logit
    is -inf. Rows with NaN or inf, and rows of -inf, give NaN.

    Semantics follow ``torch.nn.functional.cross_entropy``, but for the axis of the classes, which there is 1, and
    `ignore_index`, which there is -100.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> logits = np.log([[1.0, 1.0, 2.0], [6.0, 1.0, 1.0]])
    >>> float(fs.cross_entropy(logits, [2, 0]))  # the mean of log(2) and log(4/3)
    0.490...
    >>> fs.cross_entropy(logits, [2, 0], reduction="none")
    array([0.69314718, 0.28768207])
    """
    options = (weight, ignore_index, label_smoothing, reduction, z_loss, softcap)
    loss = loss_of_labels(_CROSS_ENTROPY, logits, target, axis, options, None, num_threads, False)
    if loss is not None:
        return loss
    return _call.cross_entropy("cross_entropy", logits, target, axis, options, None, num_threads, False)


def cross_entropy_with_grad(
    logits: ArrayLike,
    target: ArrayLike,
    axis: int = -1,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    z_loss: float = 0.0,
    softcap: float | None = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[Any, NDArray[Any]]:
    """`cross_entropy` and its gradient with respect to the logits, in one go.

    Parameters
    ----------
    logits, target, axis, weight, ignore_index, label_smoothing, reduction, z_loss, softcap, num_threads
        As of `cross_entropy`.
    out : ndarray, optional
        Where to put the gradient; may be `logits` itself, which then takes no further memory.

    Returns
    -------
    loss : ndarray or scalar
        As `cross_entropy` returns it.
    dlogits : ndarray
        The gradient of the loss, or with reduction "none" of each row's own, of the dtype of `logits`, float64 if that
        is no float. Rows that do not count are 0.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`, before anything is written.

    See Also
    --------
    cross_entropy, linear_cross_entropy_with_grad

    Notes
    -----
    The gradient is ``sum(c) * softmax(logits) - c``, and ``2 * z_loss * logsumexp(logits) * softmax(logits)`` for the
    `z_loss`, times the factor that the mean has. In float32 and float64 every normal result is within 6 ULP of its
    largest term. For the class that a target names the terms are taken as (sum of the other c) * p and c * (1 - p),
    where 1 - p comes from the other classes' exponentials. So its gradient keeps all its digits however confident the
    row is, where p - 1 in float32 would be 0 from p = 1 - 3e-8 on. With `softcap` the tanh adds an error of its own.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> logits = np.log([[1.0, 1.0, 2.0], [6.0, 1.0, 1.0]])
    >>> loss, dlogits = fs.cross_entropy_with_grad(logits, [2, 0], out=logits)
    >>> dlogits
    array([[ 0.125 ,  0.125 , -0.25  ],
           [-0.125 ,  0.0625,  0.0625]])
    >>> dlogits is logits
    True
    """
    options = (weight, ignore_index, label_smoothing, reduction, z_loss, softcap)
    both = loss_of_labels(_CROSS_ENTROPY, logits, target, axis, options, out, num_threads, True)
    if both is None:
        both = _call.cross_entropy("cross_entropy_with_grad", logits, target, axis, options, out, num_threads, True)
    value, dlogits = both
    return value, dlogits


def linear_cross_entropy(
    x: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    linear_bias: ArrayLike | None = None,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    z_loss: float = 0.0,
    softcap: float | None = None,
    memory_budget: int = _BUDGET,
    progress: Callable[[int, int], object] | None = None,
    num_threads: int | None = None,
) -> Any:
    """`cross_entropy` of the logits ``x @ linear_weight.T + linear_bias``, which are never held whole.

    A block of rows at a time is multiplied by NumPy, and its logits consumed in place, so that what a large vocabulary
    takes is one block instead of all rows times all classes.

    Parameters
    ----------
    x : array_like
        Features, of shape (..., features), of any real dtype.
    linear_weight : array_like
        Of shape (classes, features).
    target : array_like
        Class indices, of shape (...), or probabilities, of shape (..., classes).
    linear_bias : array_like, optional
        Of shape (classes,).
    weight, ignore_index, label_smoothing, reduction, z_loss, softcap
        As of `cross_entropy`.
    memory_budget : int, default 64 MiB
        Bytes that all blocks together may take: the logits of some rows, at least one, and, for gradients, the product
        that joins that of `linear_weight`. Not in it are the results, one number a row, and a copy of `x` and
        `linear_weight` if they are not of the dtype that is computed in.
    progress : callable, optional
        Is called as ``progress(done, rows)`` after every block, with how many of the rows that count are done.
    num_threads : int, optional
        As of `softmax`; NumPy's products take as many as its BLAS is told to.

    Returns
    -------
    ndarray or scalar
        As of `cross_entropy`, for logits of the dtype that `x`, `linear_weight` and `linear_bias` promote to. float16
        and bfloat16 are computed in float32.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`, before anything is computed; ValueError if shapes do not fit.

    See Also
    --------
    linear_cross_entropy_with_grad, cross_entropy

    Notes
    -----
    The products are as accurate as NumPy's, and their bits those of its BLAS: they may depend on the block.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> x, linear_weight = np.eye(2), np.log([[1.0, 6.0], [1.0, 1.0], [2.0, 1.0]])
    >>> fs.linear_cross_entropy(x, linear_weight, [2, 0], reduction="none")
    array([0.69314718, 0.28768207])
    """
    options = (weight, ignore_index, label_smoothing, reduction, z_loss, softcap)
    name = "linear_cross_entropy"
    return _linear(name, x, linear_weight, target, linear_bias, options, memory_budget, progress, num_threads, False)[0]


def linear_cross_entropy_with_grad(
    x: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    linear_bias: ArrayLike | None = None,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    z_loss: float = 0.0,
    softcap: float | None = None,
    memory_budget: int = _BUDGET,
    progress: Callable[[int, int], object] | None = None,
    num_threads: int | None = None,
) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """`linear_cross_entropy` and its gradients, in one go over the blocks of rows.

    Parameters
    ----------
    x, linear_weight, target, linear_bias, weight, ignore_index, label_smoothing, reduction, z_loss, softcap
        As of `linear_cross_entropy`.
    memory_budget, progress, num_threads
        As of `linear_cross_entropy`.

    Returns
    -------
    loss : ndarray or scalar
        As `linear_cross_entropy` returns it.
    dx : ndarray
        The gradient of the loss with respect to x, or with reduction "none" that of each row's own loss.
    dlinear_weight : ndarray
        With respect to linear_weight; with reduction "none" that of the sum of the losses.
    dlinear_bias : ndarray or None
        With respect to linear_bias, likewise; None without one.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `linear_cross_entropy`.

    See Also
    --------
    linear_cross_entropy, cross_entropy_with_grad

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> x, linear_weight = np.eye(2), np.log([[1.0, 6.0], [1.0, 1.0], [2.0, 1.0]])
    >>> loss, dx, dlinear_weight, _ = fs.linear_cross_entropy_with_grad(x, linear_weight, [2, 0])
    >>> dlinear_weight
    array([[ 0.125 , -0.125 ],
           [ 0.125 ,  0.0625],
           [-0.25  ,  0.0625]])
    """
    options = (weight, ignore_index, label_smoothing, reduction, z_loss, softcap)
    name = "linear_cross_entropy_with_grad"
    loss, gradients = _linear(
        name, x, linear_weight, target, linear_bias, options, memory_budget, progress, num_threads, True
    )
    dtype = gradients.dx.dtype
    dbias = None if gradients.dbias is None else gradients.dbias.astype(dtype, copy=False)
    return loss, gradients.dx, gradients.dweight.astype(dtype, copy=False), dbias


class _Gradients:
    """What the blocks of a linear cross-entropy add up to."""

    def __init__(self, x: Array, weights: Array, bias: Array | None, dtype: np.dtype[Any], budget: int) -> None:
        self.weights = weights
        self.dx = np.zeros(x.shape, dtype)
        self.dweight = np.zeros(weights.shape, weights.dtype)
        self.dbias = None if bias is None else np.zeros(bias.shape, weights.dtype)
        self.together = max(1, budget // max(1, weights[0].nbytes))  # classes whose product fits

    def add(self, rows: slice | NDArray[np.intp], x: Array, dlogits: Array) -> None:
        self.dx[rows] = dlogits @ self.weights
        for begin in range(0, len(self.weights), self.together):
            classes = slice(begin, begin + self.together)
            self.dweight[classes] += dlogits[:, classes].T @ x  # BLAS may copy these dlogits
        if self.dbias is not None:
            self.dbias += np.ones(len(dlogits), dlogits.dtype) @ dlogits


def _linear(
    name: str,
    x: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    linear_bias: ArrayLike | None,
    options: tuple[Any, ...],
    memory_budget: Any,
    progress: Callable[[int, int], object] | None,
    num_threads: Any,
    with_grad: bool,
) -> tuple[Any, Any]:
    """The loss and, with_grad, _Gradients; `options`: those of _call.Loss(), from weight on."""
    a, w = _check.array(name, "x", x), _check.array(name, "linear_weight", linear_weight)
    bias = None if linear_bias is None else _check.array(name, "linear_bias", linear_bias)
    _check.linear_shapes(a, w, bias)
    budget = _check.budget(memory_budget)
    threads = _check.threads_of_call(num_threads)
    given = [(x, a), (linear_weight, w)] + ([] if bias is None else [(linear_bias, bias)])
    result = _check.result_dtype(_check.promoted(*given), None)
    compute = np.dtype(np.float32) if result.itemsize == 2 else result
    classes = _check.classes(name, "linear_weight", w.shape, 0)
    t = _check.target(target, (*a.shape[:-1], classes), a.ndim - 1)
    loss = _call.Loss(name, t, classes, *options)

    t = t.reshape(math.prod(t.shape[:-1]), classes) if t.ndim == a.ndim else t.reshape(-1)
    a, shape, w = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), a.shape, w.astype(compute, copy=False)
    # Of the budget three quarters are for logits, a sixteenth for products, the rest for copies that BLAS makes.
    gradients = _Gradients(a, w, bias, result, budget // 16) if with_grad else None
    counted = loss.counted(t)
    order = None if counted is None or counted.all() else np.flatnonzero(counted)
    count = len(a) if order is None else len(order)
    together = max(1, min(count, (budget * 3 // 4 if with_grad else budget) // (classes * compute.itemsize)))
    logits = np.empty((together, classes), compute)
    losses = np.zeros(len(a), np.longdouble if compute.itemsize > 8 else np.float64)
    for begin in range(0, count, together):
        end = min(begin + together, count)
        rows = slice(begin, end) if order is None else order[begin:end]
        with np.errstate(over="ignore", invalid="ignore"):
            features, block = a[rows].astype(compute, copy=False), logits[: end - begin]
            np.matmul(features, w.T, out=block)
            if bias is not None:
                block += bias
            losses[rows] = loss.rows(name, block, t[rows], 1, block if with_grad else None, threads)
            if gradients is not None:
                gradients.add(rows, features, block)
        if progress is not None:
            progress(end, count)
    if gradients is not None:
        gradients.dx = gradients.dx.reshape(shape)
    return loss.reduce(losses.reshape(shape[:-1]), result), gradients
