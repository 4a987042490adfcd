"""A run: accuracy and memory first, then the times, in several sittings spread over the run."""

from multiprocessing.connection import wait

from tqdm import tqdm

from bench import report, yardsticks
from bench.cases import THREADS, digits_logits
from bench.worker import MEMORY_ENVIRONMENT, Worker

MEMORY_BYTES = 1 << 20  # smaller inputs drown in what else a process does


def run(cases, mode, command, sittings, rounds):
    """The report of a run."""
    result = report.new_report(
        mode, command, {"sittings": sittings, "rounds": rounds, "environment": report.environment()}
    )
    yardsticks.native()  # compiles it, so that the workers need not
    if any(case.source == "digits" for case in cases):
        digits_logits()
    workers = {threads: Worker(threads) for threads in THREADS if any(case.threads == threads for case in cases)}
    try:
        errors, memory = before_times(cases, workers)
        times = time_all(cases, workers, sittings, rounds)
        for worker in workers.values():
            result["failures"] += [f"{name}: {case}: {what}" for (name, case), what in worker.ask("failed").items()]
    finally:
        for worker in workers.values():
            worker.close()
    result["cases"] = [
        report.case_record(case, errors.get(case.input_name, {}), memory.get(case.name, {}), times[case.name])
        for case in cases
    ]
    return result


def before_times(cases, workers):
    """Errors by input and memory by case. Nothing is timed yet, so all workers are busy at once."""
    of_input = {}
    for case in cases:
        of_input.setdefault(case.input_name, case)
    queues = {workers[threads]: [] for threads in workers}
    for case in of_input.values():
        queues[workers[case.threads]].append(("errors", case))
    of_memory = [("memory", case) for case in cases if case.threads == "1" and case.nbytes >= MEMORY_BYTES]
    memory_worker = Worker("1", MEMORY_ENVIRONMENT) if of_memory else None
    if memory_worker:
        queues[memory_worker] = of_memory

    errors, memory = {}, {}
    with tqdm(total=sum(map(len, queues.values())), unit="case", desc="accuracy, memory", leave=False) as progress:
        asked = {}
        for worker, queue in queues.items():
            ask_next(worker, queue, asked)
        while asked:
            for connection in wait(list(asked)):
                worker, (what, case) = asked.pop(connection)
                answer = worker.receive()
                if what == "errors":
                    errors[case.input_name] = answer
                else:
                    memory[case.name] = answer
                progress.update()
                ask_next(worker, queues[worker], asked)
    if memory_worker:
        memory_worker.close()
    return errors, memory


def ask_next(worker, queue, asked):
    if queue:
        request = queue.pop(0)
        worker.send(*request)
        asked[worker.connection] = worker, request


def time_all(cases, workers, sittings, rounds):
    """{case name: [sitting, ...]}. Only one worker works at a time."""
    times = {case.name: [] for case in cases}
    with tqdm(total=len(cases) * sittings, unit="case", desc="times", leave=False) as progress:
        for sitting in range(sittings):
            for case in cases:
                progress.set_postfix_str(case.name)
                times[case.name].append(workers[case.threads].ask("sitting", case, rounds, sitting))
                progress.update()
    return times
