"""The tables of README.md, from docs/benchmark/quick.json and docs/benchmark/avx2/quick.json.

    python -m bench --quick --results docs/benchmark && python tools/readme_tables.py

measures, and writes them between the markers in README.md; on a CPU without AVX-512, with docs/benchmark/avx2. With
--check it writes nothing and fails if they are not what the reports say; tests/test_bench.py does that.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # last: an installed package comes first

from bench import report as reports  # noqa: E402
from bench import tables  # noqa: E402

README = ROOT / "README.md"
REPORT, OF_AVX2 = ROOT / "docs/benchmark/quick.json", ROOT / "docs/benchmark/avx2/quick.json"


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def accuracy(report):
    worst_header, worst = tables.worst_error_table(report)
    header, rows = tables.error_table(report)
    return f"{markdown(worst_header, worst)}\n\n{details('Every input', header, rows)}"


def details(title, header, rows):
    return f"<details><summary>{title}</summary>\n\n{markdown(header, rows)}\n\n</details>"


def times(report, path=OF_AVX2):
    path = path.relative_to(ROOT)
    parts = [
        f"From [`{path}`]({path}), made by `{report['command']}`.",
        f"{reports.machine_line(report)}; {reports.versions_line(report)}.",
        f"![How many times as long as fastsoftmax the others take]({path.parent}/ratios.png)",
        verdict(report),
    ]
    for threads, title in (("1", "One thread"), ("all", f"All {report['machine']['cores']} threads")):
        header, rows = tables.time_table(report, threads)
        if rows:
            parts.append(details(f"{title}: the numbers", header, rows))
    return "\n\n".join(parts)


def benchmark(report):
    parts = [times(report, REPORT), tables.legend(report)]
    if report["memory"]:
        parts += [tables.MEMORY + ":", details("Memory", *tables.memory_table(report))]
    return "\n\n".join(parts)


def verdict(report):
    """The summary of the printed report, as a list."""
    lines = []
    for line in tables.verdict(report).splitlines():
        if line.startswith(" "):
            ratio, name, case = line.split(maxsplit=2)
            lines.append(f"  - {ratio} x {name}: {case}")
        else:
            lines.append(f"- {line}")
    return "\n".join(lines)


def updated(text, report, of_avx2):
    sections = (("accuracy", accuracy, report), ("benchmark", benchmark, report), ("benchmark of AVX2", times, of_avx2))
    for name, make, of in sections:
        begin, end = f"<!-- {name}: written by tools/readme_tables.py -->", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no {begin} ... {end}")
        content = f"{begin}\n\n{make(of)}\n\n{end}"
        text = pattern.sub(lambda _, content=content: content, text)
    return text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether README.md is up to date")
    options = parser.parse_args(arguments)
    before = README.read_text()
    after = updated(before, reports.load(REPORT), reports.load(OF_AVX2))
    if options.check:
        if before != after:
            print("README.md is not what the reports in docs/benchmark say: run python tools/readme_tables.py")
        return int(before != after)
    README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
