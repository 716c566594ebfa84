"""Finding and getting etcd: the rules as tables, the sources with fakes, nothing over the network."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from nodectl.etcd_binary import debian, find
from nodectl.etcd_binary import release as etcd_release
from nodectl.etcd_binary.debian import DEBIAN, UBUNTU, PackageSource
from nodectl.etcd_binary.release import Release
from nodestore.errors import Invalid, NodectlError, Unavailable
from nodestore.etcd.versions import Version, parse_version, why_too_old

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="the fake etcd is a shell script")
V30 = Version(3, 5, 30)


# --- versions and releases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("etcd Version: 3.5.30\nGit SHA: Not provided\nGo Version: go1.24\n", V30),
        ("warning: something\netcd Version: 3.6.14\n", (3, 6, 14)),
        ("3.5.30-2", V30),
        ("v3.5.30", V30),
        ("3.5.30-package", V30),
        ("3.6.0-rc.1", (3, 6, 0)),
        ("bash: etcd: command not found", None),
        ("go 1.24.1", None),
        ("", None),
    ],
)
def test_versions_are_read(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("system", "machine", "asked", "path"),
    [
        ("Linux", "x86_64", None, "v3.5.33/etcd-v3.5.33-linux-amd64.tar.gz"),
        ("Linux", "aarch64", None, "v3.5.33/etcd-v3.5.33-linux-arm64.tar.gz"),
        ("Linux", "x86_64", (3, 6, 14), "v3.6.14/etcd-v3.6.14-linux-amd64.tar.gz"),
        ("Windows", "AMD64", None, "v3.5.30/etcd-v3.5.30-windows-amd64.zip"),
        ("Windows", "AMD64", (3, 6, 14), None),
        ("Linux", "armv7l", None, None),
        ("Darwin", "arm64", None, None),
    ],
)
def test_the_release_fits_the_machine(
    system: str, machine: str, asked: tuple[int, int, int] | None, path: str | None
) -> None:
    release = etcd_release.choose_release(system, machine, Version(*asked) if asked else None)
    assert (release.path if release else None) == path


def test_every_pinned_release_is_good_enough_and_pinned_properly() -> None:
    for release in etcd_release.RELEASES:
        assert why_too_old(release.version) is None
        assert len(bytes.fromhex(release.sha256)) == 32


# --- the distribution's packages, pure part -------------------------------------------------------------------------

DEB822 = """\
Types: deb
# http://snapshot.example.org/debian/20250520T000000Z
URIs: http://deb.example.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.example.org/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://src.example.org/debian
Suites: bookworm
Components: main

Types: deb deb-src
URIs: http://a.example.org/x
 http://b.example.org/x
Suites: bookworm
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 URIs: http://not.a/field
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_deb822_sources_are_read() -> None:
    assert debian.parse_sources(DEB822) == [
        PackageSource("http://deb.example.org/debian", "bookworm", ("main",)),
        PackageSource("http://deb.example.org/debian", "bookworm-updates", ("main",)),
        PackageSource("http://deb.example.org/debian-security", "bookworm-security", ("main",)),
        PackageSource("http://a.example.org/x", "bookworm", ("main", "contrib")),
        PackageSource("http://b.example.org/x", "bookworm", ("main", "contrib")),
    ]


def test_one_line_sources_are_read() -> None:
    text = """
    # deb http://commented.example.org/debian bookworm main
    deb http://deb.example.org/debian bookworm main contrib  # the usual one
    deb-src http://deb.example.org/debian bookworm main
    deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://x.example.org/y bookworm stable
    deb [ trusted=yes ] file:///srv/flat ./
    deb malformed
    """
    assert debian.parse_list(text) == [
        PackageSource("http://deb.example.org/debian", "bookworm", ("main", "contrib")),
        PackageSource("https://x.example.org/y", "bookworm", ("stable",)),
        PackageSource("file:///srv/flat", "./", ()),
    ]


def test_mirrors_are_the_distributions_own() -> None:
    sources = [
        PackageSource("http://security.example.org/debian-security", "bookworm", ("main",)),
        PackageSource("https://third.example.org/debian", "bookworm", ("stable",)),
        PackageSource("https://pg.example.org/apt", "bookworm-pgdg", ("main",)),
        PackageSource("http://deb.example.org/debian", "bookworm-updates", ("main",)),
        PackageSource("http://deb.example.org/debian", "bookworm", ("main",)),
        PackageSource("http://deb.example.org/debian", "bookworm", ("main",)),
        PackageSource("mirror+file:/etc/apt/mirrors/debian.list", "stable", ("main",)),
    ]
    assert debian.mirrors(sources, "bookworm") == [
        "http://deb.example.org/debian",
        "mirror+file:/etc/apt/mirrors/debian.list",
    ]


