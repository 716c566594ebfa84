"""No principal sends more requests than its share, and none of them costs the others theirs."""

from __future__ import annotations

from typing import Any

import aiohttp

from masterd.api.access import gate
from masterd.api.access.rates import Rates
from tests.support.fakes.access import AccessCase
from tests.support.fakes.masterd_parts import serving


def test_a_burst_and_then_a_rate() -> None:
    rates = Rates(10.0, 5.0)
    assert [rates.wait_s("a", 100.0) for _ in range(6)] == [0.0] * 5 + [0.1]
    assert rates.wait_s("b", 100.0) == 0.0
    assert rates.wait_s("a", 100.05) > 0.0
    assert rates.wait_s("a", 100.11) == 0.0
    served = sum(rates.wait_s("a", 101.0 + number / 1_000) == 0.0 for number in range(10_000))
    assert 104 <= served <= 106


def test_many_principals_are_not_all_remembered() -> None:
    rates = Rates(10.0, 5.0)
    for number in range(5_000):
        assert rates.wait_s(str(number), number / 1_000) == 0.0
    assert len(rates) <= 1_024


async def test_a_principal_that_sends_too_much_is_asked_to_wait(monkeypatch: Any) -> None:
    monkeypatch.setattr(gate, "Rates", lambda: Rates(0.1, 3.0))
    case = AccessCase()
    loud, calm = case.grant("viewer"), case.grant("admin")
    async with serving(case.masterd) as url, aiohttp.ClientSession() as session:
        statuses = []
        for headers in (loud, loud, loud, loud, calm):
            async with session.get(f"{url}/v1/whoami", headers=headers) as answer:
                statuses.append((answer.status, answer.headers.get("Retry-After")))
        assert statuses == [(200, None)] * 3 + [(503, "10"), (200, None)]
