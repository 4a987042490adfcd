"""The measuring instrument: its list, its arithmetic, its files. Nothing is timed, and no other library is needed; of
those that are there, results are compared with the exact ones."""

import copy
import ctypes
import inspect
import itertools
import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import fastsoftmax as fs
from bench import cases as bench_cases
from bench import contenders, measure, plots, report, statistics, tables
from bench.__main__ import main
from bench.cases import (
    GRADIENTS,
    LACKS,
    LAYOUTS,
    LOSS_OPTIONS,
    LOSSES,
    MASKS,
    OPS,
    OTHER_DTYPES,
    REDUCTIONS,
    Case,
    all_cases,
    memory_cases,
    quick_cases,
)
from bench.contenders import CONTENDERS, HALVES, OURS, Contender
from bench.measure import ORACLES, fault, max_ulp, sitting_seconds
from bench.memory import KEPT, OwnMemory, can_be_told, peak_memory
from bench.quiet import Gauge
from bench.worker import Service, Worker
from bench.yardsticks import AS_ROWS, YARDSTICKS, native, pointer
from tools import readme_tables

OUR_MAKERS = next(contender.ops for contender in CONTENDERS if contender.name == OURS)
PEERS = [contender.name for contender in CONTENDERS if contender.name != OURS]
DTYPES = [*bench_cases.DTYPES.values(), *OTHER_DTYPES.values()]

# Shapes that peers were first measured at, and those in which the regimes meet.
LAST_AXIS = [
    *[(1, 10), (1, 1000), (64, 10), (1024, 10), (100000, 10), (64, 1000), (1024, 128), (1024, 1024), (16384, 1024)],
    *[(128, 32000), (256, 50257), (16, 1000000), (1, 16000000)],
    *[(4096, 1024), (65536, 64), (100000, 3), (100000, 16)],
]
FIRST_AXIS = [(1000, 64), (1024, 1024), (32000, 128), (1024, 4096), (10, 100000)]


