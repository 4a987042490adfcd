"""Softmax for NumPy arrays: accurate to a few ULP, the same bits on every CPU, and fast.

>>> import numpy as np
>>> import fastsoftmax as fs
>>> fs.softmax(np.array([[1.0, 2.0, 3.0], [1000.0, 1000.0, 1000.0]]))
array([[0.09003057, 0.24472847, 0.66524096],
       [0.33333333, 0.33333333, 0.33333333]])
"""

from fastsoftmax._grad import log_softmax_grad, logsumexp_grad, softmax_grad
from fastsoftmax._logsumexp import logmeanexp, logsumexp, softmax_entropy
from fastsoftmax._loss import (
    cross_entropy,
    cross_entropy_with_grad,
    linear_cross_entropy,
    linear_cross_entropy_with_grad,
)
from fastsoftmax._runtime import get_num_threads, num_threads, set_num_threads, show_config
from fastsoftmax._softmax import log_softmax, softmax

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "cross_entropy",
    "cross_entropy_with_grad",
    "get_num_threads",
    "linear_cross_entropy",
    "linear_cross_entropy_with_grad",
    "log_softmax",
    "log_softmax_grad",
    "logmeanexp",
    "logsumexp",
    "logsumexp_grad",
    "num_threads",
    "set_num_threads",
    "show_config",
    "softmax",
    "softmax_entropy",
    "softmax_grad",
]
