"""The processes that measure: one for each number of threads, and two for memory. Each imports the contenders after its
affinity is set, so that their thread pools have the size that is meant."""

import contextlib
import gc
import multiprocessing
import os
import time
import traceback

HAS_AFFINITY = hasattr(os, "sched_setaffinity")


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
    """A process in which a service answers one request at a time, on one core if that is given."""

    def __init__(self, service, threads, core=None, environment=None):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, service, threads), daemon=True)
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


def serve(connection, service, threads):
    """Answers (what, *arguments) with service(threads).<what>(*arguments), until the other side closes."""
    try:
        service = service(threads)
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
    """Has all contenders."""

    def __init__(self, threads):
        from bench import contenders
        from bench.quiet import Gauge

        self.threads = threads
        self.gauge = Gauge(threads)
        self.contenders = contenders.installed()
        self.to_numpy = {contender.name: contender.to_numpy for contender in self.contenders}
        self.failures = {}  # (contender, case): what it raised, or what was wrong with its result
        for contender in self.contenders:
            contender.setup(threads)
            contender.load()
        gc.collect()
        gc.freeze()  # what was imported need not be looked at again by each gc.collect() between measurements

    def calls(self, case, inputs, yardsticks):
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
                call = maker(case, inputs, self.threads)
                if call is not None:
                    call()
                    calls[name] = call
            except Exception as error:
                self.failures[name, case.name] = f"{type(error).__name__}: {error}"
        return calls

    def errors(self, case):
        """{name: largest error in ULP} of those whose results are right, roughly; the others have failed."""
        from bench.measure import fault, max_ulp

        calls = self.calls(case, case.inputs(), yardsticks=False)
        result = {}
        for name, call in calls.items():
            array = self.to_numpy[name](call())
            if wrong := fault(case, array):
                self.failures[name, case.name] = wrong
            else:
                result[name] = max_ulp(case, array)
        return result

    def sitting(self, case, rounds, seed):
        """The times, whether too many of the turns were disturbed, and the CPU time that all took."""
        from bench.measure import sitting_seconds

        before = time.process_time()
        calls = self.calls(case, case.inputs(), yardsticks=True)
        times, disturbed = sitting_seconds(calls, rounds, seed, self.gauge)
        return times, disturbed, time.process_time() - before

    def memory(self, case):
        """{name: bytes} of the others."""
        from bench.contenders import OURS
        from bench.memory import peak_memory

        calls = self.calls(case, case.inputs(), yardsticks=False)
        peaks = {name: peak_memory(call) for name, call in calls.items() if name != OURS}
        return {name: peak for name, peak in peaks.items() if peak is not None}

    def failed(self):
        return self.failures
