"""Decides which value of `desired/<node>` to obey and logs the ones it ignores. No I/O, no clock."""

from __future__ import annotations

import logging
import math

from nodestore.errors import Garbage
from nodestore.schema.models import Desired, decode
from nodestore.support.jsonio import canonical
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

Order = tuple[int, int, int]
"""Epoch, term and generation of a desired state."""


class Orders:
    """The desired state in force.

    Each value of the key carries an order (see `Order`). A value is obeyed unless its order is lower than
    the highest order obeyed since noded started. So a write of a deposed leader changes nothing. If the key is deleted,
    nothing may run; the highest order is kept.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._highest_obeyed: Order | None = None
        self._log_once = RateLimitedLog(log, math.inf)
        self.is_known = False
        """Whether the key has been read since noded started."""
        self.raw: bytes | None = None
        """The key's last value, obeyed or not; None if the key is absent."""
        self.desired: Desired | None = None
        self.store_problem: str | None = None
        """Why etcd is another store, whose value is not observed; None if it is the known one."""
        self.problem: str | None = None
        """Why the key's value is not obeyed; None if it is."""

    def observe(self, value: bytes | None) -> None:
        """Obey or ignore `value`, the key's present value; None if the key is absent."""
        self.is_known, self.raw = True, value
        if value is None:
            if self.desired is not None:
                log.info("the desired state was deleted: nothing may run on the node")
            self.desired, self.problem = None, None
            return
        try:
            desired = decode(Desired, value, self._key)
            canonical(desired.spec.model_dump())
        except (Garbage, ValueError) as error:  # ValueError: a number that JSON does not have, such as NaN
            self.problem = f"the desired state in etcd is not readable, the previous one stays in force: {error}"
            log.error("%s", self.problem)
            return
        if self._highest_obeyed is not None and desired.order < self._highest_obeyed:
            self._ignore(desired.order, self._highest_obeyed)
            return
        self._highest_obeyed = desired.order
        self.desired, self.problem = desired, None

    def _ignore(self, order: Order, highest: Order) -> None:
        self.problem = (
            f"order {order_text(order)} is ignored: noded has already obeyed {order_text(highest)} "
            "(epoch.term.generation)"
        )
        self._log_once.log(logging.WARNING, self.problem, about=order)


def order_text(order: Order) -> str:
    """Format an order as in the log: epoch.term.generation."""
    return ".".join(str(part) for part in order)
