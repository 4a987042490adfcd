"""How accurate and how fast, for one case."""

import statistics
import time

import numpy as np

from tests.reference import exact_softmax, ulp_error

ORACLE_ELEMENTS = 200_000  # the oracle takes about 0.2 us an element
ROUND_SECONDS = 0.003


def max_ulp(case, x, result):
    """Largest error of the normal numbers in `result`, in ULP, over as many whole slices as the oracle has time for."""
    slices = max(1, ORACLE_ELEMENTS // x.shape[case.axis])
    keep = [slice(None)] * x.ndim
    if x.ndim > 1:
        keep[0 if case.axis in (-1, x.ndim - 1) else -1] = slice(slices)
    exact = exact_softmax(x[tuple(keep)], case.axis)
    normal = exact >= np.finfo(x.dtype).smallest_normal
    return float(ulp_error(result[tuple(keep)], exact)[normal].max())


def median_seconds(calls, rounds):
    """Median time of each call (a dict by name), the calls taking turns in every round."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        repeats[name] = max(1, int(ROUND_SECONDS / once))
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}
