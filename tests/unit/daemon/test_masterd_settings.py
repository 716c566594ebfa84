"""masterd's options: times have units and sane limits, and what contradicts is refused in one line."""

from __future__ import annotations

import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from masterd.election.suspicion import LAN, PROFILES
from masterd.settings import parse

_NEEDED = ["--id=m1", "--cluster=c"]


@pytest.mark.parametrize("text", ["0.3", "0.3s", "300ms", "300 ms", ".3"])
def test_times_have_units(text: str) -> None:
    """A time without a unit is in seconds."""
    assert parse([*_NEEDED, f"--silence={text}"], {}).master_settings.timing.silence_s == 0.3
    assert parse(_NEEDED, {"NODECTL_SILENCE": text}).master_settings.timing.silence_s == 0.3


@pytest.mark.parametrize(
    ("text", "listen", "advertise"),
    [
        ("10.0.0.11:8401", ("10.0.0.11", 8401), "http://10.0.0.11:8401"),
        ("[::1]:8401", ("::1", 8401), "http://[::1]:8401"),
        ("[::]:8401", ("::", 8401), f"http://{socket.gethostname()}:8401"),
        ("0.0.0.0:8401", ("0.0.0.0", 8401), f"http://{socket.gethostname()}:8401"),
        (":8401", ("", 8401), f"http://{socket.gethostname()}:8401"),
    ],
)
def test_where_it_listens(text: str, listen: tuple[str, int], advertise: str) -> None:
    """On all interfaces it is advertised by its host name; an IPv6 address is bound without its brackets."""
    settings = parse([*_NEEDED, f"--listen={text}", "--insecure"], {})
    assert (settings.listen, settings.advertise) == (listen, advertise)


def tls_options(directory: Path) -> list[str]:
    """Options that name files which exist. Their content is read when masterd starts."""
    for name in ("ca", "cert", "key", "crl"):
        (directory / name).touch()
    return [f"--tls-{name}={directory / name}" for name in ("ca", "cert", "key")]