@pytest.mark.parametrize(
    ("text", "distribution", "codename"),
    [
        ('ID=debian\nVERSION_CODENAME="bookworm"\n', DEBIAN, "bookworm"),
        ("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble", UBUNTU, "noble"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble', UBUNTU, "noble"),
        ("ID=raspbian\nID_LIKE=debian\nVERSION_CODENAME=trixie", DEBIAN, "trixie"),
        ("# a comment\nID=debian\nPRETTY_NAME='Debian sid'", DEBIAN, ""),
        ("ID=fedora", None, ""),
        ("", None, ""),
    ],
)
def test_the_distribution_is_known_by_os_release(
    text: str, distribution: debian.Distribution | None, codename: str
) -> None:
    release = debian.parse_os_release(text)
    assert debian.distribution(release) is distribution
    assert debian.codename(release) == codename


@pytest.mark.parametrize(
    ("distribution", "own", "suites"),
    [
        (DEBIAN, "bookworm", ["trixie-backports", "forky", "testing", "sid"]),
        (DEBIAN, "forky", ["forky", "trixie-backports", "testing", "sid"]),
        (DEBIAN, "duke", ["duke", "trixie-backports", "forky", "testing", "sid"]),
        (DEBIAN, "", ["trixie-backports", "forky", "testing", "sid"]),
        (UBUNTU, "noble", ["devel"]),
        (UBUNTU, "resolute", ["resolute", "devel"]),
    ],
)
def test_suites_are_asked_from_the_machines_own_to_the_newest(
    distribution: debian.Distribution, own: str, suites: list[str]
) -> None:
    assert debian.suites(distribution, own) == suites


def test_the_versions_a_suite_has_are_read() -> None:
    madison = """\
etcd-server |   3.5.16-4 | http://deb.example.org/debian trixie/main amd64 Packages
etcd-server | 3.5.30-2 | http://deb.example.org/debian forky/main amd64 Packages
N: something else
"""
    assert debian.available_versions(madison) == [V30, Version(3, 5, 16)]
    assert debian.available_versions("N: Unable to locate package etcd-server\n") == []


# --- archives from a mirror -----------------------------------------------------------------------------------------


def script(version: str) -> bytes:
    """An etcd that only knows its version."""
    return f"#!/bin/sh\necho 'etcd Version: {version}'\n".encode()


def install(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "etcd").write_bytes(content)
    (folder / "etcd").chmod(0o755)
    return folder


def archive(*entries: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def publish(mirror: Path, content: bytes, *, sha256: str | None = None) -> Release:
    """Puts an archive on a mirror; the release that pins it."""
    release = Release(V30, "linux", "amd64", sha256 or hashlib.sha256(content).hexdigest())
    path = mirror / release.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return release


def test_only_the_programs_are_taken_out_of_an_archive(tmp_path: Path) -> None:
    """Whatever paths it holds, nothing is written outside the folder."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    content = archive(
        ("etcd-v3.5.30/etcd", b"E"), ("../../etcdctl", b"C"), ("../../evil", b"X"), ("etcd-v3.5.30/README.md", b"R")
    )
    etcd_release.fetch(publish(tmp_path / "mirror", content), (tmp_path / "mirror").as_uri(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"etcd": b"E", "etcdctl": b"C"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "mirror"]


def test_an_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    release = publish(tmp_path / "mirror", archive(("etcd", script("3.5.30"))), sha256="00" * 32)
    with pytest.raises(NodectlError, match="corrupt: its SHA-256"):
        etcd_release.fetch(release, (tmp_path / "mirror").as_uri(), folder)
    assert list(folder.iterdir()) == []


def test_an_archive_that_was_cut_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    cut = archive(("etcd", bytes(range(256)) * 100))[:-200]
    with pytest.raises(NodectlError, match="corrupt"):
        etcd_release.fetch(publish(tmp_path / "mirror", cut), (tmp_path / "mirror").as_uri(), folder)


@pytest.mark.parametrize("url", ["file:///no/such/mirror", "http://127.0.0.1:1", "nonsense"])
def test_a_mirror_that_cannot_be_reached_is_unavailable(url: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        etcd_release.fetch(Release(V30, "linux", "amd64", "00" * 32), url, tmp_path)


def test_a_mirror_may_be_a_web_server(tmp_path: Path) -> None:
    release = publish(tmp_path / "mirror", archive(("etcd-v3.5.30/etcd", b"E")))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            etcd_release.fetch(release, url, tmp_path)
            with pytest.raises(Unavailable, match="404"):
                etcd_release.fetch(release, f"{url}/elsewhere", tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert (tmp_path / "etcd").read_bytes() == b"E"


# --- the whole search -----------------------------------------------------------------------------------------------


class Machine:
    """A machine with nothing on it: no PATH, an empty cache, a dead mirror, no packages."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.said: list[str] = []
        self._patch = monkeypatch
        for name in ("NODECTL_ETCD_DIR", "NODECTL_ALLOW_OLD_ETCD", "NODECTL_ETCD_VERSION"):
            monkeypatch.delenv(name, raising=False)
        self.set(PATH=folder / "bin", NODECTL_CACHE_DIR=self.cache, NODECTL_ETCD_MIRROR=(folder / "mirror").as_uri())
        monkeypatch.setattr("platform.system", lambda: "Linux")
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        monkeypatch.setattr(debian, "os_release", lambda: {"ID": "none"})  # private: it reads a file of this machine

    def set(self, **environ: str | Path) -> None:
        for name, value in environ.items():
            self._patch.setenv(name, str(value))

    def publish(self, version: str, *, sha256: str | None = None) -> None:
        release = publish(self.folder / "mirror", archive(("etcd-v3.5.30/etcd", script(version))), sha256=sha256)
        self._patch.setattr(etcd_release, "RELEASES", (release,))

    def find(self) -> find.EtcdBinary:
        return find.find_etcd(self.said.append)

    def fails(self) -> str:
        with pytest.raises(Unavailable) as caught:
            self.find()
        return caught.value.message


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_nothing_to_be_had_is_one_error_that_says_what_was_tried_and_what_to_do(machine: Machine) -> None:
    message = machine.fails()
    for words in ("PATH: there is no etcd", "cache: nothing in", "release: file:///",
                  "packages: this PC does not run Debian", "NODECTL_ETCD_DIR", "NODECTL_ETCD_MIRROR",
                  "3.5.30 or newer"):  # fmt: skip
        assert words in message


@POSIX
def test_the_named_directory_comes_first(machine: Machine) -> None:
    install(machine.folder / "bin", script("3.5.33"))
    named = install(machine.folder / "named", script("3.6.14"))
    (named / "etcdctl").touch()
    machine.set(NODECTL_ETCD_DIR=named)
    found = machine.find()
    assert (found.server, found.ctl, found.utl) == (named / "etcd", named / "etcdctl", None)
    assert found.version == (3, 6, 14)
    assert "NODECTL_ETCD_DIR" in found.source


@POSIX
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (script("3.5.1"), "too old.*corrupt data"),
        (b"#!/bin/sh\necho 'no disk' >&2; exit 3\n", "does not print its version: no disk"),
        (b"\x7fELF, but cut off", "does not run"),
        (None, "there is no etcd"),
    ],
)
def test_a_named_directory_that_will_not_do_is_an_error_at_once(
    machine: Machine, content: bytes | None, reason: str
) -> None:
    """A directory that was named explicitly is not replaced by another etcd."""
    install(machine.folder / "bin", script("3.5.33"))
    machine.set(NODECTL_ETCD_DIR=install(machine.folder / "named", content) if content else machine.folder / "empty")
    with pytest.raises(Unavailable, match=reason):
        machine.find()


