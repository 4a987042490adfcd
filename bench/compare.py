"""python -m bench compare A.json B.json: what became slower or faster from report A to report B.

The change of a case is that of our time, divided by how the times of the others changed in the same case: that is the
machine's. It needs ratios that both runs trust, to contenders of the same version.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass

from bench.contenders import OURS
from bench.report import ReportError, load, machine_line
from bench.tables import print_table
from bench.yardsticks import AS_ROWS


@dataclass(frozen=True)
class Change:
    name: str
    change: float  # our time in B / in A, without the machine's part
    before: float  # seconds
    after: float


def changes(a, b):
    """Those of the cases in both reports that can be told, and the names of the cases that cannot."""
    software = {name for name in a["software"] if a["software"][name] == b["software"].get(name)}
    changed_version = (set(a["software"]) | set(b["software"])) - software
    cases_b = {case["name"]: case for case in b["cases"]}
    told, untold = [], []
    for case_a in a["cases"]:
        case_b = cases_b.get(case_a["name"])
        if case_b is None:
            continue
        of_others = [
            case_a["ratios"][name]["median"] / case_b["ratios"][name]["median"]
            for name in case_a["ratios"]
            if name in case_b["ratios"]
            and name not in changed_version
            and name not in ("limit", "floor", AS_ROWS)  # which change with our code
            and case_a["ratios"][name]["trusted"]
            and case_b["ratios"][name]["trusted"]
        ]
        if not of_others:
            untold.append(case_a["name"])
            continue
        before, after = (case["seconds"][OURS]["median"] for case in (case_a, case_b))
        told.append(Change(case_a["name"], statistics.median(of_others), before, after))
    return told, untold


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=__doc__)
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--threshold", type=float, default=10, metavar="PERCENT", help="default: 10")
    options = parser.parse_args(arguments)
    try:
        a, b = load(options.a), load(options.b)
    except ReportError as error:
        print(error, file=sys.stderr)
        return 2

    print(f"A: {machine_line(a)}\nB: {machine_line(b)}")
    names = [{case["name"] for case in report["cases"]} for report in (a, b)]
    for label, only in (("A", names[0] - names[1]), ("B", names[1] - names[0])):
        for name in sorted(only):
            print(f"only in {label}: {name}")
    told, untold = changes(a, b)
    for name in untold:
        print(f"no ratio that both trust: {name}")

    factor = 1 + options.threshold / 100
    slower = sorted((c for c in told if c.change > factor), key=lambda c: -c.change)
    faster = sorted((c for c in told if c.change < 1 / factor), key=lambda c: c.change)
    for title, found in (("Regressions", slower), ("Improvements", faster)):
        if found:
            print(f"\n{title}\n")
            print_table(
                ["case", "A, us", "B, us", "time, drift taken out"],
                [[c.name, f"{c.before * 1e6:.4g}", f"{c.after * 1e6:.4g}", f"x {c.change:.2f}"] for c in found],
            )
    beyond = f"by more than {options.threshold:g} %"
    print(f"\n{len(told)} cases compared: {len(slower)} slower, {len(faster)} faster {beyond}.")
    return 1 if slower else 0
