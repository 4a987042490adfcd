"""The thread pool: the same results at any number of threads, and a process that survives whatever is done to it.

for i in $(seq 100); do pytest -q tests/test_threads.py || break; done
"""

import asyncio
import contextvars
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import not_under_asan
from reference import assert_same_bits
from toolchains import build_pool, require

import fastsoftmax as fs
from fastsoftmax import _core, _runtime

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
RNG = np.random.default_rng(0)
X = (RNG.standard_normal((2000, 900)) * 4).astype(np.float32)  # enough to wake workers for


@pytest.fixture(scope="module")
def expected():
    return fs.softmax(X, num_threads=1)


def run_python(code, timeout=120, **environment):
    """`code` in a fresh interpreter, which knows x (large enough for threads), fs, np, workers()."""
    head = f"""
import os, sys, threading
from pathlib import Path
import numpy as np
import fastsoftmax as fs
{inspect.getsource(workers)}
x = np.linspace(-9, 9, 2000 * 900, dtype=np.float32).reshape(2000, 900)
"""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "FASTSOFTMAX_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def workers():
    """The thread numbers of the pool's workers."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "fastsoftmax":
            found.append(int(task.name))
    return found


# ---- results


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2000, 900), 1), ((2000, 900), 0), ((30, 100, 500), 1), ((20000, 3), 1), ((2, 900000), 1), ((900000, 2), 0)],
)
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_same_bits_at_any_number_of_threads(isa, dtype, shape, axis, threads):
    x = (RNG.standard_normal(shape) * 4).astype(dtype)
    expected = fs.softmax(x, axis, num_threads=1)
    assert_same_bits(fs.softmax(x, axis, num_threads=threads), expected)
    assert_same_bits(fs.softmax(x[:, ::-1], axis, num_threads=threads), fs.softmax(x[:, ::-1], axis, num_threads=1))
    assert fs.softmax(x, axis, out=x, num_threads=threads) is x
    assert_same_bits(x, expected)


def test_converted_input_is_shared_too(expected):
    assert_same_bits(fs.softmax(X.astype(">f4"), num_threads=2), expected)


@LINUX
def test_workers_start_when_they_are_needed():
    assert run_python("fs.softmax(x[:10], num_threads=4); print(len(workers()))") == "0"  # small
    assert run_python("fs.softmax(x[:500], num_threads=4); print(len(workers()))") == "0"  # medium, but alone
    assert run_python("fs.softmax(x, num_threads=1); print(len(workers()))") == "0"
    assert run_python("fs.softmax(x, num_threads=4); print(len(workers()))") == "3"
    assert run_python("fs.softmax(x, num_threads=3); fs.softmax(x, num_threads=2); print(len(workers()))") == "2"
    assert run_python("fs.softmax(x.reshape(2, -1), num_threads=9); print(len(workers()))") == "8"  # a row at a time
    assert run_python("fs.softmax(x.reshape(1, -1), num_threads=2); print(len(workers()))") == "1"
    assert run_python("fs.logsumexp(x[:20].reshape(1, -1), num_threads=2); print(len(workers()))") == "0"


def run_pool(program, *arguments):
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), arguments


@UNIX
@pytest.mark.sanitizers
def test_units_are_computed_once_under_thread_sanitizer(tmp_path):
    require("gcc")
    program = build_pool(tmp_path, "-fsanitize=thread")
    for arguments in (["callers", "1"], ["callers", "8"], ["exit"], ["rounding"]):
        run_pool(program, *arguments)


@UNIX
def test_units_are_computed_once_in_children_of_a_busy_process(tmp_path):
    """Not under ThreadSanitizer, which has no threads in the child of a process that had several."""
    require("gcc")
    run_pool(build_pool(tmp_path), "fork")


# ---- many callers


def test_many_python_threads_at_once(expected):
    wrong = []

    def call(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            begin, end = sorted(rng.integers(0, len(X) + 1, 2))
            got = fs.softmax(X[begin:end], num_threads=int(rng.integers(1, 5)))
            if got.tobytes() != expected[begin:end].tobytes():
                wrong.append((begin, end))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_labels_that_change_during_the_call():
    """One that was in range when they were looked at must not lead anywhere else when it is not."""
    run_python("""
logits, target, stop = np.zeros((200000, 5), np.float32), np.zeros(200000, np.int64), threading.Event()
out = np.empty_like(logits)

def change():
    while not stop.is_set():
        target[-1] = 10**12
        target[-1] = 0

thread = threading.Thread(target=change)
thread.start()
for _ in range(100):
    try:
        fs.cross_entropy_with_grad(logits, target, out=out)
    except IndexError:
        pass  # it was out of range when it was looked at
