import contextlib

import pytest

from fastsoftmax import _core

USABLE_ISAS = [name for name, usable in _core.isas().items() if usable]


@contextlib.contextmanager
def running_on(isa):
    """Calls inside the block run on the instruction set `isa`."""
    before = _core.active_isa()
    _core.activate_isa(isa)
    try:
        yield isa
    finally:
        _core.activate_isa(before)


@pytest.fixture(params=USABLE_ISAS)
def isa(request):
    """Runs the test once on every instruction set that this machine can run."""
    with running_on(request.param):
        yield request.param


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param
