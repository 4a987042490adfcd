"""Whether other processes leave the machine alone. Cores often share an execution unit, a cache or a clock, and what
another process takes of them changes ratios, not only times."""

import os
import time
from pathlib import Path

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