stop.set()
thread.join()
""")


def test_the_gil_is_released():
    """Another thread runs although the interpreter never takes the GIL away from this one."""
    x = np.zeros((2000, 2000), np.float32)
    go, ran = threading.Event(), []

    def other():
        go.wait()
        ran.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        go.set()
        for _ in range(100):
            fs.softmax(x, out=x)
            if ran:
                break
        assert ran
    finally:
        sys.setswitchinterval(interval)
        thread.join()


# ---- processes


def in_a_child(_):
    return fs.softmax(X, num_threads=2).tobytes()


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing(expected, method):
    fs.softmax(X, num_threads=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads
        with multiprocessing.get_context(method).Pool(2) as children:
            results = children.map_async(in_a_child, range(6)).get(timeout=120)
    assert results == [expected.tobytes()] * 6


@UNIX
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_while_busy(expected):
    stop = threading.Event()

    def call():
        while not stop.is_set():
            fs.softmax(X, num_threads=3)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                ok = fs.softmax(X, num_threads=2).tobytes() == expected.tobytes()
                os._exit(0 if ok else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert_same_bits(fs.softmax(X, num_threads=3), expected)


@pytest.mark.parametrize("calls", ["fs.softmax(x, num_threads=3)", "while True: fs.softmax(x, num_threads=3)"])
def test_exit_with_workers(calls):
    """Neither workers that spin nor a job that runs hold the process up or make it complain."""
    run_python(f"""
def call():
    {calls}
for _ in range(3):
    threading.Thread(target=call, daemon=True).start()
fs.softmax(x, num_threads=3)
""")
    run_python("import atexit; atexit.register(fs.softmax, x, num_threads=3)")


@LINUX
def test_affinity():
    for code in (
        "os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}); import fastsoftmax as fs",
        "import fastsoftmax as fs; os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})",
    ):
        assert run_python(f"{code}; fs.softmax(x); print(fs.get_num_threads(), len(workers()))") == "1 0"
    # What was asked for is done, also where there is no CPU for it.
    assert (
        run_python("""
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
expected = fs.softmax(x)
for _ in range(20):
    assert np.array_equal(fs.softmax(x, num_threads=4), expected)
print(len(workers()))
""")
        == "3"
    )


@LINUX
@not_under_asan("memory is mapped in terabytes, so no limit on it is met")
def test_no_thread_can_be_started():
    """Neither for want of memory for its stack, nor for a limit on processes; the caller does the work."""
    assert (
        run_python("""
import resource
expected = fs.softmax(x, num_threads=1)
out = np.empty_like(x)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**21, resource.RLIM_INFINITY))
try:
    threading.Thread(target=print).start()
    print("a thread could be started: the limit does not work")
except RuntimeError:
    pass
for _ in range(3):
    fs.softmax(x, out=out, num_threads=4)
    assert np.array_equal(out, expected)
print(len(workers()))
""")
        == "0"
    )


@LINUX
def test_workers_take_no_signals():
    code = """
import re, time
fs.softmax(x, num_threads=2)
[worker] = workers()
while True:  # the C library blocks all signals while a thread starts
    status = open(f"/proc/self/task/{worker}/status").read()
    blocked = int(re.search("SigBlk:\\s*(\\w+)", status).group(1), 16)
    if not blocked >> 10 & 1:
        break
    time.sleep(0.01)
print(blocked)
"""
    blocked = int(run_python(code))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1):
        assert blocked >> (number - 1) & 1
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE):  # a handler, faulthandler's say, has to see these
        assert not blocked >> (number - 1) & 1


@LINUX
def test_workers_stay_off_the_callers_cpu():
    assert (
        run_python("""
def allowed(task):
    return os.sched_getaffinity(task)

fs.softmax(x, num_threads=3)
mine = allowed(0)
for worker in workers():
    assert allowed(worker) <= mine
    assert len(allowed(worker)) == max(1, len(mine) - 1), (allowed(worker), mine)
