"""The processes that measure: one for each number of threads, and one for memory. Each imports the contenders after its
affinity is set, so that their thread pools have the size that is meant."""

import contextlib
import multiprocessing
import os
import traceback

ONE_CORE = hasattr(os, "sched_setaffinity")

# So that freed memory goes back to the system, and each new output counts.
MEMORY_ENVIRONMENT = {
    "BENCH_MEMORY": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def cores():
    return len(os.sched_getaffinity(0)) if ONE_CORE else os.cpu_count()


@contextlib.contextmanager
def inherited(pinned, environment):
    """A process started in this block has one core only, if pinned, and these environment variables."""
    affinity = os.sched_getaffinity(0) if ONE_CORE else None
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    if pinned and ONE_CORE:
        os.sched_setaffinity(0, {max(affinity)})
    try:
        yield
    finally:
        if ONE_CORE:
            os.sched_setaffinity(0, affinity)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class Worker:
    """A process that answers one request at a time."""

    def __init__(self, threads, environment=None):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, 1 if threads == "1" else cores()), daemon=True)
        with inherited(threads == "1", environment or {}):
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

        self.threads = threads
        self.contenders = contenders.installed()
        self.failures = {}  # (contender, case): what it raised
        for contender in self.contenders:
            contender.setup(threads)

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

        calls = self.calls(case, case.logits(), yardsticks=False)
        return {name: max_ulp(case, call()) for name, call in calls.items()}

    def sitting(self, case, rounds, seed):
        from bench.measure import sitting_seconds

        calls = self.calls(case, case.logits(), yardsticks=True)
        return sitting_seconds(calls, rounds, seed, shared=self.threads > 1)

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
