"""Models the inner loops of the Arm kernels with llvm-mca: the cycles that a core needs if memory is not the limit.

usage: python tools/model_arm.py [--cc COMPILER] [--mca LLVM-MCA] [--keep FOLDER]

Compiles csrc/kernels/SET.c with additional functions for one tile each, extracts their loops from the assembly, and adds up
llvm-mca's cycles of every loop, times the number of its iterations. The result is a model, not a measurement: it includes
the ports and latencies of a core as LLVM describes them, but no caches and no memory. llvm-mca has no description of
Cortex-A76, so Neoverse N1, the same design for servers, takes its place.

The table has cycles for 32 weights of a row: multiplied with one token and with one of two tokens, along the rows; unpacked
into a tile; and multiplied with one of four tokens by the tile. The share is that of the products that the core would
compute if it executed nothing but dot products.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"
# Set, the compiler's name for its instructions, and the cores to model.
SETS = [
    ("neon_dotprod", "armv8.2-a+dotprod", ["neoverse-n1", "neoverse-v2"]),
    ("neon_i8mm", "armv8.2-a+dotprod+i8mm", ["neoverse-v2"]),
]
TOKENS = 4  # tokens of a prompt that are multiplied at a time


@dataclass(frozen=True)
class Type:
    """A weight type with the constants of tiles.inc.

    `trips` are the iterations of the loops over a block, from the outer to the inner one; inner loops may be unrolled.
    `prefetches` is the number of prefetch instructions that unpack a block, which checks that the loops were found.
    """

    name: str
    block: int
    group: int
    has_min: bool
    i16_run: int
    trips: tuple[int, ...]
    prefetches: int


TYPES = [
    Type("q4_0", 32, 32, False, 8, (1,), 5),
    Type("q8_0", 32, 32, False, 0, (1,), 9),
    Type("q4_k", 256, 32, True, 8, (1, 4), 36),
    Type("q6_k", 256, 16, False, 2, (1, 2), 54),
]


@dataclass
class Loop:
    """A loop: its instructions without those of inner loops, and the inner loops."""

    lines: list[str] = field(default_factory=list)
    inner: list[Loop] = field(default_factory=list)


def wrapper(name: str) -> str:
    """C code: the set's file, and for each type a function that multiplies a tile with some tokens."""
    text = [f'#include "kernels/{name}.c"']
    for kind in TYPES:
        constants = f"1, {TOKENS}, {kind.group}, {str(kind.has_min).lower()}, {kind.i16_run}, false"
        text.append(
            f"void multiply_{kind.name}(const tile_args *args, float *y, int64_t ldy)\n"
            f"{{\n    multiply_tokens(args, 0, {constants}, y, ldy);\n}}"
        )
    return "\n".join(text) + "\n"


def body(assembly: str, function: str) -> list[str]:
    """The lines of a function: instructions and labels."""
    found = re.search(rf"^{function}:\n(.*?)^\s+\.size\s+{function},", assembly, flags=re.S | re.M)
    if not found:
        sys.exit(f"the assembly has no function {function}: it may have been renamed, or inlined everywhere.")
    lines = [line.split("//")[0].rstrip() for line in found[1].splitlines()]
    return [line for line in lines if line.strip() and not re.match(r"\s+\.", line)]


