"""From checked arguments to one call of the core: in which dtype to compute, where to put the result, what to copy.

Nothing of the input's size is allocated, unless `out` overlaps an input in another way than element by element, or has
an element twice.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsoftmax import _check, _core

Array = NDArray[Any]

OPS = {name: number for number, name in enumerate(_core.ops())}

# What the arithmetic can be done in: (bytes of a result, temperatures T for which 1/T and its products are normal).
_COMPUTE = {_core.F32: (4, 2.0**-100, 2.0**100), _core.F64: (8, 1e-280, 1e280)}

# The sizes of class weights with which that neither overflows nor becomes subnormal.
_WEIGHTS = {_core.F32: (2.0**-26, 2.0**40), _core.F64: (2.0**-500, 2.0**500)}


def normalize(
    name: str,
    x: ArrayLike,
    axis: Any,
    out: Any,
    dtype: Any,
    where: Any,
    temperature: Any,
    all_neg_inf: Any,
    subnormals: Any,
    num_threads: Any,
) -> Any:
    """An operation whose result has the shape of x."""
    threads = _check.threads_of_call(num_threads)
    a = _check.array(name, "x", x)
    axes = _check.axes(axis, a.ndim)
    result = _check.result_dtype(a.dtype, dtype)
    t = _check.temperature(temperature)
    mask = None if where is None else np.broadcast_to(_check.mask(where, a.shape, "x"), a.shape)
    zero = _check.choice("all_neg_inf", all_neg_inf, "nan", "zero")
    flush = _check.choice("subnormals", subnormals, "keep", "flush")
    target = None if out is None else _check.out(out, a.shape, result)

    y = np.empty_like(a, dtype=result, subok=False) if target is None else target
    limit = _smallest_normal(y.dtype) if flush else 0.0
    options = {"temperature": t, "zero_if_all_neg_inf": zero, "flush_below": limit}
    _compute(name, _compute_dtype(result, t), a, axes, y, threads, {"mask": mask}, options)
    return (y if y.ndim else y[()]) if out is None else out


def reduce(
    name: str,
    parameter: str,
    x: ArrayLike,
    axis: Any,
    keepdims: bool,
    out: Any,
    dtype: Any,
    where: Any,
    empty: float,
    num_threads: Any,
    *,
    b: Any = None,
    return_sign: bool = False,
    temperature: Any = 1.0,
) -> Any:
    """An operation that leaves one element of each slice; `empty`: that of a slice without elements."""
    threads = _check.threads_of_call(num_threads)
    a = _check.array(name, parameter, x)
    given, weights, joint, t = a.dtype, None, a, _check.temperature(temperature)
    if b is not None:
        weights = _check.weights(b, a.shape)
        given = _check.promoted((x, a), (b, weights))
        joint = np.broadcast_to(a, np.broadcast_shapes(a.shape, weights.shape))
        weights = np.broadcast_to(weights, joint.shape)
    axes = _check.axes(axis, joint.ndim)
    result = _check.result_dtype(given, dtype)
    if where is not None:
        where = _check.mask(where, joint.shape, parameter if b is None else f"{parameter} and b")
        where = np.broadcast_to(where, joint.shape)
    shape = tuple(1 if d in axes else n for d, n in enumerate(joint.shape) if keepdims or d not in axes)
    target = None if out is None else _check.out(out, shape, result)

    y = _empty_reduced(joint, axes, keepdims, shape, result) if target is None else target
    sign = np.empty_like(y, subok=False, dtype=result) if return_sign else None
    # The range of float64 holds the products of exponentials and weights.
    compute = _compute_dtype(result, t, _core.F32 if weights is None else _core.F64)
    if joint.size == 0:
        y[...] = empty
        if sign is not None:
            sign[...] = 0
    else:
        y_kept = y if keepdims else np.expand_dims(y, axes)
        sign_kept = sign if sign is None or keepdims else np.expand_dims(sign, axes)
        operands = {"mask": where, "weights": weights, "sign": sign_kept}
        _compute(name, compute, joint, axes, y_kept, threads, operands, {"temperature": t})
    value = (y if y.ndim else y[()]) if out is None else out
    return value if sign is None else (value, sign if sign.ndim else sign[()])


def gradient(
    name: str,
    grad: ArrayLike,
    parameter: str,
    saved: ArrayLike,
    axis: Any,
    out: Any,
    temperature: Any,
    num_threads: Any,
) -> Any:
    """A gradient from `grad` and the forward result, both of the shape of the result."""
    threads = _check.threads_of_call(num_threads)
    a, b = _check.array(name, "grad", grad), _check.array(name, parameter, saved)
    _check.same_shape("grad", a, parameter, b)
    axes = _check.axes(axis, a.ndim)
    result = _check.result_dtype(_check.promoted((grad, a), (saved, b)), None)
    t = _check.temperature(temperature)
    y = np.empty_like(a, dtype=result, subok=False) if out is None else _check.out(out, a.shape, result)
    _compute(name, _compute_dtype(result, t), a, axes, y, threads, {"saved": b}, {"temperature": t})
    return (y if y.ndim else y[()]) if out is None else out


def logsumexp_gradient(
    name: str, grad: ArrayLike, x: ArrayLike, axis: Any, lse: Any, out: Any, num_threads: Any
) -> Any:
    """grad, and lse unless it is None, have the shape of the reduction of x, with or without kept axes."""
    threads = _check.threads_of_call(num_threads)
    g, a = _check.array(name, "grad", grad), _check.array(name, "a", x)
    axes = _check.axes(axis, a.ndim)
    saved = None if lse is None else _check.reduced("lse", _check.array(name, "lse", lse), a, axes)
    operands = {"grad": _check.reduced("grad", g, a, axes), "saved": saved}
    result = _check.result_dtype(_check.promoted((grad, g), (x, a)), None)
    y = np.empty_like(a, dtype=result, subok=False) if out is None else _check.out(out, a.shape, result)
    _compute(name, _compute_dtype(result, 1.0), a, axes, y, threads, operands, {})
    return (y if y.ndim else y[()]) if out is None else out


class Loss:
    """What the options of a loss come to, for targets as _check.target() returns them."""

    def __init__(
        self,
        name: str,
        target: Array,
        classes: int,
        weight: Any,
        ignore_index: Any,
        label_smoothing: Any,
        reduction: Any,
        z_loss: Any,
        softcap: Any,
    ) -> None:
        indices = target.dtype.kind in "iu"
        smoothing, z = _check.label_smoothing(label_smoothing), _check.z_loss(z_loss)
        cap = _check.softcap(softcap)
        self.reduction = _check.reduction(reduction)
        self.weight = None if weight is None else _check.class_weight(name, weight, classes)
        self.ignore_index = _check.ignore_index(ignore_index, target.dtype)
        rows = _check.labels(target, classes, self.ignore_index) if indices else target.size // classes
        self.divisor = 1.0  # of the sum of the rows' losses, and of their gradients
        if self.reduction == "mean":
            self.divisor = float(rows)
            if indices and self.weight is not None:
                self.divisor = self._sum_of_weights(target)
        self.options = {
            "divisor": self.divisor,
            "smoothing": smoothing,
            "z": z,
            "z_divisor": float(rows) if self.reduction == "mean" and rows else 1.0,
            "softcap": cap,
            "ignore_index": self.ignore_index,
        }

    def counted(self, target: Array) -> NDArray[np.bool] | None:
        """Which rows count; None: all."""
        return None if self.ignore_index is None else target != self.ignore_index

    def _sum_of_weights(self, target: Array) -> float:
        """Of the classes that are named, in float64 and C order."""
        assert self.weight is not None
        with np.errstate(over="ignore", invalid="ignore"):
            weights, counted = self.weight.astype(np.float64), self.counted(target)
            picked = weights[target] if counted is None else np.where(counted, weights[np.where(counted, target, 0)], 0)
            return float(np.add.reduce(picked.reshape(-1)))

    def compute_dtype(self, result: np.dtype[Any]) -> int:
        """What the arithmetic is done in: the least that holds the result, the weights and softcap."""
        compute = _compute_dtype(result, self.options["softcap"] or 1.0)
        while compute != _core.LONGDOUBLE and self.weight is not None:
            low, high = _WEIGHTS[compute]
            sizes = np.abs(self.weight.astype(np.longdouble))
            if not np.any((sizes != 0) & (sizes < low) | (sizes > high) & (sizes < np.inf)):
                break
            compute += 1
        return compute

    def rows(self, name: str, a: Array, target: Array, axis: int, y: Array | None, num_threads: int) -> Array:
        """The loss of each row of a; their gradients go to y, unless that is None."""
        compute = self.compute_dtype(_check.result_dtype(a.dtype, None))
        shape = a.shape[:axis] + a.shape[axis + 1 :]
        losses = np.empty(shape, np.longdouble if compute == _core.LONGDOUBLE else np.float64)
        weight = self.weight
        if weight is not None:
            weight = np.broadcast_to(weight.reshape((-1,) + (1,) * (a.ndim - 1 - axis)), a.shape)
        operands = {
            "target": _kept(target, axis) if target.ndim < a.ndim else target,
            "class_weight": weight,
            "losses": _kept(losses, axis),
        }
        _compute("cross_entropy", compute, a, (axis,), y, num_threads, operands, self.options)
        return losses

    def reduce(self, losses: Array, result: np.dtype[Any]) -> Any:
        """One number, or with reduction "none" all, in the dtype of a loss."""
        dtype = np.dtype(np.float32) if result.itemsize == 2 else result
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            if self.reduction == "none":
                return losses.astype(dtype)[()]
            total = np.float64(_core.total(losses)) if losses.dtype == np.float64 else np.add.reduce(losses, axis=None)
            value = total / self.divisor
            return dtype.type(value if value == value else np.nan)  # the one NaN: of a sum it may be any


def cross_entropy(
    name: str,
    logits: ArrayLike,
    target: Any,
    axis: Any,
    options: tuple[Any, ...],
    out: Any,
    num_threads: Any,
    with_grad: bool,
) -> Any:
    """`options`: those of Loss(), from weight on."""
    threads = _check.threads_of_call(num_threads)
    a = _check.array(name, "logits", logits)
    place = _check.class_axis(axis, a.ndim)
    classes = _check.classes(name, "logits", a.shape, place)
    t = _check.target(target, a.shape, place)
    loss = Loss(name, t, classes, *options)
    result = _check.result_dtype(a.dtype, None)
    y = None
    if with_grad:
        y = np.empty_like(a, dtype=result, subok=False) if out is None else _check.out(out, a.shape, result)
    value = loss.reduce(loss.rows(name, a, t, place, y, threads), result)
    return (value, y if out is None else out) if with_grad else value


def _kept(a: Array, axis: int) -> Array:
    """A view of a, with an axis of length 1 more: as np.expand_dims(), which takes four times as long."""
    return a.reshape(*a.shape[:axis], 1, *a.shape[axis:])


def _smallest_normal(dtype: np.dtype[Any]) -> float:
    """Of a result dtype; of a longdouble that is more than a float64, as little as that can hold."""
    if dtype.itemsize > 8:
        return 5e-324
    return float(np.finfo(np.float32 if dtype.name == "bfloat16" else dtype).smallest_normal)


def _compute_dtype(result: np.dtype[Any], temperature: float, least: int = _core.F32) -> int:
    """What the arithmetic is done in: the least that holds the result and the temperature."""
    for compute, (itemsize, low, high) in _COMPUTE.items():
        if compute >= least and result.itemsize <= itemsize and low <= temperature <= high:
            return compute
    return _core.LONGDOUBLE


def _empty_reduced(
    a: Array, axes: tuple[int, ...], keepdims: bool, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    """A new array for the result of a reduction, in the memory order of a."""
    if a.size == 0:
        return np.empty(shape, dtype)
    joined = slice(0, 1) if keepdims else 0
    first = a[tuple(joined if d in axes else slice(None) for d in range(a.ndim))]
    return np.empty_like(first, dtype=dtype, subok=False) if isinstance(first, np.ndarray) else np.empty(shape, dtype)


def _compute(
    name: str,
    compute: int,
    a: Array,
    axes: tuple[int, ...],
    y: Array | None,
    num_threads: int,
    operands: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """y, and `operands` by their names in _core.compute(), are of the shape of a, or 1 long along the axes."""
    if y is not None and _core.repeats(y):
        once = np.empty(y.shape, y.dtype)
        _core.compute(OPS[name], compute, a, axes, once, num_threads, **operands, **options)
        np.copyto(y, once)
        return
    if y is not None:
        if _core.overlaps(a, y):
            a = a.copy()
        for key, operand in operands.items():
            if operand is not None and _core.overlaps(operand, y):
                operands[key] = operand.copy()
    _core.compute(OPS[name], compute, a, axes, y, num_threads, **operands, **options)
