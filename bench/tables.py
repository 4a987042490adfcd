"""A report as text."""

from bench.contenders import OURS
from bench.quiet import TOLERATED
from bench.report import machine_line, peers, versions_line
from bench.yardsticks import AS_ROWS

LEGEND = """\
us is fastsoftmax's time; under the name of another is how many times as long that takes: above 1 we are faster, and "!"
marks a peer that is faster than we are. "~" marks a ratio that is not to be trusted: its sittings differ by more than
{percent:.0f} %, other processes took more than {tolerated:.0f} % of a core, or the cores were slowed from outside.
limit: the slower of the best plain copy of as many bytes and the arithmetic of our own kernels in L1, as a share of our
time: 100 % is as fast as can be. as rows: our time, in times of ours for the same numbers as rows of an ordinary array.
scipy and jax have no out=, nor has torch of a loss: theirs is a new output. Of a gradient, the copy also reads the
second input if that is as large, and scipy is the formula in NumPy. A loss is that of each row, or with a gradient the
sum over all, of torch by autograd; what class weights or label smoothing add is in no limit. Blank: no such thing
there."""

ERRORS = """\
Largest error of a normal result, in ULP of the exact value (logsumexp, logmeanexp, losses, gradients: of the
largest of the terms that the result is the sum of)"""
MEMORY = """\
Memory of a call at its peak, beyond its input and its output: of fastsoftmax in KB a thread, what is kept for the next
call included (the larger of one thread and all); of the softmax of others in sizes of the input"""


def print_report(report):
    print(f"\n{machine_line(report)}\n{versions_line(report)}")
    for name in report["absent"]:
        print(f"{name}: not installed")
    for failure in report["failures"]:
        print(f"failed: {failure}")
    print(f"\n{ERRORS}\n")
    print_table(*error_table(report))
    if report["memory"]:
        print(f"\n{MEMORY}\n")
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


def errors_by_input(report):
    """{input: {name: largest error of its cases}}, and what the inputs are of: (operation, dtype)."""
    errors, kinds = {}, {}
    for case in report["cases"]:
        kinds[case["input"]] = case["op"], case["dtype"]
        worst = errors.setdefault(case["input"], {})
        for name, error in case["errors_ulp"].items():
            worst[name] = max(error, worst.get(name, 0))
    return errors, kinds


def error_table(report):
    names = [OURS, *peers(report)]
    return ["input", *names], [
        [title, *(three_digits(errors[name]) if name in errors else "" for name in names)]
        for title, errors in errors_by_input(report)[0].items()
    ]


def worst_error_table(report):
    """The largest error of each operation and dtype, over all inputs."""
    names = [OURS, *peers(report)]
    errors, kinds = errors_by_input(report)
    rows = []
    for kind in dict.fromkeys(kinds.values()):
        those = [errors[title] for title in errors if kinds[title] == kind]
        worst = [max((one[name] for one in those if name in one), default=None) for name in names]
        inputs = f"worst of {len(those)} inputs" if len(those) > 1 else "1 input"
        rows.append([f"{' '.join(kind)}, {inputs}", *("" if one is None else three_digits(one) for one in worst)])
    return ["", *names], rows


def memory_table(report):
    ops = list(dict.fromkeys(op for record in report["memory"] for op in record["ours"]))
    names = [name for name in peers(report) if any(name in record["others"] for record in report["memory"])]
    return ["array", *ops, *names], [
        [
            record["array"],
            *(own_memory_cell(record["ours"].get(op)) for op in ops),
            *(f"{others[name] / record['bytes']:.1f} x" if name in others else "" for name in names),
        ]
        for record in report["memory"]
        for others in [record["others"]]
    ]


def own_memory_cell(by_threads):
    """KB a thread, at most; blank where there is no such call."""
    if by_threads is None:
        return ""
    if None in by_threads.values():
        return "failed"
    return f"{max(count / int(threads) for threads, count in by_threads.items()) / 1024:.0f} KB"


def time_table(report, threads):
    names = [*peers(report), "np.copyto"]
    if any("np.exp" in case["ratios"] for case in report["cases"]):
        names.append("np.exp")
    header = ["case", "us", "ns/element", *names, "limit", AS_ROWS]
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
                as_rows_cell(case),
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


def as_rows_cell(case):
    if AS_ROWS not in case["ratios"]:
        return ""
    entry = case["ratios"][AS_ROWS]
    return f"{'' if entry['trusted'] else '~'}{three_digits(1 / entry['median'])} x"


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
