"""A report as two pictures: ratios.png, who is faster where; limits.png, how close to what the machine can do."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D

from bench.contenders import OURS
from bench.report import machine_line, peers, versions_line
from bench.tables import best_peer, three_digits

COLOURS = "PuOr"  # diverging, and told apart with every kind of colour vision
WIDEST = 16  # ratios beyond this, or its inverse, have the last colour
OUR_COLOUR, PEER_COLOUR, LIMIT_COLOUR = "#5e3c99", "#e08214", "#444444"
DPI = 110


def plot(report, directory):
    """Writes the pictures that the report has data for, and returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    return [
        path
        for name, draw in (("ratios.png", plot_ratios), ("limits.png", plot_limits))
        if draw(report, path := directory / name)
    ]


def plot_ratios(report, path):
    names, cases = peers(report), report["cases"]
    if not names:
        return False
    values = np.array([[case["ratios"].get(name, {}).get("median", np.nan) for name in names] for case in cases])

    height = 0.235 * len(cases) + 2.3
    figure, axes = plt.subplots(figsize=(7.0 + 0.95 * len(names), height))
    figure.subplots_adjust(left=0.4, right=0.98, top=1 - 1.15 / height, bottom=1.15 / height)
    image = axes.imshow(values, cmap=COLOURS, norm=LogNorm(1 / WIDEST, WIDEST), aspect="auto")
    for row, case in enumerate(cases):
        for column, name in enumerate(names):
            entry = case["ratios"].get(name)
            if entry is None:
                axes.text(column, row, "·", ha="center", va="center", color="#888888")
                continue
            lost = entry["median"] < 1
            axes.text(
                column,
                row,
                ("" if entry["trusted"] else "~") + three_digits(entry["median"]),
                ha="center",
                va="center",
                fontsize=8,
                weight="bold" if lost else "normal",
                style="normal" if entry["trusted"] else "italic",
                color="white" if max(entry["median"], 1 / entry["median"]) > 5 else "black",
            )
    axes.set_yticks(range(len(cases)), [case["name"] for case in cases], fontsize=8)
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row in range(1, len(cases)):
        thicker = any(cases[row][key] != cases[row - 1][key] for key in ("op", "threads"))
        axes.axhline(row - 0.5, color="white" if not thicker else "black", linewidth=0.6 if not thicker else 1.5)

    title(figure, "How many times as long as fastsoftmax the others take", height)
    figure.text(
        0.02,
        1 - 0.62 / height,
        "purple, above 1: fastsoftmax is faster  ·  white: even  ·  orange, below 1, bold: the other is faster\n"
        "~ not to be trusted: sittings disagree  ·  dot: no such thing there",
        fontsize=8.5,
        va="center",
    )
    ticks = [1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16]
    place = figure.add_axes((0.4, 0.75 / height, 0.58, 0.14 / height))
    bar = figure.colorbar(image, cax=place, orientation="horizontal", ticks=ticks)
    bar.ax.set_xticklabels(["≤ 1/16", "1/4", "1/2", "1", "2", "4", "≥ 16 x"], fontsize=7)
    bar.ax.minorticks_off()
    sign(figure, report, height)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return True


def plot_limits(report, path):
    """A roofline on its side: cases downwards by their working set, their rates and limits to the right."""
    cases = [case for case in report["cases"] if "limit" in case["ratios"]]
    if not cases:
        return False
    cases.sort(key=lambda case: (case["threads"], case["dtype"], case["working_set"]))
    groups = [(case["threads"], case["dtype"]) for case in cases]

    height = 0.235 * len(cases) + 2.2
    figure, axes = plt.subplots(figsize=(12, height))
    figure.subplots_adjust(left=0.38, right=0.84, top=1 - 1.15 / height, bottom=0.95 / height)
    axes.set_xscale("log")
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for row, case in enumerate(cases):
        ours = case["elements"] / case["seconds"][OURS]["median"] * 1e-9
        share = case["ratios"]["limit"]["median"]
        limit, text = ours / share, f"{100 * share:.0f} %"
        axes.plot([ours, limit], [row, row], color=OUR_COLOUR, linewidth=1, alpha=0.5)
        axes.plot([limit, limit], [row - 0.42, row + 0.42], color=LIMIT_COLOUR, linewidth=2)
        if best := best_peer(report, case):
            theirs = ours / best[1]["median"]
            axes.plot(theirs, row, "D", color=PEER_COLOUR, markersize=5)
            text += f"   {best[0]} {100 * theirs / limit:.0f} %"
        axes.plot(ours, row, "o", color=OUR_COLOUR, markersize=6, mec="white", mew=0.5)
        weight = "bold" if best and best[1]["median"] < 1 else "normal"
        axes.text(1.01, row, text, transform=axes.get_yaxis_transform(), fontsize=8, va="center", weight=weight)
        if row and groups[row] != groups[row - 1]:
            axes.axhline(row - 0.5, color="black", linewidth=0.8)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    names = [f"{case['name']}   {size(case['working_set']):>7}" for case in cases]
    axes.set_yticks(range(len(cases)), names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("elements per ns (log; further right is better)", fontsize=9)

    title(figure, "How close to the limit of the machine", height)
    figure.text(
        0.02,
        1 - 0.55 / height,
        "limit: the slower of the best plain copy of as many bytes and the arithmetic of our kernels on numbers in L1. "
        "Rows by working set: bytes of inputs and output.\n"
        "At the right: share of the limit that fastsoftmax reaches, and the fastest other; bold: the other is faster.",
        fontsize=8.5,
        va="center",
    )
    figure.legend(
        handles=[
            Line2D([], [], color=LIMIT_COLOUR, marker="|", linestyle="", markersize=11, mew=2, label="limit"),
            Line2D([], [], color=OUR_COLOUR, marker="o", linestyle="", label="fastsoftmax"),
            Line2D([], [], color=PEER_COLOUR, marker="D", linestyle="", markersize=5, label="fastest other"),
        ],
        loc="lower left",
        bbox_to_anchor=(0.375, 1 - 1.18 / height),
        ncol=3,
        fontsize=8.5,
        frameon=False,
    )
    sign(figure, report, height)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return True


def size(count):
    """Bytes for people."""
    power = 0 if count < 1000 else 1 if count < 1000 * 1024 else 2
    return f"{three_digits(count / 1024**power) if power else count} {('B', 'KB', 'MB')[power]}"


def title(figure, text, height):
    figure.text(0.02, 1 - 0.3 / height, text, fontsize=13, weight="bold", va="center")


def sign(figure, report, height):
    """The machine and the versions, at the foot."""
    figure.text(0.02, 0.1 / height, f"{machine_line(report)}\n{versions_line(report)}", fontsize=6.5, va="bottom")
