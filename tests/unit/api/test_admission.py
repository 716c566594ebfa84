"""Admission: decisions by numbers and times alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masterd.api.admission import (
    Admission,
    AdmissionLimits,
    Caller,
    ConnectionClock,
    ConnectionPhase,
    caller_of,
    parse_cost,
    plain_size,
)

LIMITS = AdmissionLimits(
    body_bytes_max=100, bytes_in_flight_max=250, connections_max=10, connections_per_stranger_max=3,
    connections_per_known_max=6, connections_reserved=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", Caller.LOOPBACK), ("127.9.9.9", Caller.LOOPBACK), ("::1", Caller.LOOPBACK),
        ("::ffff:127.0.0.1", Caller.LOOPBACK), ("", Caller.LOOPBACK), ("10.0.0.7", Caller.MASTER),
        ("::ffff:10.0.0.7", Caller.MASTER),
        ("10.0.0.70", Caller.STRANGER), ("fe80::1", Caller.STRANGER),
    ],
)  # fmt: skip
def test_a_caller_is_known_by_its_address(address: str, expected: Caller) -> None:
    assert caller_of(address, frozenset({"10.0.0.7"})) is expected


@pytest.mark.parametrize(("caller", "admitted"), [(Caller.STRANGER, 3), (Caller.LOOPBACK, 6), (Caller.MASTER, 6)])
def test_one_address_has_a_limit_of_its_own(caller: Caller, admitted: int) -> None:
    admission = Admission(LIMITS)
    refusals = [admission.connect("a", caller) for _ in range(8)]
    assert [refusal is None for refusal in refusals] == [True] * admitted + [False] * (8 - admitted)
    assert f"limit is {admitted}" in str(refusals[-1])
    admission.disconnect("a")
    assert admission.connect("a", caller) is None


def test_strangers_leave_room_for_masters() -> None:
    """However many they are, masters still get through."""
    admission = Admission(LIMITS)
    taken = [admission.connect(f"stranger {number}", Caller.STRANGER) for number in range(20)]
    assert taken.count(None) == 8
    assert [admission.connect(f"master {number}", Caller.MASTER) for number in range(2)] == [None, None]
    assert admission.connect("master 3", Caller.MASTER) is not None
    assert admission.connections == 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())))
def test_every_connection_is_counted_once(steps: list[tuple[str, bool]]) -> None:
    admission, held = Admission(LIMITS), dict.fromkeys("abc", 0)
    for address, opens in steps:
        if opens and admission.connect(address, Caller.STRANGER) is None:
            held[address] += 1
        elif not opens and held[address]:
            admission.disconnect(address)
            held[address] -= 1
        assert admission.connections == sum(held.values()) <= 8
        assert max(held.values()) <= 3


def test_bytes_in_flight_are_bounded() -> None:
    admission = Admission(LIMITS)
    assert admission.reserve(150)
    assert not admission.reserve(101)
    assert admission.reserve(100)
    admission.release(150)
    assert admission.bytes_in_flight == 100
    assert admission.reserve(150)


@pytest.mark.parametrize(
    ("length", "is_refused"), [(None, False), (0, False), (100, False), (101, True), (10**18, True)]
)
def test_a_body_is_refused_by_its_declared_length(length: int | None, is_refused: bool) -> None:
    assert (Admission(LIMITS).body_refusal(length) is not None) is is_refused


def test_the_cost_of_parsing_counts_values_and_escapes() -> None:
    assert parse_cost(0, 0) == 0
    assert parse_cost(100, 0) == 100
    assert parse_cost(100, 80) == 110


# --- one connection ---

TIMES = AdmissionLimits(receive_s=10.0, idle_s=75.0, stalled_s=15.0, linger_s=2.0, head_bytes_max=1000)


def test_a_connection_that_sends_nothing_ends() -> None:
    clock = ConnectionClock(TIMES, 100.0)
    assert clock.expired(0, 174.9) is None
    assert "first byte" in str(clock.expired(0, 175.0))


def test_headers_that_come_byte_by_byte_end() -> None:
    """The time counts from the first byte: later ones do not extend it."""
    clock = ConnectionClock(TIMES, 0.0)
    for second in range(10):
        assert clock.received(b"x", float(second))
        assert clock.expired(0, float(second)) is None
    assert "headers" in str(clock.expired(0, 10.0))


def test_a_request_may_take_its_time() -> None:
    """An event stream lasts for hours. After a request, the time of an idle connection begins."""
    clock = ConnectionClock(TIMES, 0.0)
    clock.received(b"x" * 50, 1.0)
    clock.request_begun()
    assert clock.expired(0, 100_000.0) is None
    clock.request_ended(False, 100_000.0)
    assert clock.phase is ConnectionPhase.IDLE
    assert clock.expired(0, 100_074.0) is None
    assert clock.expired(0, 100_075.0) is not None


def test_endless_headers_are_refused() -> None:
    """Not a body: once the headers are complete, bytes are not counted here."""
    clock = ConnectionClock(TIMES, 0.0)
    assert clock.received(b"x" * 900, 0.0)
    assert not clock.received(b"x" * 101, 0.0)
    other = ConnectionClock(TIMES, 0.0)
    assert other.received(b"x" * 900 + b"\r\n\r\n" + b"y" * 100_000, 0.0)
    assert other.phase is ConnectionPhase.HANDLED
    assert all(other.received(b"y" * 100_000, 0.0) for _ in range(10))


@pytest.mark.parametrize("cut", range(1, 5))
def test_the_end_of_the_headers_may_come_in_parts(cut: int) -> None:
    clock = ConnectionClock(TIMES, 0.0)
    sent = b"GET / HTTP/1.1\r\n\r\n"
    phases = [(clock.received(part, 0.0), clock.phase) for part in (sent[:-cut], sent[-cut:])]
    assert phases == [(True, ConnectionPhase.HEADERS), (True, ConnectionPhase.HANDLED)]


def test_a_client_that_reads_nothing_is_dropped() -> None:
    """One that reads slowly is not: what waits for it becomes less."""
    clock = ConnectionClock(TIMES, 0.0)
    clock.request_begun()
    clock.stalled(1000, 10.0)
    assert clock.expired(1000, 24.9) is None
    assert clock.expired(900, 25.0) is None
    assert clock.expired(900, 39.9) is None
    assert "read nothing" in str(clock.expired(900, 40.0))
    clock.resumed()
    assert clock.expired(900, 1000.0) is None


def test_a_refused_body_is_discarded_for_a_short_time_only() -> None:
    clock = ConnectionClock(TIMES, 0.0)
    clock.request_begun()
    clock.request_ended(True, 1.0)
    assert all(clock.received(b"x" * 1_000_000, 2.0) for _ in range(3)), "the rest of the body is no header"
    assert clock.expired(0, 17.9) is None
    assert clock.expired(0, 18.0) is not None


@pytest.mark.parametrize(
    ("head", "is_plain"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nCONTENT-LENGTH:5 \r\nA: content-length: 9\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r", False),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length : 6\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5, 6\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nA: b\nContent-Length: 5\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n 6\r\n\r\n", False),
    ],
)
def test_the_size_of_a_request_is_plain_or_unknown(head: bytes, is_plain: bool) -> None:
    """Two programs must not differ in where the next request begins, so every doubt counts."""
    assert plain_size(head + b"12345POST") == (len(head) + 5 if is_plain else None)
