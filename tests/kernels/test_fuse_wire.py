"""Our definitions of the FUSE protocol against the system's header, as far as that goes: same numbers, same offsets."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import cairnfs.ext
from cairnfs.ext.fuse_table import OPCODES

EXT = Path(cairnfs.ext.__file__).parent
SYSTEM = Path("/usr/include/linux/fuse.h")

OTHERWISE = {"fw_statfs_out": "fuse_kstatfs", "fw_lk_out": "fuse_file_lock"}  # what the system's header calls them


def ours(name: str) -> str:
    return (EXT / name).read_text()


def fields() -> list[tuple[str, str, int]]:
    """(structure, field, offset by our comment) of every message."""
    found = []
    for name, body in re.findall(r"^struct (fw_\w+) \{.*?\n(.*?)^\};", ours("fuse_wire.h"), re.S | re.M):
        for field, offset in re.findall(r"(\w+)(?:\[\d+\])?;\s*/\*\s*(\d+)", body):
            found.append((name, field, int(offset)))
    return found


def compile_asserts(lines: list[str], tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "asserts.c"
    source.write_text("#include <stddef.h>\n" + "\n".join(lines) + "\n")
    done = subprocess.run([compiler, "-std=gnu11", f"-I{EXT}", "-fsyntax-only", str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_offsets_are_those_of_the_comments(tmp_path: Path) -> None:
    found = fields()
    assert len(found) > 200, "the comments are not read any more"
    asserts = [f'_Static_assert(offsetof(struct {s}, {f}) == {at}, "{s}.{f}");' for s, f, at in found]
    compile_asserts(['#include "fuse_wire.h"', *asserts], tmp_path)


@pytest.mark.skipif(not SYSTEM.exists(), reason="no linux/fuse.h")
def test_messages_and_numbers_are_those_of_the_system(tmp_path: Path) -> None:
    theirs = SYSTEM.read_text()
    lines = ["#include <linux/fuse.h>", '#include "fuse_wire.h"']
    for struct, field, _ in fields():
        name = OTHERWISE.get(struct, "fuse_" + struct.removeprefix("fw_"))
        body = re.search(rf"^struct {name} \{{(.*?)^\}};", theirs, re.S | re.M)
        if field != "unused" and body and re.search(rf"\b{field}\b(\[\w+\])?;", body[1]):
            lines.append(
                f'_Static_assert(offsetof(struct {struct}, {field}) == offsetof(struct {name}, {field}), "{struct}.{field}");'
            )
    n_offsets = len(lines)
    for name in re.findall(r"\b(FW_[A-Z0-9_]+)\b", ours("fuse_wire_codes.h")):
        plain = name.removeprefix("FW_")
        known = {"CAP_": "FUSE_", "SET_": "FATTR_", "FOPEN_": "FOPEN_"}
        prefix = next((p for p in known if plain.startswith(p)), "")
        other = known.get(prefix, "FUSE_") + plain.removeprefix(prefix)
        if re.search(rf"\b{other}\b\s*(=|\d|\()", theirs):
            lines.append(f'_Static_assert({name} == {other}, "{name}");')
    assert n_offsets > 150 and len(lines) - n_offsets > 80, "too little is compared"
    compile_asserts(lines, tmp_path)


def test_python_knows_every_opcode_by_its_name() -> None:
    enum = re.search(r"enum fw_opcode \{(.*?)\};", ours("fuse_wire_codes.h"), re.S)
    assert enum
    numbers = {int(number): name for name, number in re.findall(r"FW_(\w+) = (\d+)", enum[1]) if name != "N_OPCODES"}
    assert {number: name for number, (name, _) in OPCODES.items()} == numbers


def test_cython_declares_every_message_and_number() -> None:
    declared = ours("fuse_wire.pxd")
    for name in {*re.findall(r"\b(FW_[A-Z0-9_]+) (?:=|\()", ours("fuse_wire_codes.h")), *(s for s, _, _ in fields())}:
        if name not in ("fw_in_header", "fw_out_header"):  # these are declared where they are used
            assert re.search(rf"\b{name}\b", declared), name
