"""The measuring instrument: its list, its arithmetic, its files. Nothing is timed, and no other library is needed."""

import copy
import ctypes
import itertools
import math
from dataclasses import replace

import pytest

import fastsoftmax as fs
from bench import measure, plots, report, statistics, tables
from bench.__main__ import main
from bench.cases import Case, all_cases, quick_cases
from bench.contenders import CONTENDERS, OURS
from bench.measure import ORACLES, max_ulp, peak_memory, sitting_seconds
from bench.quiet import Gauge
from bench.yardsticks import YARDSTICKS, native, pointer
from fastsoftmax import _core
from tools import readme_tables

# Shapes that peers were first measured at, and those in which the regimes meet.
LAST_AXIS = [
    *[(1, 10), (1, 1000), (64, 10), (1024, 10), (100000, 10), (64, 1000), (1024, 128), (1024, 1024), (16384, 1024)],
    *[(128, 32000), (256, 50257), (16, 1000000), (1, 16000000)],
    *[(4096, 1024), (65536, 64), (100000, 3), (100000, 16)],
]
FIRST_AXIS = [(1000, 64), (1024, 1024), (32000, 128), (1024, 4096), (10, 100000)]


# ---- the list


def test_every_op_is_measured_and_has_an_oracle():
    ours = next(contender for contender in CONTENDERS if contender.name == OURS)
    for op in _core.ops():
        assert {(case.dtype, case.out, case.threads) for case in all_cases() if case.op == op} == {
            (dtype, out, threads)
            for dtype in ("float32", "float64")
            for out in (False, True)
            for threads in ("1", "all")
        }
        assert any(case.op == op for case in quick_cases())
        case = Case(op, "float32", (5, 7))
        for x in (case.logits(), replace(case, out=True).logits()):
            assert max_ulp(case, ours.ops[op](case, x, 1)()) <= _core.ops()[op]
        assert op in ORACLES


def test_names_are_unique():
    names = [case.name for case in all_cases()]
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
    for key in ("dtype", "out", "threads", "layout", "axis"):
        assert {getattr(case, key) for case in quick_cases()} == {getattr(case, key) for case in all_cases()}


def test_every_quick_mark_is_understood():
    from bench.cases import inputs

    marks = [mark for given in inputs() for mark in given.quick.split(", ") if mark]
    assert len(marks) == len(quick_cases()) / len(_core.ops())


@pytest.mark.parametrize("layout", ["C", "F", "stepped"])
def test_layouts_hold_the_same_numbers(layout):
    case = Case("softmax", "float64", (6, 8))
    x = replace(case, layout=layout).logits()
    assert (x == case.logits()).all()
    assert x.flags.c_contiguous == (layout == "C")
    assert x.flags.f_contiguous == (layout == "F")


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
    import numpy as np

    if native() is None:
        pytest.skip("no C compiler")
    for case in (Case("softmax", "float32", (7, 9)), Case("softmax", "float64", (300, 500), out=True)):
        for threads in (1, 2):
            for name, maker in YARDSTICKS.items():
                call = maker(case, case.logits(), threads)
                assert call is not None or (name == "np.exp" and case.elements > 10000)
                if call is not None:
                    call()
    x = np.arange(9003, dtype=np.uint16).view(np.uint8)
    for offset, past_caches in itertools.product((0, 1, 63), (0, 1)):
        y = np.zeros(x.size + 100, np.uint8)
        n, once = ctypes.c_ssize_t(x.size), ctypes.c_ssize_t(1)
        native().bench_copy(pointer(y[offset:]), pointer(x), n, once, past_caches, 1)
        assert (y[offset : offset + x.size] == x).all()
        assert not y[:offset].any()
        assert not y[offset + x.size :].any()


def test_memory_of_a_call():
    import numpy as np

    n = 64 << 20
    peak = peak_memory(lambda: np.ones(n, np.uint8))
    if peak is None:
        pytest.skip("this system does not tell")
    assert 0.9 * n < peak < 1.2 * n


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
        return report.case_record(quick_cases()[0], {}, {}, sittings)["ratios"]["other"]

    assert record(False, False, True) == {"sittings": [2.0, 2.0], "median": 2.0, "trusted": False}
    assert record(False, True, True) == {"sittings": [2.0, 9.0, 9.0], "median": 9.0, "trusted": False}


# ---- reports


def synthetic(times=lambda case, name: 1e-5, drift=1.0):
    """A report in which everything takes `times` times `drift` seconds."""
    names = [OURS, *(c.name for c in CONTENDERS[1:3]), "np.copyto", "copy", "streaming copy", "floor"]
    made = report.new_report("quick", "python -m bench", {"sittings": 3, "rounds": 2, "patience": 0})
    made["software"] |= dict.fromkeys(names[1:3], "1.0")
    for number, case in enumerate([case for case in quick_cases() if case.dtype == "float32"][:20]):
        rounds = {
            name: [(1 + i + number / 20) * drift * times(case, name) for _ in range(2)] for i, name in enumerate(names)
        }
        sittings = [{"times": rounds, "foreign": 0.0, "disturbed": False}] * 3
        errors = dict.fromkeys(names[:3], 2.0)
        made["cases"].append(report.case_record(case, errors, {OURS: 1.0}, sittings))
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
        for entry in case["ratios"].values():
            entry["trusted"] = False
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


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0312, "0.031"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (99.96, "100"), (1234, "1234")],
)
def test_three_digits(value, text):
    assert tables.three_digits(value) == text


# ---- README


def test_readme_has_the_tables_of_the_committed_report():
    assert readme_tables.main(["--check"]) == 0


def test_a_stale_readme_is_noticed(base):
    text = readme_tables.README.read_text()
    assert readme_tables.updated(text, base) != text


def test_our_function_has_its_name():
    assert all(hasattr(fs, op) for op in _core.ops())
