"""The programs of examples/ do what they say, in a small way."""

import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import not_under_asan
from toolchains import ROOT


@not_under_asan("matplotlib's C++ library does not load")
def test_bigram_lm(tmp_path):
    pytest.importorskip("tqdm")
    picture = tmp_path / "loss.png"
    options = "--steps 6 --batch 256 --vocabulary 500 --features 8 --budget 0.1 --files 40"
    done = subprocess.run(
        [sys.executable, ROOT / "examples/bigram_lm.py", *options.split(), "--picture", picture],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "words/s" not in done.stderr  # no progress bar, where there is no terminal

    perplexities = [float(text) for text in re.findall(r"^step .* ([\d.]+)$", done.stdout, re.MULTILINE)]
    assert perplexities[0] == 500
    assert 2 < perplexities[-1] < 250
    losses = {way: text.split() for way, text in re.findall(r"^first losses, (\w+) +(.*)$", done.stdout, re.MULTILINE)}
    np.testing.assert_allclose(np.float64(losses["fastsoftmax"]), np.float64(losses["plain"]), rtol=1e-4)


def test_digits(capsys):
    pytest.importorskip("sklearn")
    from examples import digits

    images, labels, training, held_out = digits.load()
    weights, biases = digits.train(images[training], labels[training], epochs=10)
    assert "epoch  10" in capsys.readouterr().out
    assert np.mean(np.argmax(images[held_out] @ weights + biases, axis=1) == labels[held_out]) > 0.95


@pytest.mark.parametrize("peer", ["scipy", "torch"])
def test_the_loops_of_digits_learn_the_same(peer):
    pytest.importorskip("sklearn")
    pytest.importorskip(peer)
    from examples import digits

    images, labels, training, _ = digits.load()
    models = []
    for loss_with_grad in (digits.with_fastsoftmax, getattr(digits, f"with_{peer}")):
        weights, biases = np.zeros((64, 10), np.float32), np.zeros(10, np.float32)
        rng = np.random.default_rng(0)
        loss = digits.epoch(images[training], labels[training], weights, biases, rng, 32, 0.2, loss_with_grad)
        models.append([loss, weights, biases])
    for ours, theirs in zip(*models, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
