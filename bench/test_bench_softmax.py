"""Our calls under pytest-benchmark, grouped by case: pytest bench --benchmark-enable --benchmark-only

Without --benchmark-enable each call is made once. `python -m bench` is the instrument; this is for what
pytest-benchmark does well: saving runs, and looking at one call.
"""

import pytest

from bench.cases import quick_cases
from bench.contenders import CONTENDERS, OURS
from bench.worker import cores

MAKERS = next(contender.ops for contender in CONTENDERS if contender.name == OURS)


def threads_of(case):
    return 1 if case.threads == "1" else len(cores())


@pytest.mark.parametrize("case", quick_cases(), ids=lambda case: case.name)
def test_bench_fastsoftmax(benchmark, case):
    import fastsoftmax as fs

    benchmark.group = case.name
    with fs.num_threads(threads_of(case)):
        benchmark(MAKERS[case.op](case, case.inputs(), threads_of(case)))
