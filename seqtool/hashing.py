"""The hash that gives an n-gram its row in a table; the same on torch tensors and NumPy arrays."""

from typing import Any, TypeVar

# Multipliers of a polynomial hash modulo a Mersenne prime; products stay below 2**63.
PRIME = 2**31 - 1
BASE = 1_000_003
SPREAD = 7_919

IdsT = TypeVar("IdsT", bound=Any)


def hash_rows(ids: IdsT, previous: list[IdsT], buckets: int) -> list[IdsT]:
    """Rows of the tables of order 2, 3, ... for each token.

    Args:
        ids: Token at time t, a tensor or array of any shape, int64.
        previous: Tokens at t-1, t-2, ..., each of that shape.
        buckets: Rows of each table.

    Returns:
        For each order its row, counted through all tables, of the shape of ids.
    """
    rows, key = [], ids
    for back, earlier in enumerate(previous):
        key = (key * BASE + earlier * SPREAD + (back + 1)) % PRIME
        rows.append(key % buckets + back * buckets)
    return rows