print(len(workers()))
""")
        == "2"
    )


# ---- control


@pytest.fixture
def seven():
    """The process is set to seven threads."""
    fs.set_num_threads(7)
    yield
    fs.set_num_threads(None)


@pytest.mark.usefixtures("seven")
def test_the_innermost_block_counts():
    assert fs.get_num_threads() == 7
    with fs.num_threads(3):
        assert fs.get_num_threads() == 3
        with fs.num_threads(1):
            assert fs.get_num_threads() == 1
        fs.set_num_threads(5)
        assert fs.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), fs.num_threads(2):
            raise ZeroDivisionError
        assert fs.get_num_threads() == 3
    assert fs.get_num_threads() == 5


def test_back_to_the_number_of_the_start():
    code = "fs.set_num_threads(9); fs.set_num_threads(None); print(fs.get_num_threads())"
    assert run_python(code, FASTSOFTMAX_NUM_THREADS="5") == "5"
    assert run_python("print(fs.get_num_threads()); " + code).split()[0] == run_python(code)


@pytest.mark.usefixtures("seven")
def test_a_block_is_of_its_thread_and_task_only():
    seen = []
    with fs.num_threads(2):
        thread = threading.Thread(target=lambda: seen.append(fs.get_num_threads()), **fresh_context())
        thread.start()
        thread.join()
    assert seen == [7]

    async def task(n):
        with fs.num_threads(n):
            await asyncio.sleep(0)
            return fs.get_num_threads()

    async def both():
        return await asyncio.gather(task(2), task(3))

    assert asyncio.run(both()) == [2, 3]


def fresh_context():
    """From Python 3.14 on a thread may inherit the context of the one that starts it."""
    return {"context": contextvars.Context()} if sys.version_info >= (3, 14) else {}


@LINUX
def test_blocks_and_settings_rule_calls():
    assert run_python("fs.set_num_threads(4); fs.softmax(x); print(len(workers()))") == "3"
    assert run_python("with fs.num_threads(3): fs.softmax(x)\nprint(len(workers()))") == "2"
    assert run_python("with fs.num_threads(3): fs.softmax(x, num_threads=2)\nprint(len(workers()))") == "1"


def softmax_with(n):
    return fs.softmax(X, num_threads=n)


@pytest.mark.parametrize("use", [fs.set_num_threads, fs.num_threads, softmax_with])
def test_bad_numbers(use):
    before = fs.get_num_threads()
    for n in (0, -1, 1025, 10**30):
        with pytest.raises(ValueError, match=f"^num_threads must be from 1 to 1024, got {n}\\.$"):
            use(n)
    for n in (2.0, "2"):
        with pytest.raises(TypeError, match=f"^num_threads must be an int, got {type(n).__name__}\\.$"):
            use(n)
    assert fs.get_num_threads() == before


def threads_with(**environment):
    return int(run_python("print(fs.get_num_threads())", **environment))


def test_default_and_environment():
    default = threads_with()
    assert 1 <= default <= _core.cpu_count()
    assert threads_with(FASTSOFTMAX_NUM_THREADS="5") == 5
    assert threads_with(FASTSOFTMAX_NUM_THREADS="5", OMP_NUM_THREADS="1") == 5
    assert threads_with(OMP_NUM_THREADS="1") == 1
    assert threads_with(OMP_NUM_THREADS=" 1 , 4") == 1
    assert threads_with(OMP_NUM_THREADS="1000") == default
    for ignored in ("", "0", "-3", "many"):
        assert threads_with(OMP_NUM_THREADS=ignored) == default
    assert threads_with(FASTSOFTMAX_NUM_THREADS="") == default


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1025"])
def test_bad_environment(value):
    done = subprocess.run(
        [sys.executable, "-c", "import fastsoftmax"],
        env={**os.environ, "FASTSOFTMAX_NUM_THREADS": value},
        capture_output=True,
        text=True,
    )
    assert f"ValueError: FASTSOFTMAX_NUM_THREADS={value!r} is not a number from 1 to 1024. Unset it" in done.stderr


@pytest.mark.parametrize(("shape", "axis"), [((2**61,), 0), ((2**57, 40), 0)])
def test_rows_of_more_bytes_than_there_are_addresses(shape, axis):
    """A broadcast array can have them: work on it never ends, but is begun."""
    code = f"""
import numpy as np, fastsoftmax as fs
x = np.broadcast_to(np.uint8(0), {shape})
print("begun", flush=True)
fs.logsumexp(x, {axis})
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.kill()


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a\n", {"a/cpu.max": "400000 100000\n", "cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/gone\n", {}, np.inf),
        ("4:memory:/m\n3:cpu,cpuacct:/c\n0::/\n", {"cpu,cpuacct/c/cpu.cfs_quota_us": "200000\n"}, 2),
        ("3:cpu,cpuacct:/c\n", {"cpu,cpuacct/c/cpu.cfs_quota_us": "-1\n"}, np.inf),
        ("3:cpuacct,cpu:/c\n", {"cpu,cpuacct/c/cpu.cfs_quota_us": "150000\n"}, 1.5),
        ("3:cpuacct,cpu:/c\n", {"cpu/c/cpu.cfs_quota_us": "150000\n"}, 1.5),
    ],
)
def test_cgroup_quota(membership, files, quota):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(membership)
        for path, text in files.items():
            file = root / "sys/fs/cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            if file.name == "cpu.cfs_quota_us":
                (file.parent / "cpu.cfs_period_us").write_text("100000\n")
        assert _runtime._cgroup_quota(root) == quota
    assert _runtime._cgroup_quota(Path("/no/such/place")) == np.inf
