from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

def ops() -> dict[str, tuple[float, str]]: ...
def isas() -> dict[str, bool]: ...
def compiler() -> str: ...
def active_isa() -> str: ...
def activate_isa(name: str) -> None: ...

__pyx_capi__: dict[str, Any]  # what compiled modules call as C functions
MAX_THREADS: int
F32: int
F64: int
LONGDOUBLE: int
context_threads: ContextVar[int]

def cpu_count() -> int: ...
def stream_from(nbytes: int) -> None: ...
def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def limit_num_threads(threads: int) -> None: ...
def normalize(
    op: int,
    x: object,
    axis_of_x: object,
    out: object,
    dtype_of_result: object,
    where: object,
    temperature: object,
    all_neg_inf: object,
    subnormals: object,
    num_threads: object,
    saved: object = ...,
) -> NDArray[Any] | None: ...
def reduce(
    op: int,
    x: object,
    axis_of_x: object,
    keepdims: object,
    out: object,
    dtype_of_result: object,
    where: object,
    temperature: object,
    num_threads: object,
) -> Any: ...
def loss_of_labels(
    op: int,
    logits: object,
    target: object,
    axis_of_logits: object,
    options: tuple[Any, ...],
    out: object,
    num_threads: object,
    with_grad: bool,
) -> Any: ...
def total(losses: NDArray[np.float64]) -> float: ...
def compute(
    op: int,
    compute_dtype: int,
    x: NDArray[Any],
    axes: tuple[int, ...],
    y: NDArray[Any] | None,
    threads: int,
    *,
    mask: NDArray[np.bool] | None = None,
    weights: NDArray[Any] | None = None,
    sign: NDArray[Any] | None = None,
    saved: NDArray[Any] | None = None,
    grad: NDArray[Any] | None = None,
    target: NDArray[Any] | None = None,
    class_weight: NDArray[Any] | None = None,
    losses: NDArray[Any] | None = None,
    temperature: float = 1.0,
    zero_if_all_neg_inf: bool = False,
    flush_below: float = 0.0,
    divisor: float = 1.0,
    smoothing: float = 0.0,
    z: float = 0.0,
    z_divisor: float = 1.0,
    softcap: float = 0.0,
    ignore_index: int | None = None,
) -> None: ...
def count_labels(target: NDArray[Any], classes: int, ignored: int | None) -> tuple[int, int]: ...
def storage_of(dtype: np.dtype[Any]) -> int: ...
def is_float(dtype: np.dtype[Any]) -> bool: ...
def overlaps(a: NDArray[Any], b: NDArray[Any]) -> bool: ...
def repeats(a: NDArray[Any]) -> bool: ...
