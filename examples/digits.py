"""Softmax regression on scikit-learn's handwritten digits, with plain NumPy and fastsoftmax.softmax.

    python examples/digits.py

trains on three quarters of the 1,797 images, prints the accuracy on the others, and saves the logits of all images
to examples/digits_logits.npy, which ``python -m bench`` uses as real input.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import fastsoftmax as fs

LOGITS = Path(__file__).with_name("digits_logits.npy")


def train(images, labels, classes=10, epochs=60, batch=32, rate=0.2, seed=0):
    """Weights (features, classes) and biases (classes,) by stochastic gradient descent on the cross-entropy."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((images.shape[1], classes), np.float32)
    biases = np.zeros(classes, np.float32)
    for epoch in range(epochs):
        for rows in np.array_split(rng.permutation(len(images)), len(images) // batch):
            x = images[rows]
            error = x @ weights + biases
            fs.softmax(error, out=error)  # probabilities, in place of the logits
            error[np.arange(len(rows)), labels[rows]] -= 1  # gradient of the mean loss, times the batch size
            weights -= rate / len(rows) * (x.T @ error)
            biases -= rate / len(rows) * error.sum(axis=0)
        if epoch % 10 == 9:
            accuracy = np.mean(np.argmax(images @ weights + biases, axis=1) == labels)
            print(f"epoch {epoch + 1:3}  training accuracy {accuracy:.4f}", flush=True)
    return weights, biases


def main():
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(images))
    training, held_out = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]

    weights, biases = train(images[training], digits.target[training])
    logits = images @ weights + biases
    accuracy = np.mean(np.argmax(logits[held_out], axis=1) == digits.target[held_out])
    confidence = np.mean(fs.softmax(logits[held_out]).max(axis=1))
    print(f"held out: {len(held_out)} images, accuracy {accuracy:.4f}, mean confidence {confidence:.4f}")
    np.save(LOGITS, logits)
    print(f"logits of all {len(logits)} images, {logits.dtype}, saved to {LOGITS}")
    return logits


if __name__ == "__main__":
    main()
