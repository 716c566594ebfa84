"""What programs print and how they end, as text for people, on each system."""

from __future__ import annotations

import pytest

from noded.drivers.support.output import decode_output, describe_exit_code, last_line
from noded.settings import split_as_windows

WINDOWS = ("cp850", "cp1252")


@pytest.mark.parametrize(
    ("raw", "pages", "text"),
    [
        (b"one\r\ntwo\r\n", WINDOWS, "one\ntwo\n"),
        (b"10 %\r20 %\r", (), "10 %\n20 %\n"),
        ("Küche ✗".encode(), WINDOWS, "Küche ✗"),
        ("Zugriff verweigert: Gerät".encode("cp850"), WINDOWS, "Zugriff verweigert: Gerät"),
        ("Gerät für Öl".encode("cp1252"), WINDOWS, "Gerät für Öl"),
        ("файл не найден".encode("cp866"), ("cp866", "cp1251"), "файл не найден"),
        ("✗ no display".encode()[1:], WINDOWS, " no display"),
        (b"\xff", (), "\ufffd"),
        (b"", WINDOWS, ""),
    ],
)
def test_output_is_decoded(raw: bytes, pages: tuple[str, ...], text: str) -> None:
    """UTF-8 if it is that, else the code page of Windows that yields letters; line ends become newlines."""
    assert decode_output(raw, pages) == text


def test_the_last_line_of_windows_is_not_empty() -> None:
    """A carriage return does not count as text."""
    assert last_line(b"no display\r\n\r\n") == "no display"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3, "exited with code 3"),
        (-9, "was ended by SIGKILL"),
        (3221225477, "exited with code 0xC0000005 (access violation)"),
        (0xC0000999, "exited with code 0xC0000999"),
        (0x80000003, "exited with code 0x80000003"),
    ],
)
def test_exit_codes(code: int, text: str) -> None:
    """An exception of Windows is shown in the form that its documents use."""
    assert describe_exit_code(code) == text


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('cmd /c"C:\\a b\\x"', ["cmd", "/cC:\\a b\\x"]),
        ('"C:\\Program Files\\x.exe"  /r\t/t 0 ', ["C:\\Program Files\\x.exe", "/r", "/t", "0"]),
        ("shutdown /r", ["shutdown", "/r"]),
        (r'a "b \"c\" d" e', ["a", 'b "c" d', "e"]),
        (r'a "C:\dir\\" b', ["a", "C:\\dir\\", "b"]),
        (r"C:\a\ b", ["C:\\a\\", "b"]),
        ('a "" b', ["a", "", "b"]),
        ("", []),
    ],
)
def test_a_command_line_of_windows(line: str, parts: list[str]) -> None:
    """It is split as the programs of Windows split it."""
    assert split_as_windows(line) == parts
