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

    height = 0.235 * len(cases)
    figure, axes = plt.subplots(figsize=(6.2 + 0.95 * len(names), height + 2.4))
    figure.subplots_adjust(left=0.36, right=0.98, top=1 - 1.55 / (height + 2.4), bottom=0.85 / (height + 2.4))
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
                color="white" if max(entry["median"], 1 / entry["median"]) > 7 else "black",
            )
    axes.set_yticks(range(len(cases)), [case["name"] for case in cases], fontsize=8)
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row in range(1, len(cases)):
        thicker = cases[row]["threads"] != cases[row - 1]["threads"]
        axes.axhline(row - 0.5, color="white" if not thicker else "black", linewidth=0.6 if not thicker else 1.5)

    figure.suptitle("How many times as long as fastsoftmax the others take", x=0.02, ha="left", weight="bold")
    figure.text(
        0.02,
        1 - 0.62 / (height + 2.4),
        "purple, above 1: fastsoftmax is faster  ·  white: even  ·  orange, below 1, bold: the other is faster\n"
        "~ not to be trusted: sittings disagree  ·  dot: no such thing there",
        fontsize=8.5,
        va="center",
    )
    ticks = [1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16]
    bar = figure.colorbar(image, cax=figure.add_axes((0.36, 0.5 / (height + 2.4), 0.62, 0.12 / (height + 2.4))),
                          orientation="horizontal", ticks=ticks)  # fmt: skip
    bar.ax.set_xticklabels(["≤ 1/16", "1/4", "1/2", "1", "2", "4", "≥ 16 x"], fontsize=7)
    bar.ax.minorticks_off()
    sign(figure, report, height + 2.4)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return True


def plot_limits(report, path):
    cases = [case for case in report["cases"] if "limit" in case["ratios"]]
    if not cases:
        return False
    threads = [name for name in ("1", "all") if any(case["threads"] == name for case in cases)]
    dtypes = sorted({case["dtype"] for case in cases})
    figure, grid = plt.subplots(
        len(threads),
        len(dtypes),
        figsize=(6.4 * len(dtypes), 4.1 * len(threads) + 1.3),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for row, count in enumerate(threads):
        for column, dtype in enumerate(dtypes):
            panel = [case for case in cases if (case["threads"], case["dtype"]) == (count, dtype)]
            draw_limits(grid[row][column], report, panel)
            title = "1 thread" if count == "1" else f"all threads ({report['machine']['cores']})"
            grid[row][column].set_title(f"{dtype}, {title}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("working set (input and output), bytes")
    for axes in grid[:, 0]:
        axes.set_ylabel("elements per ns (higher is better)")
    figure.suptitle("How close to the limit of the machine", x=0.02, ha="left", weight="bold")
    figure.legend(
        handles=[
            Line2D([], [], color=LIMIT_COLOUR, marker="_", linestyle="", markersize=12, label="limit, into out="),
            Line2D(
                [], [], color=LIMIT_COLOUR, marker=".", linestyle="", markersize=7, label="limit, into a new output"
            ),
            Line2D([], [], color=OUR_COLOUR, marker="o", linestyle="", label="fastsoftmax"),
            Line2D([], [], color=PEER_COLOUR, marker="D", linestyle="", label="fastest other"),
            Line2D([], [], color="#333333", marker="o", mfc="none", linestyle="", label="hollow: new output"),
        ],
        loc="upper right",
        ncol=5,
        fontsize=8,
        frameon=False,
    )
    total = 4.1 * len(threads) + 1.3
    figure.text(
        0.02,
        1 - 0.55 / total,
        "limit: the slower of the best plain copy of as many bytes and the arithmetic of the kernels on numbers in L1",
        fontsize=8.5,
        va="center",
    )
    figure.subplots_adjust(left=0.08, right=0.98, top=1 - 1.0 / total, bottom=0.95 / total, wspace=0.05, hspace=0.15)
    sign(figure, report, total)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return True


def draw_limits(axes, report, cases):
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for case in cases:
        seconds = case["seconds"][OURS]["median"]
        x = 2 * case["bytes"] * (1 if case["out"] else 1.12)  # side by side
        ours = case["elements"] / seconds * 1e-9
        limit = ours / case["ratios"]["limit"]["median"]
        axes.plot([x, x], [ours, limit], color=OUR_COLOUR, linewidth=0.8, alpha=0.5)
        axes.plot(x, limit, "_" if case["out"] else ".", color=LIMIT_COLOUR, markersize=12 if case["out"] else 7)
        if best := best_peer(report, case):
            fill = PEER_COLOUR if case["out"] else "none"
            axes.plot(x, ours / best[1]["median"], "D", color=PEER_COLOUR, mfc=fill, markersize=5)
        axes.plot(x, ours, "o", color=OUR_COLOUR, mfc=OUR_COLOUR if case["out"] else "none", markersize=6)


def sign(figure, report, height):
    """The machine and the versions, at the foot."""
    figure.text(0.02, 0.1 / height, f"{machine_line(report)}\n{versions_line(report)}", fontsize=6.5, va="bottom")