@POSIX
def test_an_old_etcd_in_path_is_passed_over_and_mentioned(machine: Machine) -> None:
    install(machine.folder / "bin", script("3.5.16"))
    machine.publish("3.5.30")
    assert machine.find().version == V30
    assert any("PATH" in line and "3.5.16 is too old" in line for line in machine.said)


@POSIX
def test_an_old_etcd_is_taken_when_a_test_asks_for_it(machine: Machine) -> None:
    install(machine.folder / "bin", script("3.5.1"))
    machine.set(NODECTL_ALLOW_OLD_ETCD="1")
    assert machine.find().version == (3, 5, 1)


@POSIX
def test_a_version_that_is_asked_for_is_the_only_one_taken(machine: Machine) -> None:
    install(machine.folder / "bin", script("3.5.33"))
    machine.publish("3.5.30")
    machine.set(NODECTL_ETCD_VERSION="3.5.30")
    assert machine.find().version == V30
    machine.set(NODECTL_ETCD_VERSION="3.6.14")
    assert "is not version 3.6.14, which NODECTL_ETCD_VERSION requires" in machine.fails()
    machine.set(NODECTL_ETCD_VERSION="newest")
    with pytest.raises(Invalid, match="newest is not a version such as"):
        machine.find()


@POSIX
def test_a_release_is_fetched_once_and_then_cached(machine: Machine) -> None:
    machine.publish("3.5.30")
    first = machine.find()
    assert first.source == (machine.folder / "mirror").as_uri()
    machine.set(NODECTL_ETCD_MIRROR="file:///gone")
    second = machine.find()
    assert second.server == first.server
    assert second.source.startswith("cache")
    assert [path.name for path in (machine.cache / "etcd").iterdir()] == ["3.5.30-linux-amd64"]


