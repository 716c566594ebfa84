"""What people write as addresses, times and numbers, and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodectl.endpoints import parse_endpoints
from nodestore.errors import Invalid
from nodestore.etcd.types import EtcdSettings, host_port
from nodestore.support.values import (
    Address,
    check_credentials,
    duration_between,
    each_of,
    format_duration,
    is_loopback,
    parse_address,
    parse_duration,
    parse_host,
    parse_host_name,
    parse_origin,
    whole_between,
    whole_seconds_between,
)

# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.11:2379", Address("10.0.0.11", 2379)),
        ("pc-1.example.org:1", Address("pc-1.example.org", 1)),
        ("pc_1:65535", Address("pc_1", 65_535)),
        ("[::1]:2379", Address("::1", 2379)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    """An IPv6 address has brackets in the text, and none in `host`."""
    assert parse_address(text) == address
    assert str(address) == text


def test_equal_ipv6_addresses_are_equal_texts() -> None:
    """Programs compare endpoints as texts."""
    assert str(parse_address("[FD00:0:0::01]:1")) == str(parse_address("[fd00::1]:1")) == "[fd00::1]:1"


@pytest.mark.parametrize(
    "text",
    [
        "", "host", "host:", ":1", "host:0", "host:65536", "host:-1", "host:١", "host:1x", "a b:1", "a/b:1", "u@h:1",
        "::1:80", "[]:80", "[::1]", "[::1", "::1]:80", "[host]:80", "[::g]:80", "http://host:1", "host:1/", "host:1\n",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    """One message explains the error and shows both formats."""
    message = f"{text!r} is not host:port, such as 10.0.0.11:2379 or [::1]:2379"
    with pytest.raises(Invalid, match=f"^{re.escape(message)}$"):
        parse_address(text)


def test_what_an_address_may_also_have() -> None:
    """A scheme that the caller knows, then a slash, too; no host, where one listens."""
    for text in ("http://h:1", "HTTPS://h:1/", "h:1"):
        assert parse_address(text, schemes=("http", "https")) == Address("h", 1)
    assert parse_address(":8401", host_optional=True) == Address("", 8401)
    for text in ("ftp://h:1", "://h:1", "http://etcd://h:1"):
        with pytest.raises(Invalid, match="is not host:port"):
            parse_address(text, schemes=("http", "https"))


def test_all_who_take_addresses_say_the_same() -> None:
    """etcd's endpoints, whether masterd or nodectl reads them."""
    assert host_port("http://[::1]:02379/") == "[::1]:2379"
    assert EtcdSettings(endpoints=("[::1]:1", "http://[::1]:1")).endpoints == ("[::1]:1",)
    assert parse_endpoints("etcd://[::1]:1,h:2").etcd == ("[::1]:1", "h:2")
    for refuse in (host_port, parse_endpoints):
        with pytest.raises(Invalid, match=r"'::1:2379' is not host:port, such as 10\.0\.0\.11:2379 or \[::1\]:2379"):
            refuse("::1:2379")


# --- durations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("0.3", 0.3), ("0.3s", 0.3), ("300ms", 0.3), ("300 ms", 0.3), (".3", 0.3), (" 5s ", 5.0), ("5.", 5.0),
        ("0", 0.0), ("0s", 0.0), ("5", 5.0), ("90s", 90.0), ("5m", 300.0), ("1.5m", 90.0), ("1h", 3_600.0),
        ("0.1h", 360.0), ("8h", 28_800.0), ("0.5ms", 0.000_5), ("1ms", 0.001),
    ],
)  # fmt: skip
def test_durations(text: str, duration_s: float) -> None:
    """Seconds, where there is no unit."""
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize(
    "text",
    ["", "s", "ms", ".", "soon", "nan", "inf", "-1", "+1", "1e3", "1,5", "1d", "1M", "1 min", "1h30m", "٣s", "9" * 10],
)
def test_what_is_no_duration(text: str) -> None:
    """One message explains the error and shows each unit."""
    message = f"{text!r} is not a time such as 0.3, 300ms, 5s, 5m or 1h"
    with pytest.raises(Invalid, match=f"^{re.escape(message)}$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.0, "0s"), (0.05, "50ms"), (0.000_5, "0.5ms"), (0.3, "300ms"), (1.0, "1s"), (2.5, "2.5s"), (45, "45s"),
        (60.0, "1m"), (61.5, "61.5s"), (90.0, "90s"), (600.0, "10m"), (3_600.0, "1h"), (5_400.0, "90m"),
        (86_400.0, "24h"),
    ],
)  # fmt: skip
def test_durations_are_written(duration_s: float, text: str) -> None:
    """In the largest unit of which it is a whole number; with a fraction, in seconds or milliseconds."""
    assert format_duration(duration_s) == text


@given(st.integers(0, 10**15).map(lambda ns: ns / 1e9))
def test_what_is_written_is_read(duration_s: float) -> None:
    """The same duration, for each whole number of nanoseconds."""
    assert parse_duration(format_duration(duration_s)) == duration_s


