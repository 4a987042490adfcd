"""Accuracy, time and memory, side by side with every other library that is installed here.

    python -m bench                        the chosen cases (--quick), about three minutes
    python -m bench --full                 all of them, hours
    python -m bench --only "64, 1000"      those with that in their name
    python -m bench compare A.json B.json  what became slower or faster from A to B

pip install -e ".[peers]" installs the other libraries. FASTSOFTMAX_ISA=avx2 measures what most machines would see.
"""

import argparse
import re
import sys
from pathlib import Path

from bench.cases import all_cases, memory_cases, quick_cases

RESULTS = Path(__file__).parent / "results"


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["compare"]:
        from bench.compare import main as compare

        return compare(arguments[1:])

    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--quick", dest="mode", action="store_const", const="quick", help="the chosen cases (default)")
    modes.add_argument("--full", dest="mode", action="store_const", const="full", help="every case")
    parser.set_defaults(mode="quick")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases with TEXT in their name")
    parser.add_argument("--rounds", type=int, default=9, help="rounds a sitting (default: 9)")
    parser.add_argument("--sittings", type=int, default=3, help="passes over the cases (default: 3)")
    parser.add_argument(
        "--patience", type=float, default=10, metavar="S", help="seconds for what others disturb (default: 10)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where to write <mode>.json")
    parser.add_argument("--list", action="store_true", help="only print the names of the cases")
    options = parser.parse_args(arguments)

    cases = all_cases() if options.mode == "full" else quick_cases()
    chosen = [case for case in cases if options.only in case.name]
    if not chosen:
        parser.error(f"no case has {options.only!r} in its name; --list prints them")
    if options.list:
        print("\n".join(case.name for case in chosen))
        return 0

    from bench.contenders import OURS
    from bench.plots import plot
    from bench.report import save
    from bench.run import run
    from bench.tables import print_report

    # Where the results go, a path of this machine, has no part in them.
    command = re.sub(r" --results[ =]\S+", "", " ".join(["python -m bench", *arguments]))
    settings = {name: getattr(options, name) for name in ("sittings", "rounds", "patience")}
    memory = [case for case in memory_cases() if options.only in case.input_name]
    report = run(chosen, memory, options.mode, command, settings)
    print_report(report)
    path = options.results / f"{options.mode}.json"
    save(report, path)
    images = plot(report, options.results)
    print("\nWritten: " + ", ".join(str(file) for file in [path, *images]))
    return int(any(failure.startswith(f"{OURS}:") for failure in report["failures"]))


if __name__ == "__main__":
    sys.exit(main())
