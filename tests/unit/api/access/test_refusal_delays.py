"""Invalid credentials of one address are answered more and more slowly; valid ones, and those of others, are not."""

from __future__ import annotations

import asyncio

import aiohttp

from masterd.api.access.refusal_delays import (
    FIRST_S,
    MOST_S,
    WAITING_MAX,
    WAITING_PER_ADDRESS_MAX,
    RefusalDelays,
)
from tests.support.fakes.access import AccessCase
from tests.support.fakes.masterd_parts import serving


def _answered(delays: RefusalDelays, address: str, now: float) -> float:
    delay_s = delays.begin(address, now)
    delays.end(address)
    return delay_s


def test_each_further_one_waits_longer_up_to_a_limit() -> None:
    delays = RefusalDelays()
    found = [_answered(delays, "10.0.0.7", float(number)) for number in range(30)]
    assert found[:5] == [FIRST_S] * 5
    assert found == sorted(found)
    assert found[5] > FIRST_S
    assert found[-1] == MOST_S
    assert _answered(delays, "10.0.0.8", 30.0) == FIRST_S


def test_a_minute_without_one_is_a_new_beginning() -> None:
    delays = RefusalDelays()
    for number in range(30):
        _answered(delays, "10.0.0.7", float(number))
    assert _answered(delays, "10.0.0.7", 29.0 + 59.0) == MOST_S
    assert _answered(delays, "10.0.0.7", 88.0 + 60.0) == FIRST_S


def test_a_credential_that_became_valid_does_not_count() -> None:
    delays = RefusalDelays()
    for _ in range(30):
        assert delays.begin("10.0.0.7", 1.0) == FIRST_S
        delays.end("10.0.0.7", was_valid=True)


def test_all_addresses_of_an_ipv6_network_are_one_sender() -> None:
    delays = RefusalDelays()
    found = [_answered(delays, f"2001:db8:1:2::{number:x}", 1.0) for number in range(30)]
    assert found[-1] == MOST_S
    assert _answered(delays, "2001:db8:1:3::1", 1.0) == FIRST_S
    for _ in range(30):
        _answered(delays, "::ffff:10.0.0.7", 1.0)
    assert _answered(delays, "10.0.0.7", 1.0) == MOST_S
    assert _answered(delays, "", 1.0) == FIRST_S  # a socket without an address


def test_only_so_many_answers_wait() -> None:
    """One address cannot take the places of all; further answers are given at once, and hold nothing."""
    delays = RefusalDelays()
    assert [delays.begin("10.0.0.7", 1.0) > 0 for _ in range(WAITING_PER_ADDRESS_MAX + 5)].count(False) == 5
    others = [delays.begin(f"10.0.1.{number}", 1.0) > 0 for number in range(WAITING_MAX)]
    assert others.count(True) == WAITING_MAX - WAITING_PER_ADDRESS_MAX
    delays.end("10.0.0.7")
    assert delays.begin("10.0.2.1", 1.0) == FIRST_S


def test_many_addresses_are_not_all_remembered() -> None:
    delays = RefusalDelays()
    waiting = delays.begin("10.9.9.9", 0.0)
    for number in range(5_000):
        _answered(delays, f"10.{number >> 8}.{number & 255}.1", number / 100)
    assert len(delays) <= 1_024
    assert waiting == FIRST_S
    delays.end("10.9.9.9")


async def test_a_valid_token_does_not_wait_for_the_invalid_ones_of_its_address() -> None:
    case = AccessCase()
    headers, loop = case.grant("viewer"), asyncio.get_running_loop()
    async with serving(case.masterd) as url, aiohttp.ClientSession() as session:

        async def ask(credential: dict[str, str]) -> tuple[int, float]:
            begun = loop.time()
            async with session.get(f"{url}/v1/whoami", headers=credential) as answer:
                return answer.status, loop.time() - begun

        refused = [asyncio.ensure_future(ask({"Authorization": "Bearer x"})) for _ in range(12)]
        await asyncio.sleep(0.05)
        status, took_s = await ask(headers)
        assert status == 200
        assert took_s < FIRST_S
        found = await asyncio.gather(*refused)
        assert {status for status, _ in found} == {401}
        assert max(took_s for _, took_s in found) > 2 * FIRST_S
