"""A run: accuracy and memory first, then the times, in several sittings spread over the run."""

import time
from multiprocessing.connection import wait

from tqdm import tqdm

from bench import report, yardsticks
from bench.cases import THREADS, digits_logits
from bench.contenders import OURS
from bench.memory import GIVEN_BACK, KEPT, OwnMemory, can_be_told
from bench.quiet import TOLERATED, Watch, wait_for_quiet
from bench.worker import Service, Worker, cores


def run(cases, memory_cases, mode, command, settings):
    """The report of a run. Settings: sittings, rounds, patience (seconds for what others disturb)."""
    result = report.new_report(mode, command, settings)
    yardsticks.native()  # compiles it, so that the workers need not
    if any(case.source == "digits" for case in cases):
        digits_logits()
    started = {"1": lambda: Worker(Service, 1, core=cores()[-1]), "all": lambda: Worker(Service, len(cores()))}
    workers = {threads: started[threads]() for threads in THREADS if any(case.threads == threads for case in cases)}
    try:
        errors, result["memory"] = before_times(cases, memory_cases if can_be_told() else [], workers)
        times = time_all(cases, workers, settings)
        for worker in workers.values():
            result["failures"] += [f"{name}: {case}: {what}" for (name, case), what in worker.ask("failed").items()]
    finally:
        for worker in workers.values():
            worker.close()
    result["cases"] = [
        report.case_record(case, errors[case.name], times[case.name])
        for case in cases
        if all(OURS in sitting["times"] for sitting in times[case.name])  # else it is one of the failures
    ]
    return result


def before_times(cases, memory_cases, workers):
    """Errors by case, and the records of memory. Nothing is timed yet, so all workers are busy at once."""
    queues = {worker: [] for worker in workers.values()}
    for case in sorted(cases, key=lambda case: case.input_name):  # an oracle is for all cases with the same input
        queues[workers[case.threads]].append(("errors", case))
    own = others = None
    if memory_cases:
        own = Worker(OwnMemory, len(cores()), environment=KEPT)
        others = Worker(Service, 1, cores()[0], GIVEN_BACK)
        queues[own] = [("memory", case) for case in memory_cases]
        queues[others] = [("memory", case) for case in memory_cases if case.axis != 0]  # as it is cheap

    answers = {}
    with tqdm(total=sum(map(len, queues.values())), unit="case", desc="accuracy, memory", leave=False) as progress:
        asked = {}
        for worker, queue in queues.items():
            ask_next(worker, queue, asked)
        while asked:
            for connection in wait(list(asked)):
                worker, (_, case) = asked.pop(connection)
                answers[worker, case] = worker.receive()
                progress.update()
                ask_next(worker, queues[worker], asked)
    for worker in (own, others):
        if worker:
            worker.close()
    errors = {case.name: answers[workers[case.threads], case] for case in cases}
    return errors, [
        report.memory_record(case, answers[own, case], answers.get((others, case), {})) for case in memory_cases
    ]


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
