"""A cubin -> what a kernel takes of a multiprocessor, and the instructions of its loops.

Registers, local memory and the constant bank stand in the cubin itself, an ELF file whose `.nv.info` sections
hold attributes; the format is not documented by NVIDIA, but `cuobjdump` and others read it alike. Local memory is
what arrays that did not stay in registers and spilled registers take together: 0 means neither.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

FRAME_SIZE, REGISTER_COUNT = 0x11, 0x2F  # attributes: bytes of local memory, registers of a thread
WITH_VALUE = 4  # format of an attribute that has a length and bytes of its own
OPCODE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);", re.MULTILINE)
TARGET = re.compile(r"`\(([.\w]+)\)|(0x[0-9a-f]+)")


@dataclass(frozen=True)
class Resources:
    """What one thread (registers, local memory) or one block (shared memory) takes; bytes but for registers."""

    registers: int
    local_bytes: int
    shared_bytes: int
    constant_bytes: int


def sections(binary: bytes) -> dict[str, bytes]:
    """Sections by name; one without contents in the file is as many zeros."""
    (table,) = struct.unpack_from("<Q", binary, 0x28)
    size, count, names = struct.unpack_from("<HHH", binary, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", binary, table + size * k) for k in range(count)]
    begin = headers[names][4]
    found = {}
    for name, kind, _, _, offset, length, *_ in headers:
        at = begin + name
        label = binary[at : binary.index(b"\0", at)].decode()
        found[label] = bytes(length) if kind == 8 else binary[offset : offset + length]
    return found


def _attributes(info: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        length = size if form == WITH_VALUE else 0
        yield attribute, info[at + 4 : at + 4 + length]
        at += 4 + length


def resources(binary: bytes, kernel: str) -> Resources:
    """Of one kernel of a cubin."""
    found = sections(binary)
    symbols, names = found[".symtab"], found[".strtab"]
    values = {FRAME_SIZE: 0, REGISTER_COUNT: 0}
    for attribute, value in _attributes(found[".nv.info"]):
        if attribute in values:
            symbol, number = struct.unpack("<II", value)
            (name,) = struct.unpack_from("<I", symbols, 24 * symbol)
            if names[name : names.index(b"\0", name)].decode() == kernel:
                values[attribute] = number
    return Resources(
        values[REGISTER_COUNT],
        values[FRAME_SIZE],
        len(found.get(f".nv.shared.{kernel}", b"")),
        len(found[f".nv.constant0.{kernel}"]),
    )


def disassembler() -> str | None:
    """`nvdisasm`, which the CUDA toolkit and the package nvidia-cuda-nvdisasm have."""
    return os.environ.get("NVDISASM") or shutil.which("nvdisasm")


def instructions(binary: bytes, kernel: str) -> list[tuple[int, str, str]]:
    """(address, operation, operands) of a kernel."""
    program = disassembler()
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary + b"\0")  # CuPy cuts the last byte off
        file.flush()
        command = [program, "-c", "-ndf", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    part = text[text.index(f".text.{kernel}:") :]
    part = part[: part.find("\n//-----") if "\n//-----" in part else None]
    labels = {}
    found: list[tuple[int, str, str]] = []
    for line in part.splitlines():
        if line.startswith(".L"):
            labels[line.strip().rstrip(":")] = found[-1][0] + 16 if found else 0
        elif match := OPCODE.match(line):
            found.append((int(match[1], 16), match[2], match[3]))

    def resolved(operands: str) -> str:
        match = TARGET.search(operands)
        return str(labels[match[1]]) if match and match[1] in labels else operands

    return [(at, name, resolved(text) if name.startswith("BRA") else text) for at, name, text in found]


def loops(listing: list[tuple[int, str, str]]) -> list[list[str]]:
    """The operations of each innermost loop, in the order of the text."""
    ranges = []
    for at, name, operands in listing:
        if name.startswith("BRA") and operands.strip().isdigit() and int(operands) < at:
            ranges.append((int(operands), at))
    inner = [r for r in ranges if not any(o != r and r[0] <= o[0] and o[1] <= r[1] for o in ranges)]
    return [[name for at, name, _ in listing if begin <= at <= end] for begin, end in inner]


def kinds(operations: list[str]) -> Counter[str]:
    """Operations without their modifiers, but for the width of what shared memory is read by."""
    return Counter(
        name if name.startswith("LDS") else name.partition(".")[0] for name in operations if name != "NOP"
    )
