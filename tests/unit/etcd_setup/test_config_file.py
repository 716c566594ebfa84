"""The configuration file of an etcd member: complete, consistent, and what the programs themselves would use."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nodectl.__main__ import run
from nodectl.cli.exit_codes import ExitCode
from nodectl.etcd_setup.config_file import MemberPlan
from nodestore.errors import Invalid
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS, MEMORY_ENVIRONMENT
from nodestore.services.definitions import ETCD

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "etcd"
SIZES = (1, 3, 5, 7)
TLS = ("client-transport-security", "peer-transport-security")
OWN = {"name", "data-dir", "listen-client-urls", "advertise-client-urls", "listen-peer-urls",
       "initial-advertise-peer-urls", "initial-cluster", "initial-cluster-token", "initial-cluster-state"}  # fmt: skip


def addresses(count: int) -> dict[str, str]:
    return {f"pc{n}": f"192.168.10.1{n}" for n in range(1, count + 1)}


def load(text: str) -> dict[str, Any]:
    settings = yaml.safe_load(text)
    assert isinstance(settings, dict)
    return settings


def files(count: int, tls_dir: str | None = None) -> dict[str, dict[str, Any]]:
    """The settings of every member of a cluster, by name."""
    members = addresses(count)
    return {name: load(MemberPlan(name, members, token="wall", tls_dir=tls_dir).render()) for name in members}


def initial(settings: dict[str, Any]) -> dict[str, str]:
    return dict(pair.split("=") for pair in settings["initial-cluster"].split(","))


def arguments(*members: str, name: str = "pc1") -> list[str]:
    return ["etcd", "config", "--name", name, *(part for member in members for part in ("--member", member))]


def documented(page: str) -> list[list[str]]:
    """The arguments of every `nodectl etcd config` that a page shows in full."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(found) for found in re.findall(r"nodectl (etcd config (?:[^`\n.]|\.\d|\.\w)+)", text)]


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", SIZES)
def test_a_file_holds_the_settings_that_the_project_is_tested_with(count: int) -> None:
    for settings in files(count).values():
        shared = {name: value for name, value in settings.items() if name not in OWN}
        shared["log-outputs"] = shared["log-outputs"][0]
        assert {name: str(value) for name, value in shared.items()} == dict(DEFAULT_SETTINGS)
        assert set(settings) == OWN | set(DEFAULT_SETTINGS)


@pytest.mark.parametrize("tls_dir", [None, "/etc/etcd/tls"])
@pytest.mark.parametrize("count", SIZES)
def test_a_member_is_itself_and_knows_the_others(count: int, tls_dir: str | None) -> None:
    found, scheme = files(count, tls_dir), "https" if tls_dir else "http"
    for name, settings in found.items():
        assert settings["name"] == name
        assert list(initial(settings)) == list(found)
        assert initial(settings)[name] == settings["initial-advertise-peer-urls"] == settings["listen-peer-urls"]
        assert settings["initial-advertise-peer-urls"] == f"{scheme}://{addresses(count)[name]}:2380"
        assert settings["advertise-client-urls"] == f"{scheme}://{addresses(count)[name]}:2379"
        own = f"{scheme}://127.0.0.1:2379"
        assert settings["listen-client-urls"].split(",") == [settings["advertise-client-urls"], own]
        for other in found.values():
            assert initial(other) == initial(settings)
            assert other["initial-cluster-token"] == settings["initial-cluster-token"] == "wall"


@pytest.mark.parametrize("count", SIZES)
def test_the_files_of_a_cluster_differ_in_names_and_addresses_only(count: int) -> None:
    texts = set()
    for name, address in addresses(count).items():
        text = MemberPlan(name, addresses(count)).render()
        cluster = next(line for line in text.splitlines() if line.startswith("initial-cluster:"))
        texts.add(text.replace(cluster, "").replace(address, "ADDRESS").replace(name, "NAME"))
    assert len(texts) == 1


def test_every_setting_has_a_comment_above_it_or_above_its_group() -> None:
    groups = re.split(r"\n\n+", MemberPlan("pc1", addresses(3)).render().strip())
    assert [group for group in groups if not group.startswith(("#", "logger:"))] == []
    assert not [line for group in groups for line in group.splitlines() if line.startswith("#") and len(line) > 120]


def test_members_may_have_other_certificates_among_themselves() -> None:
    """Those that `nodectl pki issue` makes, by their names there."""
    found = load(MemberPlan("pc1", addresses(3), tls_dir="/etc/etcd/tls", own_peer_certs=True).render())
    own = {"cert-file": "pc1.crt", "key-file": "pc1.key", "trusted-ca-file": "ca.crt"}
    peer = {"cert-file": "pc1-peer.crt", "key-file": "pc1-peer.key", "trusted-ca-file": "peer-ca.crt"}
    for side, names in zip(TLS, (own, peer), strict=True):
        assert {name: found[side][name].removeprefix("/etc/etcd/tls/") for name in names} == names
        assert found[side]["client-cert-auth"] is True
    with pytest.raises(Invalid, match="--peer-certs needs --tls-dir"):
        MemberPlan("pc1", addresses(3), own_peer_certs=True).render()


@pytest.mark.parametrize("name", ["pc1", "pc3"])
def test_the_tls_part_is_valid_once_its_comments_are_taken_off(name: str) -> None:
    text = MemberPlan(name, addresses(3)).render()
    uncommented = re.sub(r"^# ((?:client|peer)-transport-security:|  )", r"\1", text, flags=re.MULTILINE)
    by_option = load(MemberPlan(name, addresses(3), tls_dir="/etc/etcd/tls").render())
    for side in TLS:
        assert side not in load(text)
        tls = load(uncommented)[side]
        assert tls["client-cert-auth"] is True
        assert tls == by_option[side] == {
            "cert-file": f"/etc/etcd/tls/{name}.crt", "key-file": f"/etc/etcd/tls/{name}.key",
            "trusted-ca-file": "/etc/etcd/tls/ca.crt", "client-cert-auth": True,
        }  # fmt: skip


def test_a_member_that_joins_says_so() -> None:
    new, joining = MemberPlan("pc1", addresses(3)).render(), MemberPlan("pc1", addresses(3), existing=True).render()
    assert load(new)["initial-cluster-state"] == "new"
    assert load(joining) == load(new) | {"initial-cluster-state": "existing"}


@pytest.mark.parametrize(
    ("members", "listen", "clients", "peers"),
    [
        ({"pc1": "127.0.0.1"}, None, "http://127.0.0.1:4001", "http://127.0.0.1:4002"),
        ({"pc1": "[fd00::1]"}, None, "http://[fd00::1]:4001,http://127.0.0.1:4001", "http://[fd00::1]:4002"),
        ({"pc1": "pc1.lan"}, "0.0.0.0", "http://0.0.0.0:4001", "http://0.0.0.0:4002"),
        ({"pc1": "pc1.lan"}, "::", "http://[::]:4001", "http://[::]:4002"),
        ({"pc1": "pc1.lan"}, "10.0.0.1", "http://10.0.0.1:4001,http://127.0.0.1:4001", "http://10.0.0.1:4002"),
    ],
)
def test_where_a_member_listens(members: dict[str, str], listen: str | None, clients: str, peers: str) -> None:
    settings = load(MemberPlan("pc1", members, listen=listen, client_port=4001, peer_port=4002).render())
    assert (settings["listen-client-urls"], settings["listen-peer-urls"]) == (clients, peers)
    assert settings["advertise-client-urls"] == f"http://{members['pc1']}:4001"
    assert settings["initial-advertise-peer-urls"] == f"http://{members['pc1']}:4002"
    assert initial(settings) == {"pc1": settings["initial-advertise-peer-urls"]}


@pytest.mark.parametrize(
    ("given_dir", "expected"),
    [
        (None, "/var/lib/etcd/nodectl"),
        ("/srv/etcd/", "/srv/etcd"),
        ("C:/etcd/data", "C:/etcd/data"),
        ("C:\\etcd\\my data", "C:/etcd/my data"),
        ("/srv/a: b #c", "/srv/a: b #c"),
    ],
)
def test_the_data_directory_may_be_of_another_system(given_dir: str | None, expected: str) -> None:
    assert load(MemberPlan("pc1", addresses(1), data_dir=given_dir).render())["data-dir"] == expected


@given(name=st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?", fullmatch=True), folder=st.text(max_size=12))
def test_text_stays_text_in_yaml(name: str, folder: str) -> None:
    """A name that YAML would take for a number or a boolean, and any path that MemberPlan accepts."""
    data_dir = f"/{folder}" if folder.isprintable() else "/srv"
    settings = load(MemberPlan(name, {name: "10.0.0.1"}, token=name, data_dir=data_dir).render())
    assert (settings["name"], settings["initial-cluster-token"]) == (name, name)
    assert settings["data-dir"] == str(PurePosixPath(data_dir))
    assert initial(settings) == {name: "http://10.0.0.1:2380"}


@pytest.mark.parametrize("name", ["true", "No", "null", "y", "n", "1", "1e3", "0x1F", "0o17", "1.5", "1_000", "12.30"])
def test_a_name_that_yaml_may_read_as_another_type_is_quoted(name: str) -> None:
    """etcd's reader of YAML knows more numbers than Python's."""
    assert f'\nname: "{name}"\n' in MemberPlan(name, {name: "10.0.0.1"}).render()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_example_is_what_the_documented_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    command = documented("etcd/README.md")[0]
    assert run(command) == 0
    printed = capsys.readouterr()
    assert printed.out == (FOLDER / "example.yaml").read_text(encoding="utf-8")
    assert printed.err == ""


@pytest.mark.parametrize(("page", "count"), [("docs/by-hand.md", 1), ("etcd/README.md", 3)])
def test_every_documented_command_is_accepted(page: str, count: int, tmp_path: Path) -> None:
    commands = documented(page)
    assert len(commands) == count
    for command in commands:
        assert run([str(tmp_path / Path(part).name) if part.startswith("/etc/") else part for part in command]) == 0


def test_other_forms_hold_the_same_settings(capsys: pytest.CaptureFixture[str]) -> None:
    command = arguments("pc1=10.0.0.1", "pc2=10.0.0.2", "pc3=10.0.0.3")
    shown = {}
    for form in ("table", "json", "yaml", "name"):
        assert run([*command, "-o", form]) == 0
        shown[form] = capsys.readouterr().out
    assert load(shown["json"]) == load(shown["yaml"]) == load(shown["table"])
    assert "#" not in shown["yaml"]
    assert shown["name"] == "pc1\n"


def test_every_option_reaches_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    command = arguments("pc1=pc1.lan", "pc2=fd00::2", "pc3=10.0.0.3")
    options = ["--cluster-token", "plant", "--data-dir", "/srv/etcd", "--listen", "10.0.0.1", "--client-port", "4001",
               "--peer-port", "4002", "--tls-dir", "/srv/tls", "--existing"]  # fmt: skip
    assert run([*command, *options, "-o", "json"]) == 0
    settings = load(capsys.readouterr().out)
    assert {name: settings[name] for name in OWN} == {
        "name": "pc1", "data-dir": "/srv/etcd",
        "listen-client-urls": "https://10.0.0.1:4001,https://127.0.0.1:4001",
        "advertise-client-urls": "https://pc1.lan:4001",
        "listen-peer-urls": "https://10.0.0.1:4002",
        "initial-advertise-peer-urls": "https://pc1.lan:4002",
        "initial-cluster": "pc1=https://pc1.lan:4002,pc2=https://[fd00::2]:4002,pc3=https://10.0.0.3:4002",
        "initial-cluster-token": "plant", "initial-cluster-state": "existing",
    }  # fmt: skip
    assert settings["peer-transport-security"]["cert-file"] == "/srv/tls/pc1.crt"


THREE = ("pc1=10.0.0.1", "pc2=10.0.0.2", "pc3=10.0.0.3")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (arguments(*THREE, name="pc9"), "--name 'pc9' is not among the members: pc1, pc2, pc3"),
        (arguments("pc1"), "--member 'pc1' is not NAME=ADDRESS"),
        (arguments("pc1=10.0.0.1", "pc1=10.0.0.2"), "--member pc1 is given twice"),
        (arguments("pc1=10.0.0.1", "pc2=10.0.0.1"), "--member pc2: 10.0.0.1 is already the address of pc1"),
        (arguments("pc1=fd00::1", "pc2=[FD00:0::1]"), "--member pc2: [fd00::1] is already the address of pc1"),
        (arguments("pc1=PC.lan", "pc2=pc.lan"), "--member pc2: pc.lan is already the address of pc1"),
        (arguments("=10.0.0.1"), "member name '' is not allowed"),
        (arguments("a b=10.0.0.1", name="a b"), "member name 'a b' is not allowed"),
        (arguments("pc1="), "--member pc1: '' is not an IP address or a host name"),
        (arguments("pc1=10.0.0.300"), "--member pc1: '10.0.0.300' is not an IP address or a host name"),
        (arguments("pc1=010.0.0.1"), "--member pc1: '010.0.0.1' is not an IP address or a host name"),
        (arguments("pc1=http://10.0.0.1"), "is not an IP address or a host name; --client-port and --peer-port set"),
        (arguments("pc1=10.0.0.1:2380"), "is not an IP address or a host name; --client-port and --peer-port set"),
        (arguments("pc1=10.0.0.1,pc2=10.0.0.2"), "is not an IP address or a host name"),
        (arguments("pc1=pc_1"), "--member pc1: 'pc_1' is not an IP address or a host name"),
        (arguments("pc1=0.0.0.0"), "--member pc1: other members cannot connect to 0.0.0.0"),
        (arguments("pc1=224.0.0.1"), "--member pc1: other members cannot connect to 224.0.0.1"),
        (arguments("pc1=fe80::1%eth0"), "--member pc1: other members cannot connect to fe80::1%eth0"),
        (arguments("pc1=pc1.lan"), "--listen is missing: etcd listens on an IP address only, and pc1 is at pc1.lan"),
        ([*arguments(*THREE), "--listen", "pc1.lan"], "--listen: 'pc1.lan' is not an IP address to listen on"),
        ([*arguments(*THREE), "--listen", "fe80::1"], "--listen: 'fe80::1' is not an IP address to listen on"),
        ([*arguments(*THREE), "--data-dir", "data"], "--data-dir: 'data' is not an absolute path"),
        ([*arguments(*THREE), "--data-dir", "C:data"], "--data-dir: 'C:data' is not an absolute path"),
        ([*arguments(*THREE), "--data-dir", "/a\nb"], "--data-dir: '/a\\nb' is not an absolute path"),
        ([*arguments(*THREE), "--tls-dir", "tls"], "--tls-dir: 'tls' is not an absolute path"),
        ([*arguments(*THREE), "--cluster-token", "a/b"], "cluster-token name 'a/b' is not allowed"),
        ([*arguments(*THREE), "--client-port", "2380"], "--client-port and --peer-port are both 2380"),
        ([*arguments(*THREE), "--client-port", "0"], "'--client-port'"),
        (
            [*arguments("pc1=10.0.0.1"), "--existing"],
            "--existing: pc1 joins other members, so each of them needs a --member too",
        ),
        ([*arguments(*THREE), "--force"], "--force needs --file"),
        (
            arguments(*(f"pc{n}=10.0.0.{n}" for n in range(1, 9))),
            "8 members are given; an etcd cluster for nodectl has",
        ),
        (arguments(), "Missing option '--member'"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(
    command: Sequence[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    first, *more = printed.err.splitlines()
    assert first.startswith("error: ")
    assert complaint in first
    assert all(line.startswith("  see ") for line in more)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (("pc1=10.0.0.1",), []),
        (("pc1=127.0.0.1",), []),
        (THREE, []),
        ((*THREE, "pc4=10.0.0.4"), ["an even number adds no safety: 4 members survive no more failures than 3"]),
        (("pc1=10.0.0.1", "pc2=127.0.0.1", "pc3=10.0.0.3"),
         ["member pc2: other PCs cannot connect to the loopback address 127.0.0.1"]),
    ],
)  # fmt: skip
def test_what_is_probably_not_meant_is_warned_of(
    members: Sequence[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr; the file is printed all the same."""
    assert run(arguments(*members)) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [f"warning: {line}" for line in expected]
    assert len(initial(load(printed.out))) == len(members)


def test_a_file_is_written_once_and_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "etcd.yaml"
    command = [*arguments(*THREE), "--file", str(file)]
    assert run(command) == 0
    assert capsys.readouterr() == ("", f"{file} written: member pc1 of 3\n")
    assert load(file.read_text(encoding="utf-8"))["name"] == "pc1"
    assert run(command) == 0
    assert capsys.readouterr() == ("", f"{file} is up to date\n")
    other = [*arguments(*THREE, name="pc2"), "--file", str(file)]
    assert run(other) == ExitCode.CONFLICT
    assert f"{file} exists and is different; --force replaces it" in capsys.readouterr().err
    assert load(file.read_text(encoding="utf-8"))["name"] == "pc1"
    assert run([*other, "--force", "-o", "name"]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert load(file.read_text(encoding="utf-8"))["name"] == "pc2"
    assert list(tmp_path.iterdir()) == [file]


# --- the service ------------------------------------------------------------------------------------------------------


def test_the_service_limits_memory_as_the_development_cluster_does() -> None:
    unit = (FOLDER / "nodectl-etcd.service").read_text(encoding="utf-8")
    assert ETCD.env == MEMORY_ENVIRONMENT
    for name, value in MEMORY_ENVIRONMENT.items():
        assert f"\nEnvironment={name}={value}\n" in unit
    limits = " ".join(f"{name}={value}" for name, value in MEMORY_ENVIRONMENT.items())
    assert f"AppEnvironmentExtra {limits}" in (FOLDER / "README.md").read_text(encoding="utf-8")


# --- the settings as variables ----------------------------------------------------------------------------------------


def variables(*options: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The variables that a shell reads in what is printed."""
    assert run([*arguments(*THREE), "--environment", *options]) == 0
    script = capsys.readouterr().out
    words = [word for line in script.splitlines() for word in shlex.split(line, comments=True)]
    return dict(word.split("=", 1) for word in words)


def test_variables_hold_what_the_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(*THREE)) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    settings["log-outputs"] = settings["log-outputs"][0]
    expected = {f"ETCD_{name.upper().replace('-', '_')}": str(value) for name, value in settings.items()}
    assert variables(capsys=capsys) == expected


def test_variables_name_the_revocation_lists(capsys: pytest.CaptureFixture[str]) -> None:
    """Only those of `nodectl pki`: a member whose list is missing accepts no connection."""
    directory = '/srv/a "b" c'
    found = variables("--tls-dir", directory, "--peer-certs", capsys=capsys)
    assert found["ETCD_CLIENT_CRL_FILE"] == f"{directory}/ca.crl"
    assert found["ETCD_PEER_CRL_FILE"] == f"{directory}/peer-ca.crl"
    assert found["ETCD_CLIENT_CERT_AUTH"] == found["ETCD_PEER_CLIENT_CERT_AUTH"] == "true"
    assert found["ETCD_PEER_CERT_FILE"] == f"{directory}/pc1-peer.crt"
    other = variables("--tls-dir", directory, capsys=capsys)
    assert not [name for name in other if "CRL" in name]
    assert other["ETCD_PEER_CERT_FILE"] == f"{directory}/pc1.crt"
