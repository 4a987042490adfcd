import contextlib
import os
import random
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


# ---- what a run takes

# The seed of the samples, for all processes of the run; given, it takes the same ones again.
SEED = int(os.environ.setdefault("FSM_TEST_SEED", str(random.SystemRandom().randrange(2**32))))
LEFT_OUT = pytest.StashKey[int]()


def pytest_report_header():
    return f"FSM_TEST_SEED={SEED}, which takes the samples of this run again"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """pytest-xdist does not tell what its processes have left out; each has left out the same."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_deselected(items):
    config = items[0].config
    config.stash[LEFT_OUT] = config.stash.get(LEFT_OUT, 0) + len(items)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


def pytest_terminal_summary(terminalreporter, config):
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{left_out} tests left out; FSM_TEST_SEED={SEED} takes the same samples again")


def sample(items, count, rng):
    """`count` of the combinations of a test's parameters; of several parameters, as many more as it takes to have each
    value of each."""
    chosen, others, seen = set(), [], set()
    for item in rng.sample(items, len(items)):
        params = item.callspec.params
        values = {(name, id(value)) for name, value in params.items() if len(params) > 1}
        if values <= seen:
            others.append(item)
        else:
            chosen.add(item)
            seen |= values
    return chosen.union(others[: max(0, count - len(chosen))])


@pytest.hookimpl(tryfirst=True)  # before pytest looks at -m
def pytest_collection_modifyitems(config, items):
    # What begins with a compiler comes first: other processes do the rest in the meantime.
    items.sort(key=lambda item: item.path.name != "test_native.py")
    if config.option.keyword or config.getoption("lf", False) or any("::" in argument for argument in config.args):
        return  # these tests are wanted
    functions = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            functions.setdefault(item.nodeid.split("[")[0], []).append(item)
    for name, combinations in functions.items():
        (one_in,) = combinations[0].get_closest_marker("sampled").args
        taken = sample(combinations, max(1, len(combinations) // one_in), random.Random(f"{SEED} {name}"))
        for item in combinations:
            if item not in taken:
                item.add_marker("long")


# ---- instruction sets, dtypes, operations


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