@pytest.fixture(scope="module", autouse=True)
def compiled_in_no_time():
    """The yardsticks: nothing is timed here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSM_DEBUG", "1")
        yield


# ---- the list


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_measured_and_has_an_oracle(op):
    lacks = LACKS.get(op, ())
    lacking = (["int32"] if "integers" in lacks else []) + (list(HALVES) if "halves" in lacks else [])
    dtypes = [dtype for dtype in DTYPES if dtype not in lacking]
    outs = (False,) if "out" in lacks else (False, True)
    assert {(case.dtype, case.out, case.threads) for case in all_cases() if case.op == op} == {
        (dtype, out, threads) for dtype in dtypes for out in outs for threads in ("1", "all")
    }
    assert any(case.op == op for case in quick_cases())
    assert op in ORACLES
    assert op in OUR_MAKERS
    for out in outs:
        case = Case((5, 7), op=op, out=out)
        result = OUR_MAKERS[op](case, case.inputs(), 1)()
        assert fault(case, result) is None
        assert max_ulp(case, result) <= OPS[op][0]


@pytest.mark.parametrize("op", OPS)
def test_what_an_op_lacks_is_known(op):
    parameters = inspect.signature(getattr(fs, op)).parameters
    optional = {"out", "where", "temperature"}
    assert optional - set(parameters) == optional & set(LACKS.get(op, ()))


def test_names_are_unique():
    for names in ([case.name for case in all_cases()], [case.input_name for case in memory_cases()]):
        assert len(set(names)) == len(names)


def test_every_shape_is_there():
    for axis, shapes in ((-1, LAST_AXIS), (0, FIRST_AXIS)):
        for layout in ("C", "stepped"):
            there = {case.shape for case in all_cases() if (case.axis, case.layout) == (axis, layout)}
            assert set(shapes) <= there
    assert {case.spread for case in all_cases() if case.shape == (64, 1000)} >= {1, 4, 10, 20, 30, 40, 100}
    assert any(case.source == "digits" for case in all_cases())


def test_quick_cases_are_marked_ones_of_the_list():
    assert set(quick_cases()) < set(all_cases())
    for key in ("op", "dtype", "out", "threads", "layout", "mask", "temperature", "loss"):
        assert {getattr(case, key) for case in quick_cases()} == {getattr(case, key) for case in all_cases()}
    assert {0, -1, 1, None, (1, 2)} <= {case.axis for case in quick_cases()}


def test_every_quick_mark_is_understood():
    marks = [mark for _, _, quick in bench_cases.inputs() for mark in bench_cases.marks(quick)]
    assert len(marks) == len(quick_cases())
    given = {given for given, _, _ in bench_cases.inputs()}
    assert given >= {*bench_cases.QUICK_LAYOUTS, *bench_cases.QUICK_OTHER_DTYPES}


def test_memory_is_told_of_every_kind_of_array():
    for key, kinds in (("layout", LAYOUTS), ("mask", MASKS), ("dtype", DTYPES)):
        for axis in (-1, 0):
            assert {getattr(case, key) for case in memory_cases() if case.axis == axis} == set(kinds)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_the_same_numbers(layout):
    case = Case((6, 8), dtype="float64")
    x = replace(case, layout=layout).logits()
    assert (x == (case.logits()[:1] if layout == "broadcast" else case.logits())).all()
    assert x.flags.c_contiguous == (layout in ("C", "misaligned", "swapped"))
    assert x.flags.f_contiguous == (layout == "F")
    assert x.flags.aligned == (layout != "misaligned")
    assert x.dtype.isnative == (layout != "swapped")
    steps = {"stepped": (128, 16), "reversed": (-64, -8), "broadcast": (0, 8), "F": (8, 48)}
    assert x.strides == steps.get(layout, (64, 8))


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (2, 1), None])
def test_rows_are_the_slices(axis):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    case = Case(x.shape, axis)
    axes = tuple(range(3)) if axis is None else axis
    assert np.array_equal(case.rows(x).sum(axis=1).round(12), x.sum(axis=axes).round(12).reshape(-1))
    sums = x.sum(axis=axes)
    assert np.array_equal(case.rows(sums), sums.reshape(-1))
    assert replace(case, op="logsumexp").result_shape == sums.shape


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("op", GRADIENTS)
def test_gradients_are_given_what_came_back_and_the_forward_result(op, dtype):
    for options in ({}, {"axis": 0, "layout": "F"}, {"axis": (0, 2), "temperature": 0.7}, {"layout": "broadcast"}):
        case = Case(**{"shape": (6, 7, 8), "op": op, "dtype": dtype, "spread": 30} | options)
        grad, saved = case.inputs()
        assert grad.dtype == saved.dtype == case.result_dtype
        assert grad.strides == saved.strides == case.logits().strides
        assert 0.8 < grad.astype(float).std() < 1.2
        forward = getattr(fs, GRADIENTS[op])(case.logits(), case.axis, temperature=case.temperature)
        eps, tiny = float(ml_dtypes.finfo(dtype).eps), float(ml_dtypes.finfo(dtype).tiny)
        np.testing.assert_allclose(saved.astype(float), forward.astype(float), rtol=8 * eps + 1e-13, atol=tiny + 1e-13)


@pytest.mark.parametrize("op", ["logsumexp_grad", *LOSSES])
def test_what_has_one_for_each_row_is_given(op):
    for axis, shape in ((0, (7, 8)), (1, (6, 8)), (-1, (6, 7))):
        inputs = Case((6, 7, 8), axis, op=op, layout="F").inputs()
        assert sorted(x.shape for x in inputs) == sorted([shape, (6, 7, 8)])
        if op in LOSSES:
            target = Case((6, 7, 8), axis, op=op).inputs()[1]
            assert 0 <= target.min() <= target.max() < (6, 7, 8)[axis]


def test_masks():
    assert Case((2, 4), mask="causal").where().tolist() == [[True] * 3 + [False], [True] * 4]
    assert Case((40, 50), mask="shared").where().shape == (1, 50)
    assert Case((40, 50), 0, mask="shared").where().shape == (40, 1)
    where = Case((40, 50), mask="random").where()
    assert where.shape == (40, 50)
    assert 0.7 < where.mean() < 0.8


# ---- what is compared computes the same


def each_kind(op):
    """Small cases in which one thing is out of the ordinary."""
    kinds = [{"dtype": dtype} for dtype in DTYPES]
    kinds += [{"layout": layout} for layout in LAYOUTS if layout != "C"]
    kinds += [{"mask": mask, "axis": axis} for mask in MASKS if mask for axis in (-1, 0)]
    kinds += [{"temperature": 0.7}, {"axis": 0}, {"axis": None}, {"layout": "swapped", "axis": 0}]
    kinds += [{"shape": (5, 6, 7), "axis": axis} for axis in ((1, 2), (0, 2), 1)]
    kinds += [{"loss": loss, "axis": axis} for loss in LOSS_OPTIONS if loss for axis in (-1, 0)]
    cases = [Case(**{"shape": (12, 20), "op": op, **kind}, out=out) for kind in kinds for out in (False, True)]
    return [case for case in cases if case.exists]


def can(name, case):
    """Whether the contender has something of the kind. A case that it should take and does not is found by this."""
    several, halves = not isinstance(case.axis, int), ("float16", "bfloat16")
    joined_in_memory = not several or case.axis != (0, 2)
    plain = case.layout == "C" and not case.mask and case.temperature == 1
    return {
        OURS: lambda: True,
        "scipy": lambda: not (case.op == "logmeanexp" and case.mask),
        "torch": lambda: (
            case.layout not in ("reversed", "swapped")
            and not (case.op == "logmeanexp" and case.mask)
            and (joined_in_memory or case.op in ("logsumexp", "logmeanexp"))
        ),
        "onnxruntime": lambda: (
            case.layout == "C"
            and case.dtype != "bfloat16"
            and (case.op == "logsumexp" or (case.op in ("softmax", "log_softmax") and joined_in_memory))
        ),
        "jax": lambda: case.layout == "C",
        "numba": lambda: (
            case.op == "softmax"
            and case.layout not in ("misaligned", "swapped")
            and not case.mask
            and case.temperature == 1
            and case.dtype not in (*halves, "int32")
            and case.axis not in (None, 1, (0, 2))
        ),
        "openvino": lambda: (
            case.op in ("softmax", "log_softmax")
            and plain
            and joined_in_memory
            and case.dtype in ("float32", "float16")
        ),
    }[name]()


@pytest.fixture(scope="module")
def worker():
    started = Worker(Service, 1)
    yield started
    started.close()


@pytest.mark.parametrize("op", OPS)
def test_every_contender_computes_the_same(worker, op):
    names = [contender.name for contender in contenders.installed()]
    for case in each_kind(op):
        errors = worker.ask("errors", case)
        assert worker.ask("failed") == {}
        assert set(errors) == {name for name in names if can(name, case)}, case.name
        assert errors[OURS] <= OPS[op][0], case.name
        # The others are not ours to test, but what they compute is: this is far below any other function of the input.
        limit = {"float16": 32, "bfloat16": 32}.get(case.dtype, 2000)
        assert all(error < limit for error in errors.values()), (case.name, errors)


ANOTHER = {  # of the same shape
    "softmax": "log_softmax",
    "log_softmax": "softmax",
    "logsumexp": "logmeanexp",
    "logmeanexp": "logsumexp",
    "softmax_entropy": "logmeanexp",
    "softmax_grad": "log_softmax_grad",
    "log_softmax_grad": "softmax_grad",
    "logsumexp_grad": "softmax",
    "cross_entropy": "logsumexp",
    "cross_entropy_with_grad": "softmax",
}
WRONG = {
    "another axis": lambda case: replace(case, axis=0),
    "every element": lambda case: replace(case, mask=""),
    "another mask": lambda case: replace(case, mask="causal"),
    "no temperature": lambda case: replace(case, temperature=1),
    "the inverse temperature": lambda case: replace(case, temperature=1 / case.temperature),
    "another loss": lambda case: replace(case, loss=""),
    "another dtype": lambda case: replace(case, dtype="float64"),
    "other numbers": lambda case: replace(case, spread=4.5),
    "another function": lambda case: replace(case, op=ANOTHER[case.op]),
}


def each_wrong():
    """Cases that have all there is, and what may be taken for each."""
    for op in OPS:
        kinds = itertools.product(("random", ""), (0.7, 1), ("smoothing", ""))
        given = [Case((30, 30), op=op, mask=mask, temperature=t, loss=loss) for mask, t, loss in kinds]
        case = next(case for case in given if case.exists)
        for name, change in WRONG.items():
            other = change(case)
            if other != case and other.exists:
                yield pytest.param(case, other, id=f"{op}, {name}")


@pytest.mark.parametrize(("case", "other"), list(each_wrong()))
def test_wrong_results_are_noticed(case, other):
    result = OUR_MAKERS[case.op](case, case.inputs(), 1)()
    assert fault(case, result) is None
    got = OUR_MAKERS[other.op](other, other.inputs(), 1)()
    assert fault(case, got).startswith("wrong result: ")
    assert fault(case, np.where(np.arange(30) == 7, np.nan, result).astype(result.dtype))


def test_a_wrong_contender_is_not_measured(monkeypatch):
    def transposed(case, inputs, threads):
        return lambda: fs.softmax(*inputs, 0)

    def failing(case, inputs, threads):
        raise ValueError("no")

    ours = next(contender for contender in CONTENDERS if contender.name == OURS)
    made = [Contender(name, (OURS,), {"softmax": maker}) for name, maker in (("a", transposed), ("b", failing))]
    monkeypatch.setattr(contenders, "installed", lambda: [ours, *made])
    service = Service(1)
    case = Case((8, 9))
    assert set(service.errors(case)) == {OURS}
    assert service.failed()["a", case.name].startswith("wrong result: off by ")
    assert service.failed()["b", case.name] == "ValueError: no"
    times, _, _ = service.sitting(case, 3, 0)
    assert OURS in times
    assert not {"a", "b"} & set(times)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_errors_are_in_units_of_the_last_place(dtype):
    # Some numbers in the middle of a binade, each off by five units: of its own, or of the larger of 8 and log(2).
    case = Case((3, 2), op="softmax", dtype=dtype)
    exact, unit = np.array([[1.5, 3.0], [6.0, 0.75], [1.5, 1.5]]), np.array([[1, 2], [4, 0.5], [1, 1]])
    eps = float(ml_dtypes.finfo(case.result_dtype).eps)
    got = (exact + 5 * eps * unit).astype(case.result_dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "oracle", lambda case: (slice(None), exact, exact))
        assert max_ulp(case, got) == 5
        patch.setattr(measure, "oracle", lambda case: (slice(None), exact[:, 0], np.full(3, 8.5)))
        assert max_ulp(replace(case, op="logsumexp"), got[:, 0]) == 5 / 2


# ---- measuring


def test_turns_are_taken_by_all():
    calls = {name: (lambda: sum(range(2000))) for name in "abc"}
    for threads in (1, 2):
        times, disturbed = sitting_seconds(calls, 4, 0, Gauge(threads))
        assert set(times) == set("abc")
        for values in times.values():
            assert len(values) == 4
            assert disturbed or sum(map(math.isnan, values)) <= 2


def test_turns_that_the_machine_disturbs_do_not_count(monkeypatch):
    monkeypatch.setattr(measure, "SITTING_SECONDS", math.inf)

    class Flickering:
        """Every second turn ends with slow cores."""

        threads, called = 2, 0

        def __call__(self):
            self.called += 1
            return self.called % 2

        def wait(self, limit):
            return 0

        def steady(self, seconds):
            return seconds == 0

    times, disturbed = sitting_seconds({"a": lambda: sum(range(20000))}, 6, 0, Flickering())
    assert not disturbed
    assert [math.isnan(value) for value in times["a"]] == [True, False] * 3


def test_yardsticks_work():
    if native() is None:
        pytest.skip("no C compiler")
    small, large = Case((7, 9)), Case((300, 500), dtype="float64", out=True)
    others = [*GRADIENTS, "logsumexp_grad", "cross_entropy_with_grad"]
    others = [replace(case, op=op) for case in (small, large) for op in others]
    halves, smooth = replace(small, axis=0, dtype="float16"), replace(small, op=LOSSES[1], loss="smoothing")
    reductions = [replace(small, op="logsumexp", mask="random"), replace(small, op="cross_entropy")]
    for case in (small, large, halves, smooth, *reductions, *others):
        lacking = {"np.exp"} if case.elements > 10000 else set()
        lacking |= {AS_ROWS} if case.axis == -1 else set()
        lacking |= {"np.copyto"} if case.op in REDUCTIONS else set()
        lacking |= {"copy", "streaming copy", "floor"} if case.op in REDUCTIONS or case.loss else set()
        for threads in (1, 2):
            calls = {name: maker(case, case.inputs(), threads) for name, maker in YARDSTICKS.items()}
            assert {name for name, call in calls.items() if call is None} == lacking
            for call in filter(None, calls.values()):
                call()
    x = np.arange(9003, dtype=np.uint16).view(np.uint8)
    for offset, past_caches in itertools.product((0, 1, 63), (0, 1)):
        y = np.zeros(x.size + 100, np.uint8)
        n, once = ctypes.c_ssize_t(x.size), ctypes.c_ssize_t(1)
        native().bench_copy(pointer(y[offset:]), pointer(x), pointer(x) if offset else None, n, once, past_caches, 1)
        assert (y[offset : offset + x.size] == x).all()
        assert not y[:offset].any()
        assert not y[offset + x.size :].any()


@pytest.mark.parametrize("op", OPS)
def test_the_yardstick_of_a_layout_is_the_same_work(op):
    for case in each_kind(op):
        call = YARDSTICKS[AS_ROWS](case, case.inputs(), 1)
        if case.layout == "C" and case.axes == (len(case.shape) - 1,):
            assert call is None
            continue
        ours = case.rows(OUR_MAKERS[op](case, case.inputs(), 1)())
        if case.mask in ("", "shared"):  # other masks are of the same kind, but not the same
            assert np.array_equal(ours, call()), case.name


# ---- memory


class Hungry(OwnMemory):
    """Calls that take and keep 300 KB, in the place of ours."""

    def __init__(self, threads):
        super().__init__(threads)
        self.makers = dict.fromkeys(OPS, self.make)
        self.kept = []

    def make(self, case, inputs, threads):
        if case.op == "log_softmax":
            return lambda: 1 / 0
        x = inputs[0]

        def call():
            y = x + 1
            if x.size > 100 and not self.kept:
                self.kept.append(np.ones(100 << 10, np.uint8))
                np.ones(200 << 10, np.uint8)
                np.ones(150 << 10, np.uint8)
            return y

        return call


def test_memory_of_our_calls():
    if not can_be_told():
        pytest.skip("this system does not tell")
    case = Case((1024, 1024))
    hungry = Worker(Hungry, 1, environment=KEPT)
    told = hungry.ask("memory", case)
    hungry.close()
    assert told["log_softmax"] == {"1": None}
    assert all(290 << 10 < told[op]["1"] < 330 << 10 for op in OPS if op != "log_softmax")

    ours = Worker(OwnMemory, 2, environment=KEPT)
    told = ours.ask("memory", replace(case, temperature=0.7))
    ours.close()
    assert set(told) == {op for op in OPS if "temperature" not in LACKS.get(op, ())}
    assert all(isinstance(count, int) for counts in told.values() for count in (counts["1"], counts["2"]))


def test_memory_of_the_calls_of_others():
    n = 64 << 20

    def call():
        np.ones(n, np.uint8)
        return np.ones(n // 4, np.uint8)

    if not can_be_told() or (peak := peak_memory(call)) is None:
        pytest.skip("this system does not tell")
    assert 0.7 * n < peak < 1.2 * n


# ---- ratios and trust


def sitting(ours, **others):
    return {OURS: ours, **others}


def test_ratios_are_of_the_same_round():
    # Both take twice as long in every second round: the ratio does not.
    rounds = sitting([1.0, 2.0, 1.0, 2.0], other=[3.0, 6.0, 3.0, 6.0])
    entry = statistics.case_ratios([rounds] * 3, 3)["other"]
    assert entry == {"sittings": [3.0, 3.0, 3.0], "median": 3.0, "trusted": True}


def test_rounds_without_a_time_do_not_count():
    rounds = sitting([1.0, math.nan, 1.0], other=[2.0, 50.0, math.nan])
    assert statistics.case_ratios([rounds], 1)["other"]["median"] == 2.0
    assert statistics.case_ratios([sitting([math.nan], other=[1.0])], 1) == {}


def test_sittings_that_disagree_are_not_trusted():
    def trusted(*ratios, disturbed=False):
        sittings = [sitting([1.0], other=[ratio]) for ratio in ratios]
        return statistics.case_ratios(sittings, len(sittings), disturbed)["other"]["trusted"]

    assert trusted(1.50, 1.52, 1.55)
    assert not trusted(1.50, 1.52, 1.80)
    assert not trusted(1.50)
    assert not trusted(1.50, 1.50, 1.50, disturbed=True)
    # One that could not be measured in a sitting.
    sittings = [sitting([1.0], other=[1.5])] * 2 + [sitting([1.0])]
    assert not statistics.case_ratios(sittings, 3)["other"]["trusted"]


def test_the_limit_is_the_better_copy_or_the_arithmetic():
    rounds = {"copy": [2.0, 9.0], "streaming copy": [3.0, 4.0], "floor": [1.0, 5.0], OURS: [4.0, 10.0]}
    assert statistics.with_limit(rounds)["limit"] == [2.0, 5.0]
    assert "limit" not in statistics.with_limit({OURS: [1.0]})


def test_disturbed_sittings_do_not_count_if_two_are_left():
    def record(*disturbed):
        sittings = [
            {"times": sitting([1.0], other=[9.0 if one else 2.0]), "foreign": 0.0, "disturbed": one}
            for one in disturbed
        ]
        return report.case_record(quick_cases()[0], {}, sittings)["ratios"]["other"]

    assert record(False, False, True) == {"sittings": [2.0, 2.0], "median": 2.0, "trusted": False}
    assert record(False, True, True) == {"sittings": [2.0, 9.0, 9.0], "median": 9.0, "trusted": False}


# ---- reports


def synthetic(times=lambda case, name: 1e-5, drift=1.0):
    """A report in which everything takes `times` times `drift` seconds."""
    names = [OURS, *(c.name for c in CONTENDERS[1:3]), "np.copyto", "copy", "streaming copy", "floor", AS_ROWS]
    made = report.new_report("quick", "python -m bench", {"sittings": 3, "rounds": 2, "patience": 0})
    made["software"] |= dict.fromkeys(names[1:3], "1.0")
    for number, case in enumerate([case for case in quick_cases() if case.dtype == "float32"][:20]):
        rounds = {
            name: [(1 + i + number / 20) * drift * times(case, name) for _ in range(2)] for i, name in enumerate(names)
        }
        sittings = [{"times": rounds, "foreign": 0.0, "disturbed": False}] * 3
        errors = dict.fromkeys(names[:3], 2.0)
        made["cases"].append(report.case_record(case, errors, sittings))
    case = memory_cases()[0]
    ours = {"softmax": {"1": 50 << 10, "2": 120 << 10}, "logsumexp": {"1": 9 << 10, "2": None}}
    made["memory"].append(report.memory_record(case, ours, {names[1]: 2 * case.nbytes}))
    return made


@pytest.fixture(scope="module")
def base():
    return synthetic()


def test_reports_survive_their_file(base, tmp_path):
    report.save(base, tmp_path / "a.json")
    assert report.load(tmp_path / "a.json") == base


def slower(factor, names=(OURS,)):
    victim = quick_cases()[3].name

    def times(case, name):
        return 1e-5 * (factor if case.name == victim and name in names else 1)

    return victim, times


def run_compare(tmp_path, capsys, a, b, *options):
    report.save(a, tmp_path / "a.json")
    report.save(b, tmp_path / "b.json")
    status = main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), *options])
    return status, capsys.readouterr()


def test_compare_finds_a_regression(base, tmp_path, capsys):
    victim, times = slower(1.2)
    b = synthetic(times)
    status, printed = run_compare(tmp_path, capsys, base, b)
    assert status == 1
    assert "Regressions" in printed.out
    assert victim in printed.out
    assert "x 1.20" in printed.out
    assert "1 slower, 0 faster" in printed.out
    assert run_compare(tmp_path, capsys, base, b, "--threshold", "25")[0] == 0
    status, printed = run_compare(tmp_path, capsys, b, base)
    assert status == 0
    assert "0 slower, 1 faster" in printed.out


def test_compare_ignores_what_changed_for_all(base, tmp_path, capsys):
    status, printed = run_compare(tmp_path, capsys, base, synthetic(drift=1.5))
    assert status == 0
    assert "0 slower, 0 faster" in printed.out


def test_compare_believes_trusted_ratios_of_the_same_version_only(base, tmp_path, capsys):
    victim, times = slower(1.2)
    b = synthetic(times)
    for case in b["cases"]:
        for name, entry in case["ratios"].items():
            entry["trusted"] = name in ("limit", "floor", AS_ROWS)  # our own code
    status, printed = run_compare(tmp_path, capsys, base, b)
    assert status == 0
    assert f"no ratio that both trust: {victim}" in printed.out

    b = synthetic(slower(0.5, names=["scipy", "torch"])[1])
    b["software"] |= {"scipy": "2.0", "torch": "2.0"}
    assert run_compare(tmp_path, capsys, base, b)[0] == 0


def test_compare_names_cases_of_one_file_only(base, tmp_path, capsys):
    b = copy.deepcopy(base)
    gone = b["cases"].pop()["name"]
    assert f"only in A: {gone}" in run_compare(tmp_path, capsys, base, b)[1].out
    assert f"only in B: {gone}" in run_compare(tmp_path, capsys, b, base)[1].out


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"format": "another"}'])
def test_compare_refuses_other_files(base, tmp_path, capsys, text):
    report.save(base, tmp_path / "a.json")
    (tmp_path / "b.json").write_text(text)
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert "b.json: not" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err


def test_plots_are_png_files(base, tmp_path):
    paths = plots.plot(base, tmp_path)
    assert [path.name for path in paths] == ["ratios.png", "limits.png"]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
        assert path.stat().st_size > 20_000


def test_the_printed_report_says_who_wins(base, capsys):
    b = copy.deepcopy(base)
    b["cases"][0]["ratios"]["torch"].update(median=0.25, trusted=False)
    tables.print_report(b)
    printed = capsys.readouterr().out
    assert "~0.250!" in printed
    assert "faster than every peer in" in printed
    assert "slower in 1" in printed


def test_the_tables_of_errors_tell_the_worst(base):
    b = copy.deepcopy(base)
    first, second = b["cases"][:2]
    second |= {"input": first["input"], "errors_ulp": {OURS: 2.5, "torch": 1.0}}
    _, rows = tables.error_table(b)
    assert [row[0] for row in rows] == list(dict.fromkeys(case["input"] for case in b["cases"]))
    assert rows[0][1:4] == ["2.50", "2.00", "2.00"]
    header, worst = tables.worst_error_table(b)
    assert header[1:4] == [OURS, "scipy", "torch"]
    assert [row[0].split(",")[0] for row in worst] == list(
        dict.fromkeys(f"{case['op']} {case['dtype']}" for case in b["cases"])
    )
    assert worst[0][1:4] == ["2.50", "2.00", "2.00"]


def test_the_table_of_memory_tells_kilobytes_a_thread(base, capsys):
    header, rows = tables.memory_table(base)
    assert header == ["array", "softmax", "logsumexp", "scipy"]
    assert rows == [["float32 (1024, 1024)", "60 KB", "failed", "2.0 x"]]
    tables.print_report(base)
    assert "in KB a thread" in capsys.readouterr().out
    assert "60 KB" in readme_tables.benchmark(base)


def test_what_a_layout_costs_is_told(base):
    header, rows = tables.time_table(base, "1")
    entry = base["cases"][0]["ratios"][AS_ROWS]
    assert rows[0][header.index(AS_ROWS)] == f"{1 / entry['median']:.3f} x"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0312, "0.031"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (99.96, "100"), (1234, "1234")],
)
def test_three_digits(value, text):
    assert tables.three_digits(value) == text


# ---- README


def test_readme_has_the_tables_of_the_committed_reports():
    assert readme_tables.main(["--check"]) == 0


def test_a_stale_readme_is_noticed(base):
    text = readme_tables.README.read_text()
    assert readme_tables.updated(text, base, base) != text


def test_our_function_has_its_name():
    assert all(hasattr(fs, op) for op in OPS)
