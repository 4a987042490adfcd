"""Rows that softmax must get right: ordinary ones, and those that break the usual shortcuts."""

import numpy as np

LENGTHS = [1, 2, 3, 5, 10, 15, 16, 17, 31, 32, 33, 64, 100, 127, 128, 129, 500, 1000, 2047, 2048, 2049, 4100, 10000]


def ordinary(dtype, seed=0):
    """(name, rows) for normal rows of every length and spread."""
    rng = np.random.default_rng(seed)
    for n in LENGTHS:
        for spread in (0.01, 1, 4, 10, 30, 100):
            yield f"N(0,{spread}) n={n}", (rng.standard_normal((4, n)) * spread).astype(dtype)


def breakers(dtype):
    """(name, rows) for rows on which a plausible shortcut is wrong by tens of ULP or more."""
    big = 16.647 if dtype == "float32" else 36.7368  # exp(big) is about 2^24, 2^53: the others round away
    row = np.zeros((1, 1024), dtype)
    row[0, 0] = big
    yield "one large term", row
    yield "one large term, last", row[:, ::-1].copy()
    row = np.zeros((1, 50000), dtype)
    row[0, ::1563] = big
    yield "32 large terms in 50000", row
    row = np.zeros((1, 100000), dtype)
    row[0, :32] = big - 3
    yield "a large term in every lane", row
    rng = np.random.default_rng(5)
    yield "vocabulary", (rng.standard_normal((2, 128256)) * 4).astype(dtype)
    drift = np.linspace(-40, 40, 30000) + rng.standard_normal(30000)
    yield "upward drift", drift[None].astype(dtype)
    yield "downward drift", drift[None, ::-1].astype(dtype)
    for offset in (100, -100, 3e4, -3e4, 1e6, -2.09e6, 2.09e6, 2.1e6, -2.1e6, 1e9, -1e30, 1e30):
        yield f"offset {offset:g}", (rng.standard_normal((4, 777)) * 5 + offset).astype(dtype)
    for edge in (2.0**21, -(2.0**21)):  # where the row's maximum decides about a shift, and the reduction is hardest
        row = (edge + np.arange(-40, 41)[:, None] * 0.25 + [0, -0.75, -3, -12, -200]).astype(dtype)
        yield f"around {edge:g}", row
    biggest = np.finfo(dtype).max
    yield "the whole range", np.array([[biggest, -biggest, 0, 1, biggest]], dtype)
    yield "all equal and large", np.full((2, 300), biggest, dtype)
    row = (rng.standard_normal((3, 1000)) * 4).astype(dtype)
    row[:, ::3] = -np.inf
    yield "-inf entries", row
    row = (rng.standard_normal((3, 1000)) * 4).astype(dtype)
    row[:, ::3] = -1e30
    yield "-1e30 entries", row
    tiny = np.finfo(dtype).smallest_subnormal
    yield "subnormal inputs", (rng.integers(-1000, 1000, (2, 500)) * tiny).astype(dtype)
    row = (rng.standard_normal((2, 500)) * 4).astype(dtype)
    row[:, ::2] = tiny
    yield "some subnormal inputs", row
    # Every result around the smallest normal and the smallest subnormal number.
    low, high = (-105, -85) if dtype == "float32" else (-747, -705)
    row = np.linspace(low, high, 4000)
    row[0] = 0
    yield "subnormal results", row[None].astype(dtype)


def adversarial(dtype, count=300, seed=1):
    """(name, rows) drawn to be nasty: random length, spread, offset, drift, ties and holes."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        n = int(2 ** rng.uniform(0, 13))
        spread, offset = 10 ** rng.uniform(-2, 1.8), rng.choice([0, 1, -1]) * 10 ** rng.uniform(0, 6.2)
        row = rng.standard_normal(n) * spread + offset
        if rng.random() < 0.3:
            row += np.linspace(0, rng.uniform(-60, 60), n)
        if rng.random() < 0.2:
            row = np.sort(row)[:: rng.choice([1, -1])]
        if rng.random() < 0.2:
            row = np.round(row)
        if rng.random() < 0.2 and n > 1:
            row[rng.integers(1, n) :: rng.integers(1, 9)] = rng.choice([-np.inf, -1e30])
        yield f"adversarial {i}", row[None].astype(dtype)
