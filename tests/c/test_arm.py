"""The same bits on Arm: one C program checks every kernel set, here and, cross-compiled, on an emulated Arm processor; and
the whole engine built for Arm says what it says here."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import edge_gemma as eg
from support.c_build import CROSS, DATA, QEMU, build, run
from support.paths import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import model_arm


def checksums(output: str) -> dict[str, dict[str, str]]:
    """Set -> kernel -> checksum."""
    found: dict[str, dict[str, str]] = {}
    for line in output.splitlines():
        name, rest = line.split(" ", 1)
        kernel, value = rest.rsplit(" ", 1)
        found.setdefault(name, {})[kernel] = value
    return found


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What this machine prints."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    return checksums(run(build(compiler, "kernel_check.c", tmp_path_factory.mktemp("native"))))


def test_sets_agree_here(native: dict[str, dict[str, str]]) -> None:
    """Every set of this machine gives the scalar set's bits."""
    assert len(native["scalar"]) == 26 + 3 + 3 * 4 + 3 + 5 + 4
    for name, values in native.items():
        assert values == native["scalar"], name


@pytest.mark.skipif(not (CROSS and QEMU), reason="no Arm cross compiler, or no qemu-aarch64-static")
def test_sets_agree_on_arm(native: dict[str, dict[str, str]], tmp_path: Path) -> None:
    """So do Arm's."""
    assert CROSS and QEMU
    arm = checksums(run(QEMU, "-cpu", "max", build(CROSS, "kernel_check.c", tmp_path, "-static")))
    assert set(arm) == {"scalar", "neon_dotprod", "neon_i8mm"}
    for name, values in arm.items():
        assert values == native["scalar"], name


@pytest.mark.skipif(not (CROSS and QEMU), reason="no Arm cross compiler, or no qemu-aarch64-static")
def test_choice_on_arm(tmp_path: Path) -> None:
    """The best set that a processor has, or a lesser one by name; never one that it lacks."""
    assert CROSS and QEMU
    program = build(CROSS, "chosen_set.c", tmp_path, "-static")

    def chosen(cpu: str, wanted: str = "") -> str:
        return run(QEMU, "-cpu", cpu, "-E", f"EDGE_GEMMA_ISA={wanted}", program).strip()

    assert chosen("max") == "scalar neon_dotprod neon_i8mm: neon_i8mm"
    assert chosen("max", "neon_dotprod") == "scalar neon_dotprod neon_i8mm: neon_dotprod"
    assert chosen("max", "scalar") == "scalar neon_dotprod neon_i8mm: scalar"
    assert chosen("cortex-a76") == "scalar neon_dotprod: neon_dotprod"
    assert chosen("cortex-a76", "neon_i8mm") == "scalar neon_dotprod: neon_dotprod"
    assert chosen("cortex-a53", "neon_dotprod") == "scalar: scalar"


@pytest.mark.skipif(not (CROSS and QEMU), reason="no Arm cross compiler, or no qemu-aarch64-static")
def test_a_model_on_arm(tmp_path: Path) -> None:
    """The C program of the embedding test, on Arm: the same tokens as Python's here."""
    assert CROSS and QEMU
    path = DATA / "dense-Q4_0.gguf"
    program = build(CROSS, "use_c.c", tmp_path, "-static")
    here = run(build(shutil.which("gcc") or "cc", "use_c.c", tmp_path), path)
    for cpu, name in (("max", "neon_i8mm"), ("cortex-a76", "neon_dotprod")):
        assert run(QEMU, "-cpu", cpu, program, path).replace(name, eg.isa) == here


@pytest.mark.skipif(not (CROSS and QEMU), reason="no Arm cross compiler, or no qemu-aarch64-static")
def test_a_batch_on_arm(tmp_path: Path) -> None:
    """Several sessions in one pass are each alone there too, with the tokens of this machine."""
    assert CROSS and QEMU
    program = build(CROSS, "use_batch.c", tmp_path, "-static")
    here = build(shutil.which("gcc") or "cc", "use_batch.c", tmp_path)
    for path, cpu in ((DATA / "e2b-Q4_0.gguf", "max"), (DATA / "moe-Q4_0.gguf", "cortex-a76")):
        assert run(QEMU, "-cpu", cpu, program, path) == run(here, path)


@pytest.mark.skipif(not (CROSS and QEMU), reason="no Arm cross compiler, or no qemu-aarch64-static")
def test_audio_on_arm(tmp_path: Path) -> None:
    """The same soft tokens, bit for bit, and the same answers to them."""
    assert CROSS and QEMU
    files = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"
    output = run(QEMU, "-cpu", "max", build(CROSS, "use_audio.c", tmp_path, "-static"), *files)
    assert output == run(build(shutil.which("gcc") or "cc", "use_audio.c", tmp_path), *files)
    assert "embeddings 31 " in output


@pytest.mark.skipif(not (CROSS and QEMU), reason="no Arm cross compiler, or no qemu-aarch64-static")
def test_pictures_on_arm(tmp_path: Path) -> None:
    """The same soft tokens of pictures, bit for bit, and the same logits after them."""
    assert CROSS and QEMU
    program = build(CROSS, "use_image.c", tmp_path, "-static")
    here = build(shutil.which("gcc") or "cc", "use_image.c", tmp_path)
    for name, cpu in (("e2b", "max"), ("moe", "cortex-a76")):
        files = DATA / f"{name}-Q4_0.gguf", DATA / f"vision-{name}.gguf"
        output = run(QEMU, "-cpu", cpu, program, *files)
        assert output == run(here, *files)
        assert "embeddings 60 " in output


@pytest.mark.skipif(not CROSS, reason="no Arm cross compiler")
@pytest.mark.parametrize("name, march", [(name, march) for name, march, _ in model_arm.SETS])
def test_the_model_of_the_loops_finds_them(name: str, march: str, tmp_path: Path) -> None:
    """tools/model_arm.py cuts loops out of what the compiler makes: it has to notice when these are no longer what it takes
    them for. That is checked here; the model itself wants llvm-mca."""
    assert CROSS
    assembly = model_arm.compile_set(CROSS, name, march, tmp_path)
    for kind in model_arm.TYPES:
        for found, trips in (
            model_arm.along_blocks(assembly, kind, 1),
            model_arm.along_blocks(assembly, kind, 2),
            model_arm.unpack_blocks(assembly, kind),
        ):
            assert len(found) == len(trips) > 0
        assert model_arm.products(model_arm.product_loop(assembly, kind).lines)
