"""What the tests of explanations share: joint tables whose decomposition is known exactly."""

import itertools
import math
from collections.abc import Callable, Hashable, Iterable

import numpy as np
import pytest

Outcome = tuple[Hashable, Hashable, Hashable]


def table_of(outcomes: Iterable[tuple[Outcome, float]]) -> np.ndarray:
    """Joint table (a, b, c) from outcomes (x1, x2, y) and their probabilities."""
    pairs = list(outcomes)
    index = [{symbol: i for i, symbol in enumerate(dict.fromkeys(o[axis] for o, _ in pairs))} for axis in range(3)]
    table = np.zeros([len(symbols) for symbols in index])
    for outcome, probability in pairs:
        table[tuple(index[axis][outcome[axis]] for axis in range(3))] += probability
    return table


def of_bits(count: int, rule: Callable[..., Outcome]) -> np.ndarray:
    """Table of a rule over equally likely bits."""
    return table_of((rule(*bits), 0.5**count) for bits in itertools.product((0, 1), repeat=count))


def channels(first: float, second: float) -> np.ndarray:
    """A fair bit seen through two independent binary symmetric channels."""
    outcomes = []
    for y, flip1, flip2 in itertools.product((0, 1), repeat=3):
        chance = 0.5 * (first if flip1 else 1 - first) * (second if flip2 else 1 - second)
        outcomes.append(((y ^ flip1, y ^ flip2, y), chance))
    return table_of(outcomes)


def noisy_xor(flip: float) -> np.ndarray:
    return table_of(((a, b, a ^ b ^ f), 0.25 * (flip if f else 1 - flip)) for a, b, f in itertools.product((0, 1), repeat=3))


def entropy(*probabilities: float) -> float:
    return -sum(p * math.log2(p) for p in probabilities if p > 0)


def binary(p: float) -> float:
    return entropy(p, 1 - p)


BOOM = [(0, 0, 1), (0, 0, 2), (0, 2, 0), (1, 2, 1), (2, 0, 2), (2, 1, 2)]
BOTH_CHANNELS = 1 - 0.74 * binary(0.02 / 0.74) - 0.26 * binary(0.08 / 0.26)  # they agree on 0.74 of the cases
Exact = dict[str, tuple[np.ndarray, tuple[float, float, float, float]]]


def exact_tables() -> Exact:
    """Name -> table and (redundancy, unique 1, unique 2, synergy) in bits."""
    gate = binary(0.25) - 0.5  # I(X1; Y) of AND and OR
    return {
        "AND": (of_bits(2, lambda a, b: (a, b, a & b)), (gate, 0, 0, 0.5)),
        "OR": (of_bits(2, lambda a, b: (a, b, a | b)), (gate, 0, 0, 0.5)),
        "XOR": (of_bits(2, lambda a, b: (a, b, a ^ b)), (0, 0, 0, 1)),
        "y = x1": (of_bits(2, lambda a, b: (a, b, a)), (0, 1, 0, 0)),
        "y = x2": (of_bits(2, lambda a, b: (a, b, b)), (0, 0, 1, 0)),
        "x1 = x2 = y": (of_bits(1, lambda a: (a, a, a)), (1, 0, 0, 0)),
        "COPY": (of_bits(2, lambda a, b: (a, b, (a, b))), (0, 1, 1, 0)),
        "SUM": (of_bits(2, lambda a, b: (a, b, a + b)), (0.5, 0, 0, 1)),
        "RDN + XOR": (of_bits(3, lambda a, b, r: ((a, r), (b, r), (a ^ b, r))), (1, 0, 0, 1)),
        "all four": (of_bits(5, lambda a, b, r, u, v: ((a, r, u), (b, r, v), (a ^ b, r, u, v))), (1, 1, 1, 1)),
        "noisy XOR": (noisy_xor(0.1), (0, 0, 0, 1 - binary(0.1))),
        "AND, x1 = (a, b), x2 = b": (of_bits(2, lambda a, b: ((a, b), b, a & b)), (gate, 0.5, 0, 0)),
        "BSC(.1), BSC(.2)": (
            channels(0.1, 0.2),
            (1 - binary(0.2), binary(0.2) - binary(0.1), 0, BOTH_CHANNELS - 1 + binary(0.1)),
        ),
        "boom": (table_of((o, 1 / 6) for o in BOOM), (1 / 3, 1 / 3, 1 / 3, entropy(1 / 6, 1 / 3, 1 / 2) - 4 / 3)),
        "independent": (np.full((2, 2, 2), 1 / 8), (0, 0, 0, 0)),
        "independent, 3 x 4 x 2": (np.full((3, 4, 2), 1 / 24), (0, 0, 0, 0)),
    }


EXACT = exact_tables()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per exact table for every test that asks for one."""
    if "exact" in metafunc.fixturenames:
        metafunc.parametrize("exact", list(EXACT.values()), ids=list(EXACT))


@pytest.fixture(scope="session")
def tables() -> Exact:
    """Every exact table by name."""
    return EXACT
