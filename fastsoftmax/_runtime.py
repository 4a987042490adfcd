"""What runs: the instruction set in use, and how to ask for it."""

import os

import numpy as np

from fastsoftmax import _check, _core

if _requested := os.environ.get("FASTSOFTMAX_ISA"):
    _core.activate_isa(_check.isa(_requested, _core.isas()))


def show_config() -> None:
    """Print what this build is and what it runs on: version, compiler, instruction sets, NumPy.

    The instruction set is the best that the CPU and the operating system support. The environment variable
    ``FASTSOFTMAX_ISA``, one of the names printed, read at import, overrides it. ``python -m
    fastsoftmax`` prints the same.

    Examples
    --------
    >>> import fastsoftmax as fs
    >>> fs.show_config()  # doctest: +ELLIPSIS
    fastsoftmax ...
    """
    from fastsoftmax import __version__

    isas = _core.isas()
    print(f"fastsoftmax  {__version__}")
    print(f"compiler     {_core.compiler()}")
    print(f"ISAs built   {' '.join(isas)}")
    print(f"ISAs usable  {' '.join(name for name, usable in isas.items() if usable)}")
    print(f"ISA active   {_core.active_isa()}")
    print("threads      1 (the caller's)")
    print(f"NumPy        {np.__version__}")
