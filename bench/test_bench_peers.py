"""The other libraries under pytest-benchmark, in the same groups as bench/test_bench_softmax.py."""

import pytest

from bench.cases import quick_cases
from bench.contenders import CONTENDERS, OURS
from bench.test_bench_softmax import threads_of

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not our business


@pytest.mark.parametrize("case", quick_cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("contender", [c for c in CONTENDERS if c.name != OURS], ids=lambda contender: contender.name)
def test_bench_peer(benchmark, contender, case):
    if not contender.installed() or case.op not in contender.ops:
        pytest.skip(f"no {case.op} of {contender.name} here")
    contender.setup(threads_of(case))
    call = contender.ops[case.op](case, case.inputs(), threads_of(case))
    if call is None:
        pytest.skip(f"{contender.name} has nothing of the kind")
    benchmark.group = case.name
    benchmark(call)
