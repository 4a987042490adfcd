"""Whether others leave the machine alone. Cores often share an execution unit, a cache or a clock, and what another
process, or another guest of the same machine, takes of them changes ratios, not only times."""

import os
import time
from pathlib import Path

from bench import yardsticks

STAT = Path("/proc/stat")
TOLERATED = 0.1  # of a core, on average over a sitting
POLL_SECONDS = 0.1


def idle_seconds():
    """Time that all cores together have been idle, in steps of 10 ms; None where the system does not tell."""
    if not STAT.exists():
        return None
    ticks = STAT.read_text().split("\n", 1)[0].split()
    return (int(ticks[4]) + int(ticks[5])) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Started when made; `foreign` then tells the share of a core that other processes have taken since."""

    def __init__(self):
        self.idle, self.start, self.own = idle_seconds(), time.perf_counter(), time.process_time()

    def foreign(self, workers=0.0):
        """`workers` is the CPU time that processes of ours have taken meanwhile, in seconds."""
        if self.idle is None:
            return 0.0
        wall = time.perf_counter() - self.start
        taken = os.cpu_count() * wall - (idle_seconds() - self.idle)
        return max(0.0, taken - workers - (time.process_time() - self.own)) / wall


def wait_for_quiet(seconds):
    """Returns when nobody else is at work, or after so many seconds; says how long it took."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        watch = Watch()
        time.sleep(POLL_SECONDS)
        if watch.foreign() <= 2 * TOLERATED:  # the clock of idle_seconds() is coarse
            break
    return time.perf_counter() - start


class Gauge:
    """How fast the cores are: called, it does the same arithmetic on `threads` of them at once and returns the seconds
    (0 where there is no compiler for it). A core that shares its execution units with another, or whose clock is
    down, takes up to twice as long."""

    # Times the best of them all, which is a lucky one; several threads have to meet first.
    STEADY_ALONE, STEADY_TOGETHER = 1.15, 1.3

    def __init__(self, threads):
        self.threads = threads
        self.tolerated = self.STEADY_ALONE if threads == 1 else self.STEADY_TOGETHER
        self.best = float("inf")
        self.call = None
        if yardsticks.native() is not None:
            # 8 us; several threads need a while to meet.
            self.call, _ = yardsticks.arithmetic("softmax", "float32", 1 if threads == 1 else 30 * threads, threads)

    def __call__(self):
        seconds = 0
        if self.call:
            self.call()  # wakes threads, and fills L1
            seconds = seconds_of(self.call)
        self.best = min(self.best, seconds)
        return seconds

    def steady(self, seconds):
        return seconds <= self.tolerated * self.best

    def wait(self, limit):
        """Returns what the gauge says as soon as that is steady, or after `limit` seconds."""
        end = time.perf_counter() + limit
        while not self.steady(seconds := self()) and time.perf_counter() < end:
            pass
        return seconds


def seconds_of(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
