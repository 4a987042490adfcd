"""A run: accuracy and memory first, then the times, in several sittings spread over the run."""

import time
from multiprocessing.connection import wait

from tqdm import tqdm

from bench import report, yardsticks
from bench.cases import THREADS, digits_logits
from bench.quiet import TOLERATED, Watch, wait_for_quiet
from bench.worker import MEMORY_ENVIRONMENT, Worker, cores

MEMORY_BYTES = 1 << 20  # smaller inputs drown in what else a process does


def run(cases, mode, command, settings):
    """The report of a run. Settings: sittings, rounds, patience (seconds for what others disturb)."""
    result = report.new_report(mode, command, settings)
    yardsticks.native()  # compiles it, so that the workers need not
    if any(case.source == "digits" for case in cases):
        digits_logits()
    started = {"1": lambda: Worker(1, core=cores()[-1]), "all": lambda: Worker(len(cores()))}
    workers = {threads: started[threads]() for threads in THREADS if any(case.threads == threads for case in cases)}
    try:
        errors, memory = before_times(cases, workers)
        times = time_all(cases, workers, settings)
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
    memory_worker = Worker(1, cores()[0], MEMORY_ENVIRONMENT) if of_memory else None
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


def time_all(cases, workers, settings):
    """{case name: [{"times": of a sitting, "foreign": share of a core that others took meanwhile, "disturbed": by them,
    or by cores that were not at their best}, ...]}.

    Only one worker works at a time. A disturbed sitting is taken again, after all the others, as long as patience
    lasts; the least disturbed ones count.
    """
    sittings, patience = settings["sittings"], settings["patience"]
    taken = {case.name: [] for case in cases}
    queue = [(sitting, case) for sitting in range(sittings) for case in cases]
    busy = True  # so far nobody knows
    with tqdm(total=len(queue), unit="case", desc="times", leave=False) as progress:
        for sitting, case in queue:  # which grows
            progress.set_postfix_str(case.name)
            if busy and patience > 0:
                patience -= wait_for_quiet(patience)
            watch = Watch()
            times, disturbed, cpu = workers[case.threads].ask("sitting", case, settings["rounds"], sitting)
            foreign = watch.foreign(cpu)
            busy = foreign > TOLERATED
            disturbed |= busy
            taken[case.name].append({"times": times, "foreign": foreign, "disturbed": disturbed})
            if disturbed and patience > 0:
                patience -= time.perf_counter() - watch.start
                queue.append((sitting, case))
            else:
                progress.update()
    return {name: sorted(those, key=least_disturbed)[:sittings] for name, those in taken.items()}


def least_disturbed(sitting):
    return sitting["disturbed"], sitting["foreign"]
