"""The processes that measure: one for each number of threads, and one for memory. Each imports the contenders after its
affinity is set, so that their thread pools have the size that is meant."""

import contextlib
import gc
import multiprocessing
import os
import time
import traceback

HAS_AFFINITY = hasattr(os, "sched_setaffinity")

# So that freed memory goes back to the system, and each new output counts.
MEMORY_ENVIRONMENT = {
    "BENCH_MEMORY": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def cores():
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0)) if HAS_AFFINITY else list(range(os.cpu_count()))


@contextlib.contextmanager
def inherited(core, environment):
    """A process started in this block has this core only, unless it is None, and these environment variables."""
    affinity = os.sched_getaffinity(0) if HAS_AFFINITY else None
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    if core is not None and HAS_AFFINITY:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        if HAS_AFFINITY:
            os.sched_setaffinity(0, affinity)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class Worker:
    """A process that answers one request at a time, with so many threads, on one core if that is given."""

    def __init__(self, threads, core=None, environment=None):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, threads), daemon=True)
        with inherited(core, environment or {}):
            self.process.start()
        other.close()

    def send(self, *request):
        self.connection.send(request)

    def receive(self):
        kind, answer = self.connection.recv()
        if kind == "failed":
            raise RuntimeError(f"a worker failed:\n{answer}")
        return answer

    def ask(self, *request):
        self.send(*request)
        return self.receive()

    def close(self):
        self.connection.close()
        self.process.join()


def serve(connection, threads):
    """Answers (what, *arguments) with Service.<what>(*arguments), until the other side closes."""
    try:
        service = Service(threads)
    except Exception:
        connection.send(("failed", traceback.format_exc()))
        return
    with contextlib.suppress(EOFError):
        while True:
            what, *arguments = connection.recv()
            try:
                connection.send(("done", getattr(service, what)(*arguments)))
            except Exception:
                connection.send(("failed", traceback.format_exc()))


class Service:
    def __init__(self, threads):
        from bench import contenders
        from bench.quiet import Gauge

        self.threads = threads
        self.gauge = Gauge(threads)
        self.contenders = contenders.installed()
        self.failures = {}  # (contender, case): what it raised
        for contender in self.contenders:
            contender.setup(threads)
            contender.load()
        gc.collect()
        gc.freeze()  # what was imported need not be looked at again by each gc.collect() between measurements

    def calls(self, case, x, yardsticks):
        """{name: call} of whoever can do the case."""
        from bench.yardsticks import YARDSTICKS

        makers = {c.name: c.ops[case.op] for c in self.contenders if case.op in c.ops}
        if yardsticks:
            makers |= YARDSTICKS
        calls = {}
        for name, maker in makers.items():
            if (name, case.name) in self.failures:
                continue
            try:
                call = maker(case, x, self.threads)
                if call is not None:
                    call()
                    calls[name] = call
            except Exception as error:
                self.failures[name, case.name] = f"{type(error).__name__}: {error}"
        return calls

    def errors(self, case):
        from bench.measure import max_ulp

        x = case.logits()
        calls = self.calls(case, x, yardsticks=False)
        return {name: max_ulp(case, call()) for name, call in calls.items()}

    def sitting(self, case, rounds, seed):
        """The times, whether too many of the turns were disturbed, and the CPU time that all took."""
        from bench.measure import sitting_seconds

        before = time.process_time()
        x = case.logits()
        calls = self.calls(case, x, yardsticks=True)
        times, disturbed = sitting_seconds(calls, rounds, seed, self.gauge)
        return times, disturbed, time.process_time() - before

    def memory(self, case):
        """{name: bytes at the peak / bytes of the input}."""
        from bench.measure import peak_memory

        result = {}
        x = case.logits()
        for name in [contender.name for contender in self.contenders]:
            call = self.calls_of(name, case, x)
            peak = peak_memory(call) if call else None
            if peak is not None:
                result[name] = peak / case.nbytes
            del call
        return result

    def calls_of(self, name, case, x):
        contender = next(c for c in self.contenders if c.name == name)
        try:
            return contender.ops[case.op](case, x, self.threads) if case.op in contender.ops else None
        except Exception:
            return None

    def failed(self):
        return self.failures
