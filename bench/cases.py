"""The one list of what is measured."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

DIGITS = "digits"


@dataclass(frozen=True)
class Case:
    """One softmax call."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    axis: int = -1
    spread: float = 4  # standard deviation of the logits
    out: bool = False  # into an existing array, or a new one
    source: str = "normal"  # or DIGITS: the logits that examples/digits.py leaves

    @property
    def name(self):
        what = "digits" if self.source == DIGITS else f"sd {self.spread:g}"
        return f"{self.dtype} {self.shape} axis {self.axis}, {what}, {'out=' if self.out else 'new'}"

    def logits(self):
        if self.source == DIGITS:
            return digits_logits().astype(self.dtype)
        rng = np.random.default_rng(0)
        return (rng.standard_normal(self.shape) * self.spread).astype(self.dtype)


def digits_logits():
    """Real logits, trained on first use."""
    saved = Path(__file__).parent.parent / "examples/digits_logits.npy"
    if not saved.exists():
        from examples.digits import main

        main()
    return np.load(saved)


CASES = [
    Case((1797, 10), source=DIGITS),
    Case((1797, 10), dtype="float64", source=DIGITS),
    Case((10,)),
    Case((10,), dtype="float64"),
    Case((64, 1000)),
    Case((64, 1000), out=True),
    Case((64, 1000), spread=1, out=True),
    Case((64, 1000), spread=30, out=True),
    Case((1024, 128)),
    Case((1024, 1024)),
    Case((100000, 10)),
    Case((4096, 1024)),
    Case((4096, 1024), out=True),
    Case((128, 32000), out=True),
    Case((1024, 1024), axis=0),
    Case((1000, 64), axis=0),
    Case((64, 1000), dtype="float64"),
    Case((64, 1000), dtype="float64", out=True),
    Case((64, 1000), dtype="float64", spread=1, out=True),
    Case((64, 1000), dtype="float64", spread=30, out=True),
    Case((1024, 1024), dtype="float64"),
    Case((100000, 10), dtype="float64"),
]
