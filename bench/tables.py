"""A report as text."""

from bench.contenders import OURS
from bench.quiet import TOLERATED
from bench.report import machine_line, peers, versions_line

LEGEND = """\
us is fastsoftmax's time; under the name of another is how many times as long that takes: above 1 we are faster, and "!"
marks a peer that is faster than we are. "~" marks a ratio that is not to be trusted: its sittings differ by more than
{percent:.0f} %, other processes took more than {tolerated:.0f} % of a core, or the cores were slowed from outside.
limit: the slower of the best plain copy of as many bytes and the arithmetic of our own kernels in L1, as a share of our
time: 100 % is as fast as can be. memory: the peak of a call beyond its input and a given output, in sizes of the input.
scipy and jax have no out=: theirs is a new output. Blank: no such thing there."""


def print_report(report):
    print(f"\n{machine_line(report)}\n{versions_line(report)}")
    for name in report["absent"]:
        print(f"{name}: not installed")
    for failure in report["failures"]:
        print(f"failed: {failure}")
    print("\nLargest error of a normal result, in ULP of the exact value\n")
    print_table(*error_table(report))
    if any(case["memory"] for case in report["cases"]):
        print("\nMemory of a call at its peak, beyond its input and a given output, in sizes of the input\n")
        print_table(*memory_table(report))
    for threads, title in (("1", "one thread"), ("all", f"all threads ({report['machine']['cores']})")):
        header, rows = time_table(report, threads)
        if rows:
            print(f"\nTime, {title}\n")
            print_table(header, rows)
    print("\n" + legend(report))
    print("\n" + verdict(report))


def legend(report):
    return LEGEND.format(percent=100 * (report["settings"]["agree"] - 1), tolerated=100 * TOLERATED)


def error_table(report):
    names = [OURS, *peers(report)]
    seen = {case["input"]: case["errors_ulp"] for case in report["cases"]}
    return ["input", *names], [
        [title, *(three_digits(errors[name]) if name in errors else "" for name in names)]
        for title, errors in seen.items()
    ]


def worst_error_table(report):
    """The largest error of each dtype, over all inputs."""
    names = [OURS, *peers(report)]
    rows = []
    for dtype in dict.fromkeys(case["dtype"] for case in report["cases"]):
        inputs = {case["input"]: case["errors_ulp"] for case in report["cases"] if case["dtype"] == dtype}
        worst = {
            name: max((errors[name] for errors in inputs.values() if name in errors), default=None) for name in names
        }
        cells = ["" if worst[name] is None else three_digits(worst[name]) for name in names]
        rows.append([f"{dtype}, worst of {len(inputs)} inputs", *cells])
    return ["", *names], rows


def memory_table(report):
    names = [OURS, *peers(report)]
    return ["case", *names], [
        [case["name"], *(f"{case['memory'][name]:.1f} x" if name in case["memory"] else "" for name in names)]
        for case in report["cases"]
        if case["memory"]
    ]


def time_table(report, threads):
    names = [*peers(report), "np.copyto"]
    if any("np.exp" in case["ratios"] for case in report["cases"]):
        names.append("np.exp")
    header = ["case", "us", "ns/element", *names, "limit", "memory"]
    rows = []
    for case in report["cases"]:
        if case["threads"] != threads:
            continue
        seconds = case["seconds"][OURS]["median"]
        rows.append(
            [
                short_name(case),
                three_digits(seconds * 1e6),
                three_digits(seconds * 1e9 / case["elements"]),
                *(ratio_cell(case, name, mark_loss=name in peers(report)) for name in names),
                limit_cell(case),
                f"{case['memory'][OURS]:.1f} x" if OURS in case["memory"] else "",
            ]
        )
    return header, rows


def ratio_cell(case, name, mark_loss):
    if name not in case["ratios"]:
        return ""
    entry = case["ratios"][name]
    doubt = "" if entry["trusted"] else "~"
    loss = "!" if mark_loss and entry["median"] < 1 else " "
    return f"{doubt}{three_digits(entry['median'])}{loss}"


def limit_cell(case):
    if "limit" not in case["ratios"]:
        return ""
    entry = case["ratios"]["limit"]
    return f"{'' if entry['trusted'] else '~'}{100 * entry['median']:.0f} %"


def short_name(case):
    """Without the thread count, which the table's title says."""
    return case["name"].rsplit(",", 1)[0]


def verdict(report):
    """Where we win and where we lose, against the best peer of each case; ratios within 3 % of 1 are neither."""
    lines = []
    compared = [(case, *best_peer(report, case)) for case in report["cases"] if best_peer(report, case)]
    for threads, title in (("1", "One thread"), ("all", "All threads")):
        here = [(case, name, entry) for case, name, entry in compared if case["threads"] == threads]
        if not here:
            continue
        won = sum(entry["median"] > 1.03 for _, _, entry in here)
        lost = [(entry["median"], case, name, entry) for case, name, entry in here if entry["median"] < 1 / 1.03]
        even = len(here) - won - len(lost)
        lines.append(
            f"{title}: of {len(here)} cases, faster than every peer in {won}, even in {even}, slower in {len(lost)}:"
        )
        lines += [
            f"    {ratio_cell(case, name, mark_loss=False).strip():>6}  {name:12} {short_name(case)}"
            for _, case, name, entry in sorted(lost, key=lambda item: item[0])
        ]
    ratios = [entry for case in report["cases"] for entry in case["ratios"].values()]
    trusted = sum(entry["trusted"] for entry in ratios)
    lines.append(f"Trusted: {trusted} of {len(ratios)} ratios.")
    return "\n".join(lines)


def best_peer(report, case):
    """(name, ratio) of the fastest peer, or ()."""
    there = [(name, case["ratios"][name]) for name in peers(report) if name in case["ratios"]]
    return min(there, key=lambda item: item[1]["median"], default=())


def three_digits(value):
    """0.012, 0.123, 1.23, 12.3, 123, 1234."""
    places = sum(value < limit for limit in (0.9995, 9.995, 99.95))
    return f"{value:.{places}f}"


def print_table(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
