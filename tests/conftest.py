import pytest

from fastsoftmax import _core

USABLE_ISAS = [name for name, usable in _core.isas().items() if usable]


@pytest.fixture(params=USABLE_ISAS)
def isa(request):
    """Runs the test once on every instruction set that this machine can run."""
    before = _core.active_isa()
    _core.activate_isa(request.param)
    yield request.param
    _core.activate_isa(before)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param
