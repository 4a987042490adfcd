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

# Within these, 1/temperature and its products are normal numbers of the dtype.
_TEMPERATURES: dict[np.dtype[Any], tuple[float, float]] = {
    np.dtype(np.float32): (2.0**-100, 2.0**100),
    np.dtype(np.float64): (1e-280, 1e280),
}


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
    _compute(name, compute_dtype(result, t), a, axes, y, num_threads, mask, None, None, options)
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
    given, weights, t = a.dtype, None, _check.temperature(temperature)
    if b is not None:
        weights, shape = _check.weights(b, a.shape)
        given = np.result_type(
            *(v if type(v) in (bool, int, float) else v_array.dtype for v, v_array in ((x, a), (b, weights)))
        )
        a, weights = np.broadcast_to(a, shape), np.broadcast_to(weights, shape)
    axes = _check.axes(axis, a.ndim)
    result = _check.result_dtype(given, dtype)
    mask = None if where is None else _check.mask(where, a.shape, parameter)
    shape = tuple(1 if d in axes else n for d, n in enumerate(a.shape) if keepdims or d not in axes)
    target = None if out is None else _check.out(out, shape, result)

    y = _empty_reduced(a, axes, keepdims, shape, result) if target is None else target
    sign = np.empty_like(y, subok=False, dtype=result) if return_sign else None
    compute = compute_dtype(result, t)
    if weights is not None and compute == np.float32:
        compute = np.dtype(np.float64)  # whose range holds the products of exponentials and weights
    if a.size == 0:
        y[...] = empty
        if sign is not None:
            sign[...] = 0
    else:
        _compute(name, compute, a, axes, y, num_threads, mask, weights, sign, {"temperature": t}, keepdims)
    value = (y if y.ndim else y[()]) if out is None else out
    return value if sign is None else (value, sign if sign.ndim else sign[()])


def _smallest_normal(dtype: np.dtype[Any]) -> float:
    """Of a result dtype; as a float64, for longdouble (whose kernels only ask whether it is 0)."""
    if dtype.name == "bfloat16" or dtype == np.longdouble:
        dtype = np.dtype(np.float32)
    return float(np.finfo(dtype).smallest_normal)


def compute_dtype(result: np.dtype[Any], temperature: float) -> np.dtype[Any]:
    """What the arithmetic is done in: the least that holds the result and the temperature."""
    for dtype, (low, high) in _TEMPERATURES.items():
        if result.itemsize <= dtype.itemsize and low <= temperature <= high:
            return dtype
    return np.dtype(np.longdouble)


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
    compute: np.dtype[Any],
    a: Array,
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
        if np.may_share_memory(a, y) and _core.overlaps(a, y):
            a = a.copy()
        if mask is not None and np.may_share_memory(mask, y):
            mask = mask.copy()
        if weights is not None and np.may_share_memory(weights, y):
            weights = weights.copy()
    if mask is not None:
        mask = np.broadcast_to(mask, a.shape)
    y_kept = y if keepdims else np.expand_dims(y, axes)
    sign_kept = sign if sign is None or keepdims else np.expand_dims(sign, axes)
    _core.compute(OPS[name], compute, a, axes, y_kept, num_threads, mask, weights, sign_kept, **options)
    if final is not y:
        np.copyto(final, y)
