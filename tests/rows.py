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
    tiniest = np.array([1, 100, -1000], dtype)[:, None] * tiny
    yield (
        "subnormal inputs as maxima",
        np.concatenate([tiniest, np.full((3, 4), -85, dtype), np.full((3, 1), -np.inf, dtype)], 1),
    )
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


def confident(dtype):
    """(name, rows) on which log(sum) is lost in the largest element: one element, or a few equal ones, far above the
    others. In chunks of 2048, as the kernels merge them."""
    rng = np.random.default_rng(6)
    for n in (1, 2, 5, 33, 100, 1000):
        yield f"N(-40,15) n={n}", (rng.standard_normal((4, n)) * 15 - 40).astype(dtype)
        row = -abs(rng.standard_normal((4, n)) * 15 + 40)
        row[np.arange(4), rng.integers(0, n, 4)] = 0
        yield f"0 in N(-40,15) n={n}", row.astype(dtype)
    gaps = [1e-3, 0.03, 0.5, 1, 3, 8, 15, 20, 37, 50, 80, 87, 100, 103.5, 110, 150, 200]
    if dtype == "float64":
        gaps += [500, 700, 710, 740, 750]
    for n in (2, 3, 40, 2049, 5000):
        for position in sorted({0, 1, n // 2, n - 1}):
            row = np.repeat(-np.array(gaps)[:, None], n, axis=1)
            row[:, position] = 0
            yield f"gaps around {position} of {n}", row.astype(dtype)
            yield f"gaps around {position} of {n}, at 7.3", (row + 7.3).astype(dtype)
    row = rng.standard_normal((6, 300)) * 5 - 60
    for i, repeats in enumerate((1, 2, 3, 8, 100, 300)):
        row[i, rng.permutation(300)[:repeats]] = 3.7
    yield "the largest repeated", row.astype(dtype)

    far = rng.standard_normal((4, 7000)) * 3 - 50
    for first, second in ((5, 2050), (2047, 2048), (4096, 6999), (0, 6144)):
        pair = far.astype(dtype)
        pair[:, first] = pair[:, second] = 1.3
        yield f"equal maxima at {first} and {second}", pair
        pair = pair.copy()
        pair[::2, first] = pair[1::2, second] = np.nextafter(pair[0, first], pair.dtype.type(9))
        yield f"neighbouring maxima at {first} and {second}", pair
        pair = pair.copy()
        pair[:, second] = [0, -5, -25, -60]
        yield f"maxima at {first} and {second}", pair
    for start in (0, 2048, 4096):
        row = far.astype(dtype)
        row[:, 3000] = 20
        row[:, start : start + 2048] = -np.inf
        yield f"a chunk of -inf from {start}", row
    row = np.full((3, 7000), -np.inf, dtype)
    row[0, 0], row[1, 3000], row[2, 6999] = -3, 100, 1e9
    yield "one element in chunks of -inf", row
    for step in (12, -12):
        yield f"maxima that change by {step} a chunk", (far + np.arange(7000) // 2048 * step).astype(dtype)

    # Beyond 2^21 in magnitude a row's maximum is subtracted; here some chunks' are and others' are not.
    for offsets in ([0, 3e6, -3e6, 1], [3e6, 0, 0, 3e6], [-3e6, -3e6, -2e6, -5e6], [0, -3e6, 2.09e6, 2.1e6]):
        row = (far + 50 + np.repeat(offsets, 2048)[:7000]).astype(dtype)
        yield f"chunks at {offsets}", row


def gradients(dtype, shape, seed=0):
    """(name, grad) for a gradient that comes back: those of training, and hard ones."""
    rng = np.random.default_rng(seed)
    one_hot = np.zeros(shape, dtype)
    one_hot[..., rng.integers(shape[-1])] = -1
    normal = rng.standard_normal(shape)
    yield "one hot", one_hot
    yield "normal", normal.astype(dtype)
    yield "nearly equal", (1 + normal * 1e-6).astype(dtype)
    yield "tiny", (normal * (1e-30 if dtype == "float32" else 1e-290)).astype(dtype)
    yield "huge", (normal * (1e30 if dtype == "float32" else 1e290)).astype(dtype)
    yield "zero", np.zeros(shape, dtype)


def short(dtype, count=1500):
    """(name, rows): many short rows, on which the last roundings show."""
    rng = np.random.default_rng(7)
    for n in (2, 3, 5, 10, 33):
        for spread, offset in ((0.01, 0), (0.3, 0.3), (1, 0), (1, -1), (5, 5), (30, 0)):
            rows = rng.standard_normal((count, n)) * spread + offset
            yield f"{count} of N({offset},{spread}) n={n}", rows.astype(dtype)
