"""noded without its check of orders, to test that the checkers detect it: `-m tests.faults.sabotaged_noded ARG...`.

It obeys the latest order, even that of a deposed leader. For tests only. It replaces a private field on purpose.
"""

from __future__ import annotations

import sys

from noded import __main__
from noded.reconcile import orders


def take_out_order_check() -> None:
    take = orders.Orders.observe

    def forgetful(self: orders.Orders, value: bytes | None) -> None:
        self._highest_obeyed = None
        take(self, value)

    orders.Orders.observe = forgetful  # type: ignore[method-assign]


if __name__ == "__main__":
    take_out_order_check()
    sys.exit(__main__.main())
