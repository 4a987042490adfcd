"""What is measured of one case: the error and the times of a sitting. Runs in a worker (bench/worker.py)."""

import contextlib
import functools
import gc
import math
import random
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np

from bench.cases import LOSSES, REDUCTIONS
from bench.contenders import HALVES
from bench.quiet import seconds_of
from tests import reference
from tests.reference import as_long, exact_cross_entropy_grad

ORACLE_ELEMENTS = 100_000  # the oracle takes about 0.2 us an element

TURN_SECONDS = 0.0015  # a turn is as many calls as fit, and at least one
SITTING_SECONDS = 0.6  # after which no round is begun
MIN_ROUNDS = 3  # for contenders whose one call takes long
MIN_GOOD = 2  # turns that nobody disturbed, of each contender
INTERRUPTED = 1.1  # wall time / CPU time from which on a turn on one core was not left alone
CLOCK_SECONDS = 20e-6  # beyond what reading the clocks takes
GAUGE_SECONDS = 0.01  # how long a turn waits for the cores to be at their best


# ---- error

ORACLES = {**reference.ORACLES, "cross_entropy_with_grad": exact_cross_entropy_grad}
LARGEST_TERMS = {
    **reference.LARGEST_TERMS,
    "cross_entropy_with_grad": lambda *inputs, **options: (
        reference.Losses(*inputs, **options).largest_term_of_gradient()
    ),
}