@given(st.integers(0, 10**9), st.sampled_from([("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)]))
def test_what_is_read_is_written(count: int, unit: tuple[str, float]) -> None:
    """In another unit perhaps, but as the same time."""
    text = f"{count % 1_000_000}{unit[0]}"
    assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)


def test_bounds() -> None:
    """They belong to what is allowed, and are written as they may be given."""
    parse = duration_between(0.05, 300.0)
    assert [parse(text) for text in ("50ms", "5m", "300")] == [0.05, 300.0, 300.0]
    for text in ("49ms", "0", "301", "1h"):
        with pytest.raises(Invalid, match=f"^'{text}' is not between 50ms and 5m$"):
            parse(text)


def test_whole_seconds() -> None:
    """Times that etcd stores are whole seconds."""
    parse = whole_seconds_between(1, 300)
    found = [parse(text) for text in ("2", "2s", "2000ms", "5m")]
    assert found == [2, 2, 2, 300]
    assert all(type(value) is int for value in found)
    with pytest.raises(Invalid, match=r"^'1500ms' is not a whole number of seconds$"):
        parse("1500ms")
    with pytest.raises(Invalid, match=r"^'0' is not between 1s and 5m$"):
        parse("0")


def test_whole_numbers() -> None:
    """A whole number must be within its bounds."""
    parse = whole_between(0, 100)
    assert [parse(text) for text in ("0", "100")] == [0, 100]
    with pytest.raises(Invalid, match=r"^'101' is not between 0 and 100$"):
        parse("101")
    with pytest.raises(Invalid, match=r"^'1\.5' is not a number$"):
        parse("1.5")


# --- what belongs together -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"user": "u"}, "--user and --password-file belong together: give both or neither"),
        ({"password_file": "f"}, "--user and --password-file belong together"),
        ({"cert": "c"}, "--cert and --key belong together: give both or neither"),
        ({"key": "k"}, "--cert and --key belong together"),
        ({"cert": "c", "key": "k", "has_ca": False}, "--cert needs --ca: without it there is no TLS"),
        ({"user": "u", "prefix": "--maintenance-"}, "--maintenance-user and --maintenance-password-file belong"),
        ({"cert": "c", "key": "k", "has_ca": False, "prefix": "--maintenance-"}, "--maintenance-cert needs --ca"),
    ],
)
def test_what_belongs_together(given: dict[str, str], says: str) -> None:
    """The error names both options."""
    with pytest.raises(Invalid, match=f"^{says}"):
        check_credentials(**given)  # type: ignore[arg-type]


def test_what_fits_together() -> None:
    """Nothing, all, or one of the two; an authority alone is not asked for without a certificate."""
    check_credentials()
    check_credentials(has_ca=False)
    check_credentials(user="u", password_file="f", has_ca=False)
    check_credentials(user="u", password_file="f", cert="c", key="k")


def test_the_session_checks_its_certificate() -> None:
    """Also where no option was parsed, as in the client library."""
    with pytest.raises(Invalid, match="--cert needs --ca"):
        EtcdSettings(endpoints=("h:1",), cert="c", key="k")  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="--cert and --key belong together"):
        EtcdSettings(endpoints=("h:1",), ca="a", cert="c")  # type: ignore[arg-type]


# --- names of hosts and origins --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"), [("pc1", "pc1"), ("PC1.Plant.Example.", "pc1.plant.example"), ("a_b", "a_b")]
)
def test_names_of_hosts(text: str, name: str) -> None:
    assert parse_host_name(text) == name


@pytest.mark.parametrize("text", ["", ".", "a..b", "-a", "a-", "*.plant", "a:1", "http://a", "a/b", "\u00e4", "a" * 64,
                                  "10.0.0.256", "1"])  # fmt: skip
def test_what_is_no_name_of_a_host(text: str) -> None:
    with pytest.raises(Invalid, match="is not the name of a host, such as pc1"):
        parse_host_name(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [("10.0.0.1", "10.0.0.1"), ("[FD00::0:1]", "fd00::1"), ("PC1.Example.", "pc1.example"), ("a_b", "a_b")],
)
def test_hosts(text: str, host: str) -> None:
    assert parse_host(text) == parse_host(text, wildcard=True) == host


def test_a_host_with_a_wildcard() -> None:
    assert parse_host("*.Plant.example", wildcard=True) == "*.plant.example"
    for text, wildcard in (("*.plant", False), ("*.", True), ("*", True), ("a.*.b", True), ("*.1", True)):
        with pytest.raises(Invalid, match="neither a DNS name nor an IP address"):
            parse_host(text, wildcard=wildcard)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Wall.Example", "https://wall.example"),
        ("https://wall.example:443/", "https://wall.example"),
        ("http://wall.example:443", "http://wall.example:443"),
        ("http://[FD00::1]:80", "http://[fd00::1]"),
        (" http://10.0.0.1:3000 ", "http://10.0.0.1:3000"),
    ],
)
def test_origins(text: str, origin: str) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["", "*", "null", "wall.example", "ftp://a", "https://*.example", "https://a/b", "https://a?b", "https://a#b",
     "https://u@a", "https://u:p@a", "https://a:99999", "https://[::1", "https://:1"],
)  # fmt: skip
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(Invalid, match=r"is not the origin of a web page, such as https://wall\.example"):
        parse_origin(text)


def test_lists_of_values() -> None:
    assert each_of(parse_host_name)("a, b,,C ") == ("a", "b", "c")
    with pytest.raises(Invalid, match=r"'-' is not the name"):
        each_of(parse_host_name)("a,-")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False),
     ("0.0.0.0", False), ("", False), ("localhost.example", False), ("pc1", False)],
)  # fmt: skip
def test_hosts_of_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
