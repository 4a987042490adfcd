"""A bigram language model with a large vocabulary, trained without ever holding its logits.

    pip install -e ".[bench]"        # once: matplotlib and tqdm
    python examples/bigram_lm.py     # about two minutes on two slow cores; --help lists the options

The text is Python's own: its license and the source of the standard library, every tenth file held out. Each word is
predicted from the one before it: logits = embedding[previous] @ output.T + biases. For a batch of 2,048 and 32,768
words these logits are 256 MiB, and their gradient as much again. fastsoftmax.linear_cross_entropy_with_grad needs
16 MiB for both, as it takes a block of rows at a time.

Expect a perplexity on the held-out text far below that of the unigram model; a few lines that the model makes up; the
loss curve in examples/bigram_lm.png; and the plain way beside it, three steps in a process of its own: the same losses,
with ten times the memory.
"""

import argparse
import re
import sysconfig
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

import fastsoftmax as fs

MIB = 2**20
UNKNOWN = "<unknown>"  # word 0: whatever is not in the vocabulary
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings"}  # encodings: tables


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=2048, help="words a step")
    parser.add_argument("--vocabulary", type=int, default=32768, help="different words, at most")
    parser.add_argument("--features", type=int, default=64, help="numbers that stand for a word")
    parser.add_argument("--budget", type=float, default=16, help="MiB for the logits and their gradient")
    parser.add_argument("--files", type=int, help="how many files to read; all by default")
    parser.add_argument("--plain", action="store_true", help="train the plain way: all logits of a batch at once")
    parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".png"))
    return parser.parse_args()


def read_text(options):
    """The vocabulary, and the text as numbers in it: to train on, and 8,192 pairs of words of the held-out one."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [path.relative_to(root) for path in [*root.glob("LICENSE.txt"), *root.rglob("*.py")]]
    files = sorted((file for file in files if not LEFT_OUT & set(file.parts)), key=Path.as_posix)[: options.files]

    def words(files):
        for file in files:
            text = (root / file).read_text(encoding="ascii", errors="ignore")
            yield from re.findall(r"\w+|[^\w\s]|\n", re.sub(r"\s*\n\s*", "\n", text))

    to_train_on = [file for i, file in enumerate(files) if i % 10]
    vocabulary = [UNKNOWN, *(word for word, _ in Counter(words(to_train_on)).most_common(options.vocabulary - 1))]
    number = {word: i for i, word in enumerate(vocabulary)}
    training, held_out = (np.array([number.get(w, 0) for w in words(part)]) for part in (to_train_on, files[::10]))
    pairs = np.linspace(0, len(held_out) - 2, 8192).astype(int)
    return SimpleNamespace(vocabulary=vocabulary, training=training, previous=held_out[pairs], next=held_out[pairs + 1])


def plain_loss_with_grad(x, weight, target, bias):
    """What fs.linear_cross_entropy_with_grad returns, by way of all the logits."""
    rows = np.arange(len(x))
    logits = x @ weight.T
    logits += bias
    logits -= logits.max(axis=1, keepdims=True)
    gradient = np.exp(logits)
    total = gradient.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - logits[rows, target])
    gradient /= total
    gradient[rows, target] -= 1
    gradient /= len(x)
    return loss, gradient @ weight, gradient.T @ x, gradient.sum(axis=0)


def learn(model, squares, previous, following, rate, loss_with_grad):
    """A step of Adagrad, which has a rate of its own for every parameter. Returns the loss before it."""
    embedding, output, biases = model
    loss, dx, d_output, d_biases = loss_with_grad(embedding[previous], output, following, biases)
    # Of the embedding only the words that occurred have a gradient: the sum of their rows of dx.
    occurred, which = np.unique(previous, return_inverse=True)
    d_embedding = np.zeros((len(occurred), dx.shape[1]), np.float32)
    np.add.at(d_embedding, which, dx)

    gradients = (occurred, d_embedding), (slice(None), d_output), (slice(None), d_biases)
    for parameter, sums, (rows, gradient) in zip(model, squares, gradients, strict=True):
        sums[rows] += gradient**2
        gradient *= rate
        gradient /= np.sqrt(sums[rows])
        parameter[rows] -= gradient
    return float(loss)


def train(options, text, steps, show=True):
    """Returns the model, its losses, its bytes with gradients, by how much memory grew, and the seconds of a step."""
    before = resident_memory("VmRSS")
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((len(text.vocabulary), options.features), np.float32)
    embedding /= np.float32(options.features**0.5)
    output, biases = np.zeros_like(embedding), np.zeros(len(embedding), np.float32)
    model = embedding, output, biases
    squares = [np.full_like(parameter, 1e-12) for parameter in model]
    losses, held_out, seconds = [], {}, []

    def advance(done, rows=options.batch):
        bar.update(len(losses) * rows + done - bar.n)

    within = {"memory_budget": int(options.budget * MIB)}
    loss_with_grad = partial(fs.linear_cross_entropy_with_grad, **within, progress=advance)
    if options.plain:
        loss_with_grad = plain_loss_with_grad
    with tqdm(total=steps * options.batch, unit=" words", unit_scale=True, disable=None if show else True) as bar:
        for step in range(steps + 1):
            if step == steps or step % max(1, steps // 20) == 0:
                held_out[step] = fs.linear_cross_entropy(embedding[text.previous], output, text.next, biases, **within)
                if show:
                    bar.write(f"step {step:4}, held-out perplexity {np.exp(held_out[step]):8.1f}")
            if step < steps:
                start = time.perf_counter()
                chosen = rng.integers(len(text.training) - 1, size=options.batch)
                pairs = text.training[chosen], text.training[chosen + 1]
                losses.append(learn(model, squares, *pairs, 0.3 * (1 - step / options.steps), loss_with_grad))
                seconds.append(time.perf_counter() - start)
                advance(0)

    growth = resident_memory("VmHWM") - before
    size = sum(array.nbytes for array in (*model, *squares, output, biases))  # a gradient is as large as its parameter
    return SimpleNamespace(model=model, losses=losses, held_out=held_out, size=size, growth=growth, seconds=seconds)


def resident_memory(which):
    """In bytes: VmRSS, now; VmHWM, the most so far. Linux's; nan on other systems."""
    status = Path("/proc/self/status")
    return int(re.search(rf"{which}:\s+(\d+)", status.read_text())[1]) * 1024 if status.exists() else np.nan