@functools.lru_cache(1)
def oracle(case):
    """(what is looked at of a result whose slices are rows, the exact numbers there, the numbers whose last place is
    the unit of the error)."""
    slices = slice(None, None, max(1, case.elements // ORACLE_ELEMENTS))
    inputs = [case.rows(x)[slices] for x in case.inputs()]
    inputs = [x.astype(np.float32 if x.dtype.name in HALVES else x.dtype.newbyteorder("=")) for x in inputs]
    options = {**case.loss_options(), "reduction": "none"} if case.op in LOSSES else {}
    if case.mask:
        options["where"] = case.rows(np.broadcast_to(case.where(), case.shape))[slices]
    if case.temperature != 1:
        options["temperature"] = case.temperature
    exact = as_long(ORACLES[case.op](*inputs, -1, **options))
    unit = as_long(LARGEST_TERMS[case.op](*inputs, -1, **options)) if case.op in LARGEST_TERMS else exact
    if case.op in REDUCTIONS:
        return slices, exact, unit
    columns = slice(None, None, -(-case.joined // ORACLE_ELEMENTS))
    return (slices, columns), exact[:, columns], unit[:, columns]


def compared(case, result):
    """What is looked at of a result, the exact numbers, and those whose last place is the unit of the error."""
    places, exact, unit = oracle(replace(case, out=False, threads="1", quick=False))
    return case.rows(result)[places].astype(np.float64), exact, unit


def max_ulp(case, result):
    """Largest error of the normal numbers in `result`, in ULP."""
    got, exact, unit = compared(case, result)
    normal = np.isfinite(exact) & (np.abs(unit) >= ml_dtypes.finfo(result.dtype).smallest_normal)
    return float((np.abs(got[normal] - exact[normal]) / ulp(unit[normal], result.dtype)).max())


def ulp(values, dtype):
    """Of normal numbers: the distance to the next of this dtype."""
    return np.ldexp(np.longdouble(1), np.frexp(np.abs(values))[1] - 1 - ml_dtypes.finfo(dtype).nmant)


def fault(case, result):
    """Why a result cannot be that of the case, or None. Generous: wrong axes, masks and dtypes are meant, not errors of
    arithmetic."""
    if result.shape != case.result_shape:
        return f"wrong result: shape {result.shape}, expected {case.result_shape}"
    if result.dtype != case.result_dtype:
        return f"wrong result: dtype {result.dtype}, expected {case.result_dtype}"
    got, exact, unit = compared(case, result)
    if not np.array_equal(np.isfinite(got), np.isfinite(exact)):
        return "wrong result: infinite or NaN where the exact one is not, or the other way round"
    finite = np.isfinite(exact)
    # Probabilities, and what is in proportion to them, by the largest of their row, the others by themselves.
    proportional = case.op in ("softmax", "softmax_grad", "logsumexp_grad")
    scale = np.abs(unit).max(axis=-1, keepdims=True) if proportional else np.maximum(np.abs(exact), 1)
    error = float((np.abs(got[finite] - exact[finite]) / np.broadcast_to(scale, exact.shape)[finite]).max())
    tolerated = max(0.01, 16 * float(ml_dtypes.finfo(result.dtype).eps))
    return f"wrong result: off by {error:.2g}" if error > tolerated else None


# ---- time


def sitting_seconds(calls, rounds, seed, gauge):
    """({name: [seconds of the case in each round]}, whether too many turns were disturbed). The calls take turns, in an
    order that depends on the seed.

    Each turn starts with calls that are not timed: they fetch the data, and wake the threads. NaN stands where there is
    nothing to compare: a slow contender has had its share of the time, the cores were not at their best, or another
    process was given the core for a while (which cannot be told for work that is shared among threads).
    """
    shared = gauge.threads > 1
    names = list(calls)
    random.Random(seed).shuffle(names)
    turns = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        once = {name: seconds_of(calls[name]) for name in names}
        repeats = {name: max(1, int(TURN_SECONDS / once[name])) for name in names}
        warmups = {name: repeats[name] // 4 + 1 if once[name] < 4 * TURN_SECONDS else 0 for name in names}
        wanted = {name: max(MIN_ROUNDS, int(rounds * min(1, 2 * TURN_SECONDS / once[name]))) for name in names}
        start = time.perf_counter()
        for number in range(rounds):
            if number >= MIN_ROUNDS and time.perf_counter() - start > SITTING_SECONDS:
                break
            for name in names:
                if number < wanted[name]:
                    if shared:
                        wait_for_sleep()
                    turns[name].append(time_turn(calls[name], warmups[name], repeats[name], gauge))
    finally:
        gc.enable()
    good = {
        name: [gauge.steady(turn.gauge) and (shared or not turn.interrupted) for turn in taken]
        for name, taken in turns.items()
    }
    disturbed = any(sum(those) < MIN_GOOD for those in good.values())
    return {
        name: [
            turn.seconds if fine or sum(good[name]) < MIN_GOOD else math.nan
            for turn, fine in zip(taken, good[name], strict=True)
        ]
        + [math.nan] * (rounds - len(taken))
        for name, taken in turns.items()
    }, disturbed


@dataclass(frozen=True)
class Turn:
    seconds: float  # of the case
    gauge: float  # the worse of what it said before and after
    interrupted: bool  # another process was given the core


def time_turn(call, warmups, repeats, gauge):
    before = gauge.wait(GAUGE_SECONDS)
    for _ in range(warmups):
        call()
    part, calls = -(-repeats // 8), 0
    cpu = time.process_time()
    start = time.perf_counter()
    seconds = 0.0
    while calls < repeats and seconds < 4 * TURN_SECONDS:  # a call may now take much longer than at first
        for _ in range(part):
            call()
        calls += part
        seconds = time.perf_counter() - start
    interrupted = seconds > INTERRUPTED * (time.process_time() - cpu) + CLOCK_SECONDS
    return Turn(seconds / (calls * getattr(call, "work", 1)), max(before, gauge()), interrupted)


def wait_for_sleep(step=0.005, limit=0.05):
    """Returns when the other threads of this process use next to no CPU: pools spin for up to 30 ms after their work.

    A step is longer than a clock tick, in which the system counts the time of threads that run."""
    for _ in range(int(limit / step)):
        before = others_seconds()
        time.sleep(step)
        if others_seconds() - before < step / 5:
            return


def others_seconds():
    """CPU time of the other threads (where the system does not tell, of all)."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return time.process_time()
    total = 0
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            if task.name != str(threading.get_native_id()):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9
