"""Cross-entropy losses and their gradients."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastsoftmax import _call


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
        Rows whose target is this do not count: they are not read, their loss and gradient are 0. It may be out of
        range.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of every target that is spread evenly over the classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        What becomes of the losses of the rows. The mean over class indices is weighted: it divides by the sum of the
        targets' weights. That over probabilities divides by the number of rows.
    z_loss : float, default 0.0
        Factor of the square of logsumexp(logits), which keeps that near 0. It is not weighted: the mean is that over the
        rows that count.
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
    value, dlogits = _call.cross_entropy(
        "cross_entropy_with_grad", logits, target, axis, options, out, num_threads, True
    )
    return value, dlogits