@pytest.mark.parametrize(
    "listen", ["10.0.0.11:8401", "[::]:8401", "0.0.0.0:8401", ":8401", "pc1:8401", "[fd00::1]:8401"]
)
def test_other_pcs_are_served_with_tls_only(listen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or if that is wanted: then it is a warning for as long as it lasts."""
    with pytest.raises(SystemExit):
        parse([*_NEEDED, f"--listen={listen}"], {})
    [line] = capsys.readouterr().err.splitlines()
    assert "without TLS" in line
    assert "nodectl pki issue masterd:m1" in line
    settings = parse([*_NEEDED, f"--listen={listen}"], {"NODECTL_INSECURE": "1"})
    assert settings.exposure == f"its API accepts requests without TLS at {settings.listen} (--insecure)"
    settings = parse([*_NEEDED, f"--listen={listen}", *tls_options(tmp_path)], {})
    assert settings.advertise.startswith("https://")
    assert settings.exposure is None


@pytest.mark.parametrize("listen", ["127.0.0.1:8401", "[::1]:8401", "localhost:8401", "127.1.2.3:8401"])
def test_this_pc_is_served_without_tls(listen: str) -> None:
    settings = parse([*_NEEDED, f"--listen={listen}"], {})
    assert settings.exposure is None
    assert settings.advertise == f"http://{settings.listen}"


def test_a_second_port_without_tls(tmp_path: Path) -> None:
    options = [*_NEEDED, "--listen=:8403", "--plain-listen=:8401", *tls_options(tmp_path)]
    settings = parse([*options, "--advertise=http://pc1:8401"], {})
    assert settings.plain_listen == ("", 8401)
    assert settings.exposure == "its API accepts requests without TLS at :8401 (--plain-listen)"
    assert parse(options, {}).advertise.startswith("https://")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tls-cert=cert"], "--tls-key and --tls-ca is missing"),
        (["--tls-ca=ca"], "--tls-cert and --tls-key is missing"),
        (["--tls-crl=crl"], "is missing"),
        (["--tls-cert=none", "--tls-key=none", "--tls-ca=none"], "--tls-cert: cannot read none: No such file"),
        (["--plain-listen=:8402"], "--plain-listen is for a masterd with TLS"),
        (["all", "--plain-listen=127.0.0.1:8401"], "need different ports"),
        (["all", "--advertise=http://pc1:8401"], "its URL begins with https://"),
        (["all", "--tls-crl=none"], "--tls-crl: cannot read none"),
    ],
)
def test_contradictions_about_tls_are_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "all":
        arguments = [*tls_options(tmp_path), *arguments[1:]]
    with pytest.raises(SystemExit):
        parse([*_NEEDED, *arguments], {})
    [line] = capsys.readouterr().err.splitlines()
    assert says in line


def test_every_time_can_be_set() -> None:
    """Each time has an option; the others keep the values of the profile."""
    texts = {"beat": "50ms", "missed": "90ms", "silence": "1.5", "answer": "0.2s", "stuck": "1", "connect": "2s"}
    timing = parse([*_NEEDED, *(f"--{name}={text}" for name, text in texts.items())], {}).master_settings.timing
    assert (timing.beat_s, timing.missed_s, timing.silence_s) == (0.05, 0.09, 1.5)
    assert (timing.answer_s, timing.stuck_s, timing.connect_s) == (0.2, 1.0, 2.0)
    assert (timing.stagger_s, timing.late_s) == (LAN.stagger_s, LAN.late_s)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profiles_keep_the_limits(profile: str) -> None:
    """The profiles are within the limits of the options, so that their values can be given as options."""
    timing = parse([*_NEEDED, "--timing", profile], {}).master_settings.timing
    options = [f"--{name.removesuffix('_s')}={time_s}s" for name, time_s in asdict(timing).items() if name != "late_s"]
    assert parse([*_NEEDED, "--timing", profile, *options], {}).master_settings.timing == timing


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stuck=0.01"], "--stuck: '0.01' is not between 200ms and 30s"),
        (["--answer", "10ms"], "--answer: '10ms' is not between 20ms and 10s"),
        (["--stagger=60"], "--stagger: '60' is not between 5ms and 1s"),
        (["--connect=0"], "--connect: '0' is not between 100ms and 20s"),
        (["--beat=nan"], "--beat: 'nan' is not a time such as 0.3, 300ms, 5s, 5m or 1h"),
        (["--beat=1m"], "--beat: '1m' is not between 20ms and 2s"),
        (["--beat=-1"], "--beat: '-1' is not a time"),
        (["--beat=1e-1"], "--beat: '1e-1' is not a time"),
        (["--silence=60"], "--silence: '60' is not between 50ms and 30s"),
        (["--silence=2.5"], "--silence 2.5s must be less than --lease-ttl 2s"),
        (["--answer=3"], "--answer 3s must be less than --lease-ttl 2s"),
        (["--missed=1"], "--missed 1s, and that less than --silence 260ms"),
        (["--lease-ttl=0.5"], "--lease-ttl: '0.5' is not between 1s and 5m"),
        (["--local-member=10.0.0.9:1"], "--local-member: 10.0.0.9:1 is not among --endpoints 127.0.0.1:2379"),
        (["--listen=pc1"], "--listen: 'pc1' is not host:port"),
        (["--listen=::1:8401"], "--listen: '::1:8401' is not host:port, such as 10.0.0.11:2379 or [::1]:2379"),
        (["--local-member=first"], "'first' is not host:port"),
    ],
)
def test_nonsense_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what would do, in one line."""
    with pytest.raises(SystemExit) as ended:
        parse([*_NEEDED, *arguments], {})
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert says in said
    assert said.count("\n") == 1


def test_a_long_silence_goes_with_a_long_lease() -> None:
    """A silence limit longer than the default lease is accepted with a longer lease, because it then has an effect."""
    assert parse([*_NEEDED, "--silence=20s", "--lease-ttl=60s"], {}).master_settings.timing.silence_s == 20.0


async def test_the_local_member_may_be_told_in_any_spelling() -> None:
    """The address of the local member is accepted in each spelling; `none` means no local member."""
    for text in ("http://10.0.0.2:2379/", "10.0.0.2:2379"):
        seek = parse([*_NEEDED, "--endpoints=http://10.0.0.1:2379,10.0.0.2:2379", f"--local-member={text}"], {})
        assert seek.master_settings.find_member is not None
        assert (await seek.master_settings.find_member()).member == "10.0.0.2:2379"
    assert parse([*_NEEDED, "--local-member=none"], {}).master_settings.find_member is None


@pytest.mark.parametrize(
    "url", ["http://fd00::1:8401", "10.0.0.1:8401", "http://:8401", "http://[fd00::1", "http://h:0"]
)
def test_what_cannot_be_advertised(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Other programs could not connect to it: among others, an IPv6 address needs brackets."""
    with pytest.raises(SystemExit):
        parse(["--id", "m1", "--cluster", "wall", "--advertise", url], {})
    assert "--advertise" in capsys.readouterr().err


def test_how_long_a_browser_session_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    """The idle end is the TTL of a lease of etcd, so it is a whole number of seconds."""
    assert (parse(_NEEDED, {}).master_settings.session_idle_s, parse(_NEEDED, {}).master_settings.session_lasts_s) == (
        7_200, 43_200.0,
    )  # fmt: skip
    settings = parse([*_NEEDED, "--session-idle=15m", "--session-lasts=8h"], {}).master_settings
    assert (settings.session_idle_s, settings.session_lasts_s) == (900, 28_800.0)
    for option in ("--session-idle=1s", "--session-idle=90.5s", "--session-lasts=31d", "--session-lasts=0"):
        with pytest.raises(SystemExit):
            parse([*_NEEDED, option], {})
        assert option.split("=")[0] in capsys.readouterr().err
