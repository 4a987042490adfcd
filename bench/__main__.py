"""Accuracy and time of softmax, side by side with every other library that is installed here.

    python -m bench                     all cases (about a minute)
    python -m bench --only "64, 1000"   the cases with that in their name

One thread, pinned to one core; the contenders take turns within each round; times are medians. FASTSOFTMAX_ISA=avx2
measures what most machines would see.
"""

import argparse
import os

import numpy as np
from tqdm import tqdm

import fastsoftmax as fs
from bench.cases import CASES
from bench.contenders import available
from bench.measure import max_ulp, median_seconds


def main():
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases with TEXT in their name")
    parser.add_argument("--rounds", type=int, default=21, help="rounds a case (default: 21)")
    options = parser.parse_args()

    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        parser.error(f"no case has {options.only!r} in its name: " + "; ".join(case.name for case in CASES))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    fs.show_config()
    contenders, absent = available()
    for name in absent:
        print(f"{name}: not installed")
    cases[0].logits()  # trains examples/digits.py if need be, before the progress bar

    results = []
    for case in tqdm(cases, unit="case", leave=False):
        x = case.logits()
        calls = {name: maker(case, x) for name, (maker, _) in contenders.items()}
        errors = {name: max_ulp(case, x, calls[name]()) for name, (_, is_softmax) in contenders.items() if is_softmax}
        results.append((case, errors, median_seconds(calls, options.rounds)))

    print_accuracy(results)
    print_times(results)


def print_accuracy(results):
    names = list(results[0][1])
    print("\nLargest error of a normal result, in ULP of the exact value")
    print_table(
        ["case", *names],
        [[case.name, *(f"{errors[name]:.2f}" for name in names)] for case, errors, _ in results],
    )


def print_times(results):
    ours, *others = results[0][2]
    print("\nTime, and how many times ours the others take")
    print_table(
        ["case", ours, "ns/element", *others],
        [
            [
                case.name,
                f"{times[ours] * 1e6:.2f} us",
                f"{times[ours] * 1e9 / np.prod(case.shape):.3f}",
                *(f"{times[name] / times[ours]:.2f} x" for name in others),
            ]
            for case, _, times in results
        ],
    )


def print_table(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *rest]))


if __name__ == "__main__":
    main()
