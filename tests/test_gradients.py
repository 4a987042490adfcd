"""softmax_grad and log_softmax_grad: accuracy, bits, layouts, special values, errors."""

import functools

import mpmath
import numpy as np
import pytest
from conftest import running_on
from contract import STORAGES, compute_of, listed
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import BITS, LONG, WIDE, as_long, as_mpf, assert_same_bits, exp, joined_axes, ulp_error
from rows import LENGTHS, adversarial, breakers, confident, ordinary, short

import fastsoftmax as fs
from fastsoftmax import _core

FORWARD = {"softmax_grad": "softmax", "log_softmax_grad": "log_softmax"}
INF = np.inf


@pytest.fixture(params=FORWARD)
def gradient(request):
    return request.param


def call(name, grad, saved, axis=-1, **options):
    return getattr(fs, name)(grad, saved, axis, **options)


def saved_for(name, x, axis=-1, **options):
    return getattr(fs, FORWARD[name])(x, axis, **options)


def exact(name, grad, saved, axis=-1, temperature=1.0):
    """The gradient of the very bits that are given, and the largest of the terms that it is the sum of."""
    number = as_long if WIDE and grad.dtype != LONG else as_mpf
    axes = tuple(joined_axes(axis, grad.ndim))
    with mpmath.workprec(BITS), np.errstate(all="ignore"):
        g, s = number(as_long(grad)), number(as_long(saved))
        t = LONG(temperature) if g.dtype != object else mpmath.mpf(float(temperature))
        if name == "softmax_grad":
            value = s * (g - (g * s).sum(axes, keepdims=True))
            largest = s * np.maximum(abs(g), (abs(g) * s).sum(axes, keepdims=True))
        else:
            p = exp(s)
            value = g - p * g.sum(axes, keepdims=True)
            largest = np.maximum(abs(g), p * abs(g).sum(axes, keepdims=True))
        return value / t, largest / t


def check(name, grad, saved, axis=-1, message="", **options):
    got = call(name, grad, saved, axis, **options)
    value, largest = exact(name, grad, saved, axis, **options)
    assert ulp_error(got, value, largest).max(initial=0) <= _core.ops()[name][0], message
    return got


def gradients(dtype, shape, rng):
    """(name, grad): what comes back in training, and what is hard."""
    one_hot = np.zeros(shape, dtype)
    one_hot[..., rng.integers(shape[-1])] = -1
    normal = rng.standard_normal(shape)
    yield "one hot", one_hot
    yield "normal", normal.astype(dtype)
    yield "nearly equal", (1 + normal * 1e-6).astype(dtype)
    yield "tiny", (normal * (1e-30 if dtype == "float32" else 1e-290)).astype(dtype)
    yield "huge", (normal * (1e30 if dtype == "float32" else 1e290)).astype(dtype)
    yield "zero", np.zeros(shape, dtype)


@functools.cache
def cases(name, dtype):
    """[(message, grad, saved)] of all kinds of rows."""
    found, rng = [], np.random.default_rng(0)
    most = 20_000 if WIDE or dtype == "float32" else 2000
    for rows in (ordinary, breakers, confident, short):
        for message, x in listed(rows, dtype):
            if x.size > most:
                continue
            with running_on("scalar"):
                saved = saved_for(name, x)
            if not np.isnan(saved).any():
                found += [(f"{message}, {kind}", g, saved) for kind, g in gradients(dtype, x.shape, rng)]
    return found


@functools.cache
def exact_cases(name, dtype):
    return [exact(name, g, saved) for _, g, saved in cases(name, dtype)]


def test_accuracy(isa, dtype, gradient):
    worst = 0
    for (message, g, saved), (value, largest) in zip(cases(gradient, dtype), exact_cases(gradient, dtype), strict=True):
        got = call(gradient, g, saved)
        finite = np.isfinite(as_long(saved)) & np.isfinite(np.asarray(value, dtype=LONG))
        error = ulp_error(got[finite], value[finite], largest[finite]).max(initial=0)
        assert error <= _core.ops()[gradient][0], message
        worst = max(worst, error)
        columns = call(gradient, np.repeat(g.T, 9, axis=1), np.repeat(saved.T, 9, axis=1), 0)
        assert_same_bits(columns[:, ::9].T, got, message)
    assert worst > 0.5


def test_every_isa_gives_the_bits_of_scalar(isa, dtype, gradient):
    if isa == "base":
        pytest.skip("without fused multiply-add bits differ")
    for message, g, saved in cases(gradient, dtype)[::3]:
        with running_on("scalar"):
            expected = call(gradient, g, saved)
        assert_same_bits(call(gradient, g, saved), expected, message)
