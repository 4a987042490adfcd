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
    num_threads: int,
) -> Any:
    """An operation whose result has the shape of x."""
    a = _check.array(name, "x", x)
    axes = _check.axes(axis, a.ndim)
    result = _check.result_dtype(a.dtype, dtype)
    t = _check.temperature(temperature)
    mask = None if where is None else _check.mask(where, a.shape, "x")
    zero = _check.choice("all_neg_inf", all_neg_inf, "nan", "zero")
    flush = _check.choice("subnormals", subnormals, "keep", "flush")
    target = None if out is None else _check.out(out, a.shape, result)

    y = np.empty_like(a, dtype=result, subok=False) if target is None else target
    limit = _smallest_normal(y.dtype) if flush else 0.0
    options = {"temperature": t, "zero_if_all_neg_inf": zero, "flush_below": limit}
    _compute(name, _compute_dtype(result, t), a, a.shape, axes, y, num_threads, mask, None, None, options)
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
    num_threads: int,
    *,
    b: Any = None,
    return_sign: bool = False,
    temperature: Any = 1.0,
) -> Any:
    """An operation that leaves one element of each slice; `empty`: that of a slice without elements."""
    a = _check.array(name, parameter, x)
    given, weights, joint, t = a.dtype, None, a, _check.temperature(temperature)
    if b is not None:
        weights = _check.weights(b, a.shape)
        given = _check.promoted((x, a), (b, weights))
        joint = np.broadcast_to(a, np.broadcast_shapes(a.shape, weights.shape))
    axes = _check.axes(axis, joint.ndim)
    result = _check.result_dtype(given, dtype)
    mask = None if where is None else _check.mask(where, joint.shape, parameter if b is None else f"{parameter} and b")
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
        options = {"temperature": t}
        _compute(name, compute, a, joint.shape, axes, y, num_threads, mask, weights, sign, options, keepdims)
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
    threads = 0 if num_threads is None else _check.num_threads(num_threads)
    if type(temperature) is float and temperature == 1.0:
        done = _core.normalize(OPS[name], grad, axis, out, threads, saved)
        if done is not None:
            return done
    a, b = _check.array(name, "grad", grad), _check.array(name, parameter, saved)
    _check.same_shape("grad", a, parameter, b)
    axes = _check.axes(axis, a.ndim)
    result = _check.result_dtype(_check.promoted((grad, a), (saved, b)), None)
    t = _check.temperature(temperature)
    y = np.empty_like(a, dtype=result, subok=False) if out is None else _check.out(out, a.shape, result)
    options = {"temperature": t, "saved": b}
    _compute(name, _compute_dtype(result, t), a, a.shape, axes, y, threads, None, None, None, options)
    return (y if y.ndim else y[()]) if out is None else out


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
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    y: Array,
    num_threads: int,
    mask: Array | None,
    weights: Array | None,
    sign: Array | None,
    options: dict[str, Any],
    keepdims: bool = True,
) -> None:
    final = y
    if _core.repeats(y):
        y = np.empty(y.shape, y.dtype)
    else:
        if _core.overlaps(a, y):
            a = a.copy()
        if mask is not None and np.may_share_memory(mask, y):
            mask = mask.copy()
        if weights is not None and np.may_share_memory(weights, y):
            weights = weights.copy()
        if options.get("saved") is not None and _core.overlaps(options["saved"], y):
            options["saved"] = options["saved"].copy()
    if a.shape != shape:
        a = np.broadcast_to(a, shape)
    if mask is not None:
        mask = np.broadcast_to(mask, shape)
    if weights is not None:
        weights = np.broadcast_to(weights, shape)
    y_kept = y if keepdims else np.expand_dims(y, axes)
    sign_kept = sign if sign is None or keepdims else np.expand_dims(sign, axes)
    _core.compute(OPS[name], compute, a, axes, y_kept, num_threads, mask, weights, sign_kept, **options)
    if final is not y:
        np.copyto(final, y)
