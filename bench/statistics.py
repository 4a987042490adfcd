"""From the times of the rounds to ratios, and whether to believe them.

A sitting is {name: [seconds in each round]}, NaN where there is none. The sittings of a case are spread over the run.
"""

import math
import statistics

from bench.contenders import OURS
from bench.yardsticks import COPIES

AGREE = 1.05  # sittings whose largest ratio is at most this many times the smallest


def median(values):
    values = [value for value in values if not math.isnan(value)]
    return statistics.median(values) if values else math.nan


def with_limit(sitting):
    """The sitting, with what no implementation can beat as one more contender: the faster copy or the arithmetic."""
    names = [name for name in COPIES if name in sitting]
    if not names or "floor" not in sitting:
        return sitting
    limits = []
    for floor, *copies in zip(sitting["floor"], *(sitting[name] for name in names), strict=True):
        copies = [seconds for seconds in copies if not math.isnan(seconds)]
        limits.append(max(floor, min(copies)) if copies else math.nan)
    return {**sitting, "limit": limits}


def case_times(sittings):
    """{name: {"sittings": [median seconds of each], "median": of those}}."""
    return summary(sittings, lambda sitting, name: median(sitting[name]))


def case_ratios(sittings, expected, disturbed=False):
    """{name: {"sittings": [...], "median": ..., "trusted": ...}}: their time / ours of the same round.

    Trusted are those of which all the `expected` sittings agree, if none of them was disturbed."""

    def ratio(sitting, name):
        return median([their / our for their, our in zip(sitting[name], sitting[OURS], strict=True)])

    ratios = summary(sittings, ratio)
    ratios.pop(OURS, None)
    for entry in ratios.values():
        entry["trusted"] = not disturbed and agree(entry["sittings"], expected)
    return ratios


def summary(sittings, of):
    names = dict.fromkeys(name for sitting in sittings for name in sitting)
    result = {}
    for name in names:
        values = [of(sitting, name) for sitting in sittings if name in sitting]
        values = [value for value in values if not math.isnan(value)]
        if values:
            result[name] = {"sittings": values, "median": statistics.median(values)}
    return result


def agree(values, expected):
    return len(values) == expected > 1 and max(values) <= AGREE * min(values)
