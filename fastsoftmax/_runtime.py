"""What runs: the instruction set, the number of threads, and how to ask for others."""

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from fastsoftmax import _check, _core

_initial_threads = 0  # FASTSOFTMAX_NUM_THREADS; 0: as many as there are CPUs


def set_num_threads(n: int | None) -> None:
    """Let every later call of this process share its work among up to `n` threads, the calling one included.

    Parameters
    ----------
    n : int or None
        From 1 to 1024. 1 means that no call uses any thread but its own. None is the number that the process started
        with, which follows the CPUs that the calling thread may run on: see `get_num_threads`.

    Raises
    ------
    TypeError, ValueError
        If `n` is no such number.

    See Also
    --------
    num_threads : The same for the calls inside a ``with`` block.

    Examples
    --------
    >>> import fastsoftmax as fs
    >>> fs.set_num_threads(1)
    >>> fs.get_num_threads()
    1
    >>> fs.set_num_threads(None)
    """
    _core.set_num_threads(_initial_threads if n is None else _check.num_threads(n))


def get_num_threads() -> int:
    """How many threads a call made here would share its work among, at most.

    That is the number of the innermost `num_threads` block; outside of one, that of `set_num_threads`; without
    that, the value that the environment variable ``FASTSOFTMAX_NUM_THREADS`` had at import; and without that, the
    number of CPUs that the calling thread may run on (its affinity mask), but no more than the cgroup's CPU quota
    rounded up and the value of ``OMP_NUM_THREADS`` at import, so that workers of joblib, loky or Dask get their share.

    Returns
    -------
    int

    Notes
    -----
    Work is shared by rows, or strips of columns. Worker threads are started by the first call that needs them, and
    there is one set of them: a call that finds it busy with another Python thread's call does all its work itself,
    and one that begins while others run takes no more threads than these leave CPUs. Workers spin for up to 0.1 ms
    after a call and then sleep. A child process made by ``fork`` starts its own.

    Examples
    --------
    >>> import fastsoftmax as fs
    >>> fs.get_num_threads() >= 1
    True
    """
    return _core.num_threads()


def num_threads(n: int) -> AbstractContextManager[None]:
    """Let the calls of this thread (or asynchronous task) inside the block share their work among up to `n` threads.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    TypeError, ValueError
        If `n` is no such number.

    Examples
    --------
    >>> import numpy as np
    >>> import fastsoftmax as fs
    >>> with fs.num_threads(1):
    ...     y = fs.softmax(np.zeros((1000, 1000)))
    """
    return _in_context(_check.num_threads(n))


@contextmanager
def _in_context(threads: int) -> Iterator[None]:
    token = _core.context_threads.set(threads)
    try:
        yield
    finally:
        _core.context_threads.reset(token)


def show_config() -> None:
    """Print what this build is and what it runs on: version, compiler, instruction sets, threads, NumPy.

    The instruction set is the best that the CPU and the operating system support. The environment variable
    ``FASTSOFTMAX_ISA``, one of the names printed, read at import, overrides it. ``python -m
    fastsoftmax`` prints the same.

    Examples
    --------
    >>> import fastsoftmax as fs
    >>> fs.show_config()
    fastsoftmax ...
    """
    from fastsoftmax import __version__

    isas = _core.isas()
    print(f"fastsoftmax  {__version__}")
    print(f"compiler     {_core.compiler()}")
    print(f"ISAs built   {' '.join(isas)}")
    print(f"ISAs usable  {' '.join(name for name, usable in isas.items() if usable)}")
    print(f"ISA active   {_core.active_isa()}")
    print(f"threads      {get_num_threads()} (this process may use {_core.cpu_count()} CPUs)")
    print(f"NumPy        {np.__version__}")


def _cgroup_quota(root: Path = Path("/")) -> float:
    """How many CPUs' worth of time this process may use: the least quota of its control group and those above it."""
    quotas = [math.inf]
    try:
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":  # version 2
                base = root / "sys/fs/cgroup"
            elif "cpu" in controllers.split(","):
                mounts = [root / "sys/fs/cgroup" / name for name in ("cpu", "cpu,cpuacct", controllers)]
                base = next((mount for mount in mounts if mount.exists()), mounts[0])
            else:
                continue
            group = base / path.lstrip("/")
            # A container may see its own group as the root.
            groups = {base, *(g for g in [group, *group.parents] if g.is_relative_to(base))}
            quotas += [_quota_of(g) for g in groups]
    except (OSError, ValueError):
        pass
    return min(quotas)


def _quota_of(group: Path) -> float:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text()
    except OSError:
        return math.inf
    return math.inf if quota in ("max", "-1") else float(quota) / float(period)


def _read_environment() -> None:
    if isa := os.environ.get("FASTSOFTMAX_ISA"):
        _core.activate_isa(_check.isa(isa, _core.isas()))
    global _initial_threads
    if threads := os.environ.get("FASTSOFTMAX_NUM_THREADS"):
        _initial_threads = _check.threads_variable(threads)
        _core.set_num_threads(_initial_threads)
    limits = [_core.MAX_THREADS]
    if math.isfinite(quota := _cgroup_quota()):
        limits.append(max(1, math.ceil(quota)))
    # OMP_NUM_THREADS may list a number for each level of nesting; what is no number is ignored, as by OpenMP.
    outermost = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if outermost.isdecimal() and int(outermost) > 0:
        limits.append(int(outermost))
    _core.limit_num_threads(min(limits))


_read_environment()
