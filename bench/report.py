"""What a run leaves: one JSON file with all there is to know about it."""

import datetime
import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np

import fastsoftmax as fs
from bench import contenders
from bench.statistics import AGREE, case_ratios, case_times, with_limit
from bench.worker import cores
from fastsoftmax import _core

ROOT = Path(__file__).resolve().parent.parent
FORMAT = "fastsoftmax benchmark report, version 2"


class ReportError(Exception):
    """A file that is not such a report."""


def new_report(mode, command, settings):
    return {
        "format": FORMAT,
        "mode": mode,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "machine": {
            "cpu": cpu_name(),
            "cores": len(cores()),
            "caches": caches(),
            "system": platform.platform(),
        },
        "software": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "compiler": _core.compiler(),
            "isa": _core.active_isa(),
            **{c.name: fs.__version__ if c.name == contenders.OURS else c.version() for c in contenders.installed()},
        },
        "absent": contenders.absent(),
        "settings": {**settings, "agree": AGREE, "environment": environment()},
        "failures": [],
        "memory": [],
        "cases": [],
    }


def case_record(case, errors, sittings):
    """What is told of a case. Disturbed sittings do not count where two others are left."""
    expected = len(sittings)
    undisturbed = [sitting for sitting in sittings if not sitting["disturbed"]]
    sittings = undisturbed if len(undisturbed) > 1 else sittings
    disturbed = any(sitting["disturbed"] for sitting in sittings)
    times = [with_limit(sitting["times"]) for sitting in sittings]
    return {
        "name": case.name,
        "input": case.input_name,
        **asdict(case),
        "shape": list(case.shape),
        "axis": list(case.axis) if isinstance(case.axis, tuple) else case.axis,
        "elements": case.elements,
        "bytes": case.nbytes,
        "working_set": case.working_set,
        "errors_ulp": errors,
        "foreign": [sitting["foreign"] for sitting in sittings],
        "disturbed": disturbed,
        "seconds": case_times(times),
        "ratios": case_ratios(times, expected, disturbed),
    }


def memory_record(case, ours, others):
    """Bytes beyond input and output: of our operations by the number of threads, of the others' softmax."""
    return {"array": f"{case.dtype} {case.words}", "bytes": case.nbytes, "ours": ours, "others": others}


def save(report, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def load(path):
    try:
        report = json.loads(Path(path).read_text())
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise ReportError(f"{path}: not JSON") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ReportError(f"{path}: not a report of python -m bench (format {FORMAT!r})")
    return report


def machine_line(report):
    """Where a report comes from, in a line."""
    machine, software = report["machine"], report["software"]
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    commit = (report["commit"] or "unknown")[:10] + (" (modified)" if report["dirty"] else "")
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({caches}), {software['isa']}, {software['compiler']}; "
        f"commit {commit}, {report['date'][:10]}"
    )


def versions_line(report):
    software = report["software"]
    return ", ".join(f"{name} {software[name]}" for name in ["python", "numpy", *peers(report)])


def peers(report):
    """The contenders besides ours that the report has, in the order of bench/contenders.py."""
    names = [contender.name for contender in contenders.CONTENDERS if contender.name != contenders.OURS]
    return [name for name in names if name in report["software"]]


def git(*arguments):
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def cpu_name():
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines())
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        if "model name" in fields:
            return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"
    return platform.processor() or platform.machine()


def caches():
    """{"L1d": "48K", ...} of one core, where the system tells."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return found


def environment():
    """Variables that change what is measured."""
    return {name: os.environ[name] for name in ("FASTSOFTMAX_ISA",) if name in os.environ}
