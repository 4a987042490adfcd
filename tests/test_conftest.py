"""The sample that a run takes of the combinations of a test's parameters."""

import itertools
import random

from conftest import sample


class Combination:
    """As much of a test as sample() looks at."""

    def __init__(self, params):
        self.params = params
        self.callspec = self


def combinations(**values):
    return [Combination(dict(zip(values, chosen, strict=True))) for chosen in itertools.product(*values.values())]


def test_a_sample_has_every_value():
    values = {"isa": ["avx2", "scalar"], "op": list("abcdefg"), "n": [1, 2, 3]}
    items = combinations(**values)
    for seed in range(20):
        taken = sample(items, 10, random.Random(seed))
        assert len(taken) >= 10
        assert taken <= set(items)
        for name, expected in values.items():
            assert {item.params[name] for item in taken} == set(expected)


def test_a_sample_is_as_large_as_asked_where_that_is_enough():
    items = combinations(a=list(range(30)), b=["x", "y"])
    assert [len(sample(items, count, random.Random(0))) for count in (1, 40, 60)] == [30, 40, 60]
    items = combinations(part=list(range(30)))
    assert [len(sample(items, count, random.Random(0))) for count in (1, 30)] == [1, 30]


def test_seeds_take_everything_in_the_end():
    items = combinations(a=list(range(9)), b=list(range(9)))
    seeds = [sample(items, 20, random.Random(seed)) for seed in range(40)]
    assert set.union(*seeds) == set(items)
    assert seeds[0] != seeds[1]
    assert seeds[0] == sample(items, 20, random.Random(0))
