"""What is measured of one case: the error, the times of a sitting, the memory. Runs in a worker (bench/worker.py)."""

import contextlib
import functools
import gc
import math
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.cases import Case
from bench.quiet import seconds_of
from tests.reference import exact_softmax, ulp_error

ORACLES = {"softmax": exact_softmax}
ORACLE_ELEMENTS = 100_000  # the oracle takes about 0.2 us an element

TURN_SECONDS = 0.0015  # a turn is as many calls as fit, and at least one
SITTING_SECONDS = 0.6  # after which no round is begun
MIN_ROUNDS = 3  # for contenders whose one call takes long
MIN_GOOD = 2  # turns that nobody disturbed, of each contender
INTERRUPTED = 1.1  # wall time / CPU time from which on a turn on one core was not left alone
CLOCK_SECONDS = 20e-6  # beyond what reading the clocks takes
GAUGE_SECONDS = 0.01  # how long a turn waits for the cores to be at their best


# ---- error


@functools.lru_cache(1)
def oracle(op, dtype, shape, axis, spread, source, layout):
    """Exact results, and where they stand in the result: some elements of as many whole slices as there is time for."""
    x = Case(op, dtype, shape, axis, spread, source, layout).logits()
    slices, elements = [slice(None)] * x.ndim, [slice(None)] * x.ndim
    other = 0 if axis in (-1, x.ndim - 1) else -1
    if x.ndim > 1:
        slices[other] = elements[other] = slice(max(1, ORACLE_ELEMENTS // x.shape[axis]))
    elements[axis] = slice(None, None, -(-x.shape[axis] // ORACLE_ELEMENTS))
    return ORACLES[op](x[tuple(slices)], axis)[tuple(elements)], tuple(elements)


def max_ulp(case, result):
    """Largest error of the normal numbers in `result`, in ULP."""
    exact, elements = oracle(case.op, case.dtype, case.shape, case.axis, case.spread, case.source, case.layout)
    result = np.asarray(result)[elements]
    normal = exact >= np.finfo(result.dtype).smallest_normal
    return float(ulp_error(result, exact)[normal].max())


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


# ---- memory


def peak_memory(call):
    """Bytes that a call takes at its peak, beyond what the process had; None where that cannot be told.

    The first call's are not counted, nor is what stays allocated between calls.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    call()
    gc.collect()
    try:
        reset.write_text("5")  # the peak is now the current size
    except OSError:
        return None
    before = status_bytes(status, "VmRSS")
    result = call()
    after = status_bytes(status, "VmHWM")
    del result
    return max(0, after - before)


def status_bytes(status, field):
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
