"""Softmax regression on scikit-learn's handwritten digits, with plain NumPy and fastsoftmax.cross_entropy_with_grad.

    pip install -e ".[bench]"     # once: scikit-learn and SciPy; torch is compared if it is installed
    python examples/digits.py     # 10 seconds

trains on three quarters of the 1,797 images, and saves the logits of all to examples/digits_logits.npy, which
``python -m bench`` uses as real input. Then it compares what was learnt with scikit-learn's LogisticRegression, which
minimises the same function of the same images: expect the same accuracy on the other images and nearly the same loss.
Last, the time of an epoch with fastsoftmax, with SciPy and with torch: in small batches the calls themselves are most
of what differs, in large ones the arithmetic.
"""

import time
from pathlib import Path

import numpy as np
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import fastsoftmax as fs

LOGITS = Path(__file__).with_name("digits_logits.npy")
PENALTY = 1.0  # half the sum of the squared weights, beside the sum of the losses: LogisticRegression's own default


def with_fastsoftmax(logits, labels):
    return fs.cross_entropy_with_grad(logits, labels, out=logits)  # the gradient takes the place of the logits


def with_scipy(logits, labels):
    rows = np.arange(len(labels))
    log_p = log_softmax(logits, axis=1)
    loss = -log_p[rows, labels].mean()
    gradient = np.exp(log_p, out=log_p)
    gradient[rows, labels] -= 1
    gradient /= len(labels)
    return loss, gradient


def with_torch(logits, labels):
    """The loss and, by autograd, the gradient of the logits; the rest of the loop stays in NumPy."""
    import torch

    logits = torch.from_numpy(logits).requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    return loss.item(), logits.grad.numpy()


def without_loss(logits, labels):
    return 0, logits


def epoch(images, labels, weights, biases, rng, batch, rate, loss_with_grad):
    """Once through the images in random order, by stochastic gradient descent; returns the mean loss on the way."""
    losses = []
    for rows in np.array_split(rng.permutation(len(images)), len(images) // batch):
        x = images[rows]
        logits = x @ weights + biases
        loss, gradient = loss_with_grad(logits, labels[rows])
        losses.append(loss)
        weights -= rate * (x.T @ gradient + PENALTY / len(images) * weights)
        biases -= rate * gradient.sum(axis=0)
    return np.mean(losses)


def train(images, labels, classes=10, epochs=60, batch=32, rate=2.0, seed=0):
    """Weights (features, classes) and biases (classes,); the rate falls to 0."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((images.shape[1], classes), np.float32)
    biases = np.zeros(classes, np.float32)
    for done in range(epochs):
        now = np.float32(rate * (1 - done / epochs))
        loss = epoch(images, labels, weights, biases, rng, batch, now, with_fastsoftmax)
        if done % 10 == 9:
            print(f"epoch {done + 1:3}  mean loss {loss:.4f}", flush=True)
    return weights, biases


def load():
    """All images and labels, and which of them are for training and which are held out."""
    digits = load_digits()
    order = np.random.default_rng(1).permutation(len(digits.data))
    split = len(order) * 3 // 4
    return (digits.data / 16).astype(np.float32), digits.target, order[:split], order[split:]


def main():
    images, labels, training, _ = load()
    weights, biases = train(images[training], labels[training])
    logits = images @ weights + biases
    np.save(LOGITS, logits)
    print(f"logits of all {len(logits)} images, {logits.dtype}, saved to {LOGITS}")
    return logits


def compare_results(logits):
    images, labels, training, held_out = load()
    peer = LogisticRegression(C=1 / PENALTY, tol=1e-6, max_iter=2000).fit(images[training], labels[training])
    print(f"\non the {len(held_out)} held-out images       accuracy    loss")
    for name, z in (("this", logits), ("LogisticRegression", peer.decision_function(images))):
        z, right = z[held_out], labels[held_out]
        loss, _ = fs.cross_entropy_with_grad(z, right)
        print(f"{name:32}  {np.mean(z.argmax(axis=1) == right):.4f}  {loss:.4f}")


def compare_times(rounds=30):
    """Epochs of the contenders in turn, on one thread, from the same weights and in the same order of the images."""
    contenders = {"fastsoftmax": with_fastsoftmax, "SciPy": with_scipy}
    try:
        import torch

        torch.set_num_threads(1)
        contenders["torch"] = with_torch
    except ImportError:
        print("\ntorch is not installed, and not compared")
    contenders["no loss at all"] = without_loss

    images, labels, training, _ = load()
    print("\nmedian milliseconds of an epoch, one thread; in brackets without what the loop takes with no loss at all")
    print(" " * 24 + "".join(f"{name:>20}" for name in contenders))
    # Copies of the images make the third.
    for copies, batch in ((1, 32), (1, len(training)), (50, 50 * len(training))):
        x, y = np.tile(images[training], (copies, 1)), np.tile(labels[training], copies)
        models = {name: (np.zeros((64, 10), np.float32), np.zeros(10, np.float32)) for name in contenders}
        times = {name: [] for name in contenders}
        for turn in range(rounds):
            for name in np.roll(list(contenders), turn):
                rng = np.random.default_rng(turn)
                start = time.perf_counter()
                epoch(x, y, *models[name], rng, batch, np.float32(0.2), contenders[name])
                times[name].append(time.perf_counter() - start)
        median = {name: np.median(seconds) * 1e3 for name, seconds in times.items()}
        rest = median["no loss at all"]
        cells = (f"{ms:.2f} ({ms - rest:.2f})" if ms != rest else f"{ms:.2f}" for ms in median.values())
        print(f"{len(x):6} in batches of {batch:6}" + "".join(f"{cell:>20}" for cell in cells))
        for name in list(contenders)[1:-1]:
            np.testing.assert_allclose(models[name][0], models["fastsoftmax"][0], atol=1e-4)
    print("All loops arrived at the same weights. In batches of 32 the calls cost more than what they compute.")
    if "torch" in contenders:
        print(
            "torch computes the loss and, by autograd, the gradient of the logits; all else is NumPy, as in the others."
        )


if __name__ == "__main__":
    logits = main()
    with fs.num_threads(1), threadpool_limits(1):
        compare_results(logits)
        compare_times()
