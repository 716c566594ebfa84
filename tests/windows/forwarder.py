"""Makes a Windows DLL whose exports are those of other DLLs, under other names. Pure.

Wine 8 has no bcryptprimitives.dll, from which programs written in Rust take random numbers. All that it would do is
done by a function of advapi32.dll, so a DLL without code is enough: headers and one table of exports.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_FILE_ALIGNMENT, _SECTION_ALIGNMENT = 0x200, 0x1000
_BASE = 0x1_8000_0000
_MACHINE_AMD64, _FLAGS_DLL, _PE32_PLUS = 0x8664, 0x2022, 0x20B
_READABLE_DATA = 0x4000_0040
_DIRECTORIES = 16
_HEADER_OFFSET = 0x40


def forwarding_dll(name: str, targets: Mapping[str, str]) -> bytes:
    """The bytes of the DLL `name`. targets: by name of an export, `<module>.<function>` that serves it."""
    table = _exports(name, dict(sorted(targets.items())))
    padded = table + bytes(-len(table) % _FILE_ALIGNMENT)
    dos = b"MZ" + bytes(_HEADER_OFFSET - 6) + struct.pack("<I", _HEADER_OFFSET)
    optional = _optional_header(len(table), len(padded))
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", _MACHINE_AMD64, 1, 0, 0, 0, len(optional), _FLAGS_DLL)
    section = struct.pack(
        "<8sIIIIIIHHI",
        b".edata",
        len(table),
        _SECTION_ALIGNMENT,
        len(padded),
        _FILE_ALIGNMENT,
        0,
        0,
        0,
        0,
        _READABLE_DATA,
    )
    headers = dos + coff + optional + section
    return headers + bytes(_FILE_ALIGNMENT - len(headers)) + padded


def _exports(name: str, targets: Mapping[str, str]) -> bytes:
    """The export directory, its three arrays, and the texts. Addresses count from the start of the image."""
    count, base = len(targets), _SECTION_ALIGNMENT
    functions = base + 40
    names = functions + 4 * count
    ordinals = names + 4 * count
    texts, places = bytearray(), {}
    for text in (name, *targets, *targets.values()):
        places[text] = ordinals + 2 * count + len(texts)
        texts += text.encode("ascii") + b"\0"
    directory = struct.pack("<IIHHIIIIIII", 0, 0, 0, 0, places[name], 1, count, count, functions, names, ordinals)
    # An address inside of the table itself is a forward: the text there names the real function.
    forwards = struct.pack(f"<{count}I", *(places[target] for target in targets.values()))
    exported = struct.pack(f"<{count}I", *(places[export] for export in targets))
    return directory + forwards + exported + struct.pack(f"<{count}H", *range(count)) + bytes(texts)


def _optional_header(table_bytes: int, padded_bytes: int) -> bytes:
    image_bytes = _SECTION_ALIGNMENT + -(-padded_bytes // _SECTION_ALIGNMENT) * _SECTION_ALIGNMENT
    standard = struct.pack("<HBBIIIII", _PE32_PLUS, 1, 0, 0, padded_bytes, 0, 0, 0)
    windows = struct.pack(
        "<QIIHHHHHHIIIIHHQQQQII",
        _BASE, _SECTION_ALIGNMENT, _FILE_ALIGNMENT, 6, 0, 0, 0, 6, 0, 0, image_bytes, _FILE_ALIGNMENT, 0, 2, 0x100,
        1 << 20, 1 << 12, 1 << 20, 1 << 12, 0, _DIRECTORIES,
    )  # fmt: skip
    directories = struct.pack("<II", _SECTION_ALIGNMENT, table_bytes) + bytes(8 * (_DIRECTORIES - 1))
    return standard + windows + directories