def made_up_line(vocabulary, model, first):
    embedding, output, biases = model
    rng = np.random.default_rng(0)
    line = [vocabulary.index(first)]
    while len(line) < 16 and vocabulary[line[-1]] != "\n":
        logits = output @ embedding[line[-1]] + biases
        known = np.arange(len(logits)) > 0  # all but UNKNOWN
        p = fs.softmax(logits, where=known, temperature=0.8, dtype=np.float64)
        line.append(rng.choice(len(p), p=p))
    return " ".join(vocabulary[number] for number in line).rstrip()


def draw(options, run, references):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.plot(np.arange(len(run.losses)) + 0.5, run.losses, color="#e08214", linewidth=0.7, label="each batch")
    axes.plot(run.held_out.keys(), run.held_out.values(), "o-", color="#5e3c99", label="held out")
    for (name, loss), style in zip(references.items(), ("--", ":"), strict=True):
        axes.axhline(loss, color="#444444", linestyle=style, label=f"{name}: {loss:.2f}")
    axes.set(
        xlabel=f"steps of {options.batch:,} words",
        ylabel="cross-entropy of the next word, nats",
        xlim=(0, options.steps),
    )
    axes.secondary_yaxis("right", functions=(np.exp, np.log)).set(ylabel="perplexity", yscale="log")
    axes.set_title(
        f"Bigram model of {len(run.model[0]):,} words: {run.held_out[options.steps]:.2f} nats on held-out text"
    )
    axes.legend()
    figure.savefig(options.picture, dpi=120)


def main():
    options = arguments()
    text = read_text(options)
    words = len(text.vocabulary)
    logits = options.batch * words * 4 / MIB
    print(f"{len(text.training):,} words to train on, {words:,} different; the logits of a batch: {logits:.0f} MiB")
    run = train(options, text, options.steps)

    counts = np.bincount(text.training, minlength=words) + 1  # UNKNOWN need not have occurred
    unigram = -np.mean(np.log(counts[text.next] / counts.sum()))
    print(f"for comparison, the unigram model {np.exp(unigram):17.1f}\nmade up by the model:")
    for first in ("import", "class", "def", "if", "return", "The"):
        print("   ", made_up_line(text.vocabulary, run.model, first))
    draw(options, run, {"no model, log of the vocabulary": np.log(words), "unigram model": unigram})
    print("loss curve:", options.picture)
    if options.plain:
        return
    print("\nthe plain way, in another process ...", flush=True)
    options.plain = True
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        plain = pool.submit(train, options, text, min(3, options.steps), show=False).result()
    print("first losses, fastsoftmax", *(f"{loss:.5f}" for loss in run.losses[: len(plain.losses)]))
    print("first losses, plain      ", *(f"{loss:.5f}" for loss in plain.losses))
    size, budget = run.size / MIB, options.budget
    print(f"""
                               fastsoftmax   the plain way
model, gradients, Adagrad      {size:7.1f} MiB     {size:7.1f} MiB
logits and their gradient      {budget:7.1f} MiB     {2 * logits:7.1f} MiB
together                       {size + budget:7.1f} MiB     {size + 2 * logits:7.1f} MiB
resident memory grew by        {run.growth / MIB:7.1f} MiB     {plain.growth / MIB:7.1f} MiB
a step took                    {np.median(run.seconds):7.2f} s       {np.median(plain.seconds):7.2f} s
(what is above the sum: buffers of BLAS and of threads, and code that ran for the first time)""")


if __name__ == "__main__":
    main()