@POSIX
def test_a_corrupt_archive_is_not_installed(machine: Machine) -> None:
    machine.publish("3.5.30", sha256="00" * 32)
    assert "is corrupt" in machine.fails()
    assert list((machine.cache / "etcd").iterdir()) == []


@POSIX
def test_a_fetched_etcd_that_is_too_old_is_not_installed(machine: Machine) -> None:
    machine.publish("3.5.1")
    assert "too old" in machine.fails()
    assert list((machine.cache / "etcd").iterdir()) == []


@POSIX
def test_a_broken_cache_is_replaced(machine: Machine) -> None:
    install(machine.cache / "etcd" / "3.5.30-linux-amd64", b"\x7fELF, but cut off")
    machine.publish("3.5.30")
    assert machine.find().version == V30
    assert [path.name for path in (machine.cache / "etcd").iterdir()] == ["3.5.30-linux-amd64"]


FETCH = """
import platform, sys
from nodectl.etcd_binary import find as etcd_binary; from nodectl.etcd_binary import release as etcd_release
platform.system, platform.machine = lambda: "Linux", lambda: "x86_64"
etcd_release.RELEASES = (etcd_release.Release(etcd_release.Version(3, 5, 30), "linux", "amd64", sys.argv[1]),)
print("ready", flush=True)
input()
print(etcd_binary.find_etcd().server)
"""


@POSIX
def test_two_that_fetch_at_once_both_end_with_the_same_etcd(machine: Machine) -> None:
    machine.publish("3.5.30")
    command = [sys.executable, "-c", FETCH, etcd_release.RELEASES[0].sha256]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in both]
    assert said == [f"{machine.cache}/etcd/3.5.30-linux-amd64/etcd\n"] * 2
    assert [path.name for path in (machine.cache / "etcd").iterdir()] == ["3.5.30-linux-amd64"]


def test_a_cache_that_cannot_be_written_says_what_to_do(machine: Machine) -> None:
    machine.publish("3.5.30")
    machine.cache.write_text("a file in the way")
    assert "name another folder in NODECTL_CACHE_DIR" in machine.fails()


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"NODECTL_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/nodectl")),
        ({}, Path.home() / ".cache" / "nodectl"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="XDG")
def test_the_cache_is_where_the_system_keeps_caches(environ: dict[str, str], folder: Path) -> None:
    assert find.cache_folder(environ) == folder


@POSIX
def test_the_module_prints_where_etcd_is(machine: Machine) -> None:
    """stdout holds the folder alone, so a script may use it."""
    named = install(machine.folder / "named", script("3.5.30"))
    machine.set(NODECTL_ETCD_DIR=named)
    done = subprocess.run(
        [sys.executable, "-m", "nodectl.etcd_binary.find"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{named}\n")
    assert "3.5.30 from NODECTL_ETCD_DIR" in done.stderr
    machine.set(NODECTL_ETCD_DIR=machine.folder / "nothing")
    done = subprocess.run(
        [sys.executable, "-m", "nodectl.etcd_binary.find"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert "there is no etcd" in done.stderr
    assert "Traceback" not in done.stderr
