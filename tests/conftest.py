import contextlib
import os
import sys
from pathlib import Path

import pytest
from contract import FORWARD

from fastsoftmax import _core

# bench and tools; last, so that the package under test is the one that was installed.
sys.path.append(str(Path(__file__).resolve().parent.parent))

USABLE_ISAS = [name for name, usable in _core.isas().items() if usable]

# Under `make asan` the module must be the one that was built for it: another would pass and prove nothing.
ASAN = "libasan" in os.environ.get("LD_PRELOAD", "")
assert not ASAN or b"__asan_init" in Path(_core.__file__).read_bytes(), f"{_core.__file__} is not sanitized"

# In a checkout a compiled module is what runs, whatever has been edited beside it since. (Of an installed copy the
# times only say in what order the files were unpacked.)
PACKAGE = Path(_core.__file__).resolve().parent
STALE = [
    source.name
    for suffix in (".py", ".pyx", ".pxd")
    for source in PACKAGE.glob(f"*{suffix}")
    for module in PACKAGE.glob(f"{source.stem}.*")
    if module.suffix in (".so", ".pyd") and module.stat().st_mtime < source.stat().st_mtime
]
CHECKOUT = Path(__file__).resolve().parent.parent
assert PACKAGE.parent != CHECKOUT or not STALE, f"edited since it was compiled: {STALE}; run pip install -e . again"


def pytest_collection_modifyitems(items):
    """The file that takes longest, several minutes of compilers and QEMU, comes first: other processes do the rest in
    the meantime (`pytest -n auto --dist loadfile --no-loadscope-reorder`)."""
    items.sort(key=lambda item: item.path.name != "test_native.py")


def not_under_asan(reason):
    """Marks a test that AddressSanitizer itself stands in the way of."""
    return pytest.mark.skipif(ASAN, reason=f"under AddressSanitizer {reason}")


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


@pytest.fixture(params=FORWARD)
def op(request):
    return request.param