def loops(lines: list[str]) -> Loop:
    """The tree of loops. A loop lies between a label and the last branch back to it."""
    labels = {line[:-1]: at for at, line in enumerate(lines) if line.endswith(":")}
    ends: dict[int, int] = {}
    for at, line in enumerate(lines):
        target = re.match(r"\s+(?:b\.?\w*|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
        if target and labels[target[1]] < at:
            ends[labels[target[1]]] = at

    def cut(first: int, last: int) -> Loop:
        loop, at = Loop(), first
        while at <= last:
            if at in ends and (at, ends[at]) != (first, last) and ends[at] <= last:
                loop.inner.append(cut(at, ends[at]))
                at = ends[at] + 1
                continue
            if not lines[at].endswith(":"):
                loop.lines.append(lines[at])
            at += 1
        return loop

    return cut(0, len(lines) - 1)


def chain(loop: Loop) -> Iterator[Loop]:
    """The loop, its largest inner loop, and so on. Smaller inner loops are for remainders, which full tiles do not have."""
    yield loop
    if loop.inner:
        yield from chain(max(loop.inner, key=lambda inner: sum(len(part.lines) for part in chain(inner))))


def simulate(mca: str, core: str, lines: list[str]) -> tuple[float, int]:
    """Cycles of one iteration of these instructions, and their number."""
    command = [mca, "-mtriple=aarch64", f"-mcpu={core}", "-mattr=+dotprod,+i8mm", "-iterations=100"]
    text = "\n".join(line for line in lines if not re.match(r"\s+(?:b\.?\w*|cbn?z|tbn?z|ret)\s", line)) + "\n"
    text = re.sub(r"0xf{14}([0-9a-f]{2})\b", r"0x\1", text)  # gcc writes bytes with their sign
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{mca} failed: {done.stderr.strip()}")
    return float(re.search(r"Total Cycles:\s+(\d+)", done.stdout)[1]) / 100, len(lines)  # type: ignore[index]


def cost(mca: str, core: str, found: list[Loop], trips: tuple[int, ...]) -> tuple[float, int]:
    """Cycles and instructions of nested loops with these numbers of iterations."""
    cycles, instructions, times = 0.0, 0, 1
    for loop, count in zip(found, trips, strict=True):
        times *= count
        some = simulate(mca, core, loop.lines)
        cycles, instructions = cycles + times * some[0], instructions + times * some[1]
    return cycles, instructions


def compile_set(compiler: str, name: str, march: str, folder: Path) -> str:
    """Assembly of the set and its wrapper, compiled with the flags of the library."""
    source, target = folder / f"{name}.c", folder / f"{name}.s"
    source.write_text(wrapper(name))
    flags = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-ipa-icf", f"-march={march}", f"-I{CSRC}", "-S"]
    done = subprocess.run([compiler, *flags, str(source), "-o", str(target)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{compiler} failed: {done.stderr.strip()}")
    return target.read_text()


def blocks(assembly: str, function: str, kind: Type) -> tuple[list[Loop], tuple[int, ...]]:
    """The nested loops over blocks, and their iterations for one block. Loops that the compiler has unrolled are missing."""
    found = list(chain(loops(body(assembly, function))))[1:]
    trips = kind.trips[: len(found)]
    if len(found) > len(trips):
        sys.exit(f"{function}: {len(found)} nested loops, not {len(trips)}.")
    return found, trips


def total(found: list[Loop], trips: tuple[int, ...], count: Callable[[list[str]], int]) -> int:
    """The sum of what `count` says of each of the nested loops, times their iterations."""
    result, times = 0, 1
    for loop, iterations in zip(found, trips, strict=True):
        times *= iterations
        result += times * count(loop.lines)
    return result


def products(lines: list[str]) -> int:
    """The products of int8 numbers in these instructions."""
    each = {"sdot": 16, "smmla": 32}
    return sum(each.get(line.split()[0], 0) for line in lines)


def along_blocks(assembly: str, kind: Type, tokens: int) -> tuple[list[Loop], tuple[int, ...]]:
    """The loops that multiply a block of each of four rows with one or two tokens."""
    function = f"along_{kind.name}_{tokens}"
    found, trips = blocks(assembly, function, kind)
    if (count := total(found, trips, products)) != 4 * kind.block * tokens:
        sys.exit(f"{function}: {count} products, not {4 * kind.block * tokens}: the loops are not as expected.")
    return found, trips


def unpack_blocks(assembly: str, kind: Type) -> tuple[list[Loop], tuple[int, ...]]:
    """The loops that unpack a block of each of 16 rows into a tile."""
    function = f"unpack_{kind.name}"
    found, trips = blocks(assembly, function, kind)
    count = total(found, trips, lambda lines: sum("prfm" in line for line in lines))
    if count != kind.prefetches:
        sys.exit(f"{function}: {count} prefetches, not {kind.prefetches}: the loops are not as expected.")
    return found, trips


def product_loop(assembly: str, kind: Type) -> Loop:
    """The loop that multiplies a group of a tile with some tokens. It may have all rows of the tile or a part of them."""
    function = f"multiply_{kind.name}"
    inner = list(chain(loops(body(assembly, function))))[-1]
    found, row = products(inner.lines), kind.group * TOKENS
    if found not in (row * 4, row * 8, row * 16):
        sys.exit(f"{function}: the loop has {found} products, not {row} for each of 4, 8 or 16 rows.")
    return inner


def peak(mca: str, core: str, instruction: str) -> float:
    """The products that the core computes in a cycle if it executes nothing but this instruction."""
    lines = [f"\t{instruction}\tv{i}.4s, v30.16b, v31.16b" for i in range(24)]
    return products(lines) / simulate(mca, core, lines)[0]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cc", default="aarch64-linux-gnu-gcc", help="cross compiler (default: %(default)s)")
    parser.add_argument(
        "--mca", default=next(filter(shutil.which, ("llvm-mca-19", "llvm-mca-18", "llvm-mca")), "llvm-mca")
    )
    parser.add_argument("--keep", type=Path, help="folder for the assembly")
    options = parser.parse_args()
    for tool in (options.cc, options.mca):
        if not shutil.which(tool):
            sys.exit(f"{tool} is not installed: --cc and --mca name other programs.")
    print("| set | core | type | 1 token | products a cycle | share | 1 of 2 tokens | unpack | 1 of 4 tokens", end="")
    print(" | products a cycle | share |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, march, cores in SETS:
            assembly = compile_set(options.cc, name, march, folder)
            for core in cores:
                for kind in TYPES:
                    row(assembly, options.mca, name, core, kind)


def row(assembly: str, mca: str, name: str, core: str, kind: Type) -> None:
    """Prints one line."""
    one, two = (cost(mca, core, *along_blocks(assembly, kind, n))[0] / 4 / (kind.block / 32) / n for n in (1, 2))
    unpack = cost(mca, core, *unpack_blocks(assembly, kind))[0] / 16 / (kind.block / 32)
    inner = product_loop(assembly, kind).lines
    many = simulate(mca, core, inner)[0] * 32 / products(inner)
    most = [peak(mca, core, "smmla" if any("smmla" in line for line in lines) else "sdot") for lines in ([], inner)]
    print(
        f"| {name} | {core} | {kind.name.upper()} | {one:.2f} | {32 / one:.1f} | {32 / one / most[0]:.0%} | {two:.2f}"
        f" | {unpack:.2f} | {many:.2f} | {32 / many:.1f} | {32 / many / most[1]:.0%} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
