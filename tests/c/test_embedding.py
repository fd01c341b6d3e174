"""The engine as a plain C library: built by CMake, linked from C and C++, equal to Python, with clean symbols."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_gemma
from support.pages import blocks
from support.paths import ROOT

HEADER = ROOT / "csrc" / "edge_gemma.h"
HEADERS = [HEADER, HEADER.with_name("edge_gemma_chat.h")]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses Linux names of libraries and tools")
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
# Calls that end the process or write where the application did not ask for it.
UNWANTED = set(
    "abort exit _exit _Exit quick_exit raise longjmp system __assert_fail __assert printf vprintf puts putchar putc fputs "
    "fputc fprintf vfprintf perror __printf_chk __vprintf_chk __fprintf_chk __vfprintf_chk stdout stderr".split()
)
# Where CMake installs to within the prefix.
WHERE = {"LIBDIR": "lib", "INCLUDEDIR": "include"}
# Put into every shared object by the tool chain.
TOOL_CHAIN = {"__cxa_finalize", "__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}


def tool(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if not path:
        pytest.skip(f"needs {name}")
    return path


def run(*command: str | Path, **options: object) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=300, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix that CMake installed the library to, compiled without a warning."""
    cmake, build, prefix = tool("cmake"), tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    tool("cc")
    run(cmake, "-S", ROOT / "csrc", "-B", build, "-DEDGE_GEMMA_WERROR=ON", "-DCMAKE_INSTALL_LIBDIR=lib")
    run(cmake, "--build", build, "--parallel")
    run(cmake, "--install", build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def expected(dense_model: Path) -> dict[str, str]:
    """What the Python package says to the conversation of tests/c."""
    model = edge_gemma.Model.load(str(dense_model), threads=2)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}]
    chat = edge_gemma.render_chat(messages, model.tokenizer.chat_template, add_generation_prompt=True)
    prompt = [int(token) for token in model.tokenizer.encode(chat, special=True)]
    session = model.session(context=256, kv="f32")
    session.feed_tokens(prompt)
    text = "".join(session.generate(max_tokens=8, temperature=0))
    answer = [int(token) for token in session.tokens[len(prompt) :]]
    return {
        "version": edge_gemma.__version__,
        "header": edge_gemma.__version__,
        "chat": chat.encode().hex(),
        "prompt": " ".join(map(str, prompt)),
        "answer": " ".join(map(str, answer)),
        "text": text.encode().hex(),
        "position": str(len(prompt) + len(answer)),
    }


@pytest.mark.parametrize("library", ["libedge_gemma.a", "libedge_gemma.so"])
@pytest.mark.parametrize("source", ["use_c.c", "use_cpp.cpp"])
def test_equals_python(installed, expected, dense_model, tmp_path, source, library):
    compiler, standard = {".c": ("cc", "c11"), ".cpp": ("c++", "c++17")}[Path(source).suffix]
    program = tmp_path / "program"
    link = [installed / "lib" / library, f"-Wl,-rpath,{installed / 'lib'}", "-lm", "-pthread"]
    include = installed / "include"
    flags = [f"-std={standard}", *STRICT, f"-I{include}"]
    run(tool(compiler), *flags, ROOT / "tests" / "c" / source, *link, "-o", program)
    lines = run(program, dense_model).splitlines()
    assert {name: value for name, _, value in (line.partition(" ") for line in lines)} == expected


def test_example_chats(installed, dense_model, tmp_path):
    program = tmp_path / "simple"
    library = installed / "lib" / "libedge_gemma.a"
    source = ROOT / "examples" / "simple.c"
    flags = ["-std=c11", *STRICT, f"-I{installed / 'include'}"]
    run(tool("cc"), *flags, source, library, "-lm", "-pthread", "-o", program)
    # Random weights may talk until the context is full, which the example reports and ends with.
    done = subprocess.run([program, dense_model], input="Hello\n", capture_output=True, encoding="utf-8", timeout=120)
    assert done.stdout.startswith("> ") and len(done.stdout) > 10
    assert done.returncode == 0 or "context" in done.stderr
    done = subprocess.run([program, "absent.gguf"], input="", capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 1 and "absent.gguf" in done.stderr


def test_example_transcribes(installed, tmp_path):
    program, data = tmp_path / "transcribe", ROOT / "tests" / "data"
    flags = ["-std=c11", *STRICT, f"-I{installed / 'include'}"]
    library = installed / "lib" / "libedge_gemma.a"
    run(tool("cc"), *flags, ROOT / "examples" / "transcribe.c", library, "-lm", "-pthread", "-o", program)
    sound = np.load(data / "audio-reference.npz")["audio_c_samples"]
    pcm = (np.clip(sound, -1, 0.9999) * 32768).astype("<i2")
    files = [data / "e2b-Q4_0.gguf", data / "audio-e2b.gguf"]
    done = subprocess.run([program, *files], input=pcm.tobytes(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with edge_gemma.Model.load(files[0], mmproj=files[1]) as model, model.session(context=1024) as session:
        prompt = re.search(r'PROMPT "(.*)"', (ROOT / "examples" / "transcribe.c").read_text())[1].replace("\\n", "\n")
        session.feed_text(prompt, special=True)
        session.feed_audio(pcm.astype(np.float32) / 32768)
        session.feed_text("<turn|>\n<|turn>model\n", special=True)
        text = "".join(session.generate(256, temperature=0))
    assert len(text) > 10
    assert done.stdout.decode("utf-8", "replace").rstrip("\n") == text.rstrip("\n")
    done = subprocess.run([program, *files], input=b"", capture_output=True, timeout=120)
    assert done.returncode == 1
    assert b"161 samples" in done.stderr


@pytest.mark.parametrize("standard", ["c++11", "c++20"])
@pytest.mark.parametrize("name", ["simple.c", "transcribe.c"])
def test_examples_are_cpp(installed, name, standard):
    source = ROOT / "examples" / name
    flags = [f"-std={standard}", *STRICT, "-Wshadow", "-Wconversion", f"-I{installed / 'include'}"]
    run(tool("c++"), *flags, "-fsyntax-only", "-x", "c++", source)


@pytest.mark.slow
def test_commands_of_the_page(tmp_path):
    """What docs/c-api.md says to type, as it is written; every program that it makes starts."""
    for name in ("cc", "cmake", "pkg-config"):
        tool(name)
    for name in ("csrc", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    # The commands for Android and iOS need the NDK and Xcode.
    before = (ROOT / "docs" / "c-api.md").read_text(encoding="utf-8").split("### Android")[0].count("\n")
    commands = [block for block in blocks("docs/c-api.md") if block.language == "sh" and block.line < before]
    assert sum("cc examples/simple.c" in block.text for block in commands) == 3
    script = "set -e\n"
    for block in commands:
        script += f"rm -f simple\n{block.text}\n"
        if "-o simple" in block.text:
            script += "{ ./simple absent.gguf 2>&1 || test $? = 1; } | grep absent.gguf\n"
    local = tmp_path / "home" / ".local"
    (local / "lib").mkdir(parents=True)
    (local / "lib64").symlink_to("lib")  # the page names the folder that most distributions have
    env = {**os.environ, "HOME": str(tmp_path / "home")}
    path = os.pathsep.join([env["PATH"], str(Path(sys.executable).parent)])
    run("bash", "-o", "pipefail", "-c", script, cwd=tmp_path, env={**env, "PATH": path})


def test_python_example_chats(dense_model):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}  # so that it also runs where the package was built in place only
    out = run(sys.executable, ROOT / "examples" / "chat.py", dense_model, input="Hello\nAnd now?\n", env=env)
    assert out.count("\n") >= 2


def test_found_by_cmake(installed, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(app C)\nfind_package(edge_gemma REQUIRED)\n"
        f'add_executable(a "{ROOT}/tests/c/use_c.c")\ntarget_link_libraries(a PRIVATE edge_gemma::static)\n'
        f'add_executable(b "{ROOT}/tests/c/use_c.c")\ntarget_link_libraries(b PRIVATE edge_gemma::shared)\n'
    )
    run(tool("cmake"), "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    run(tool("cmake"), "--build", tmp_path / "build")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("static", True), ("static shared", True), ("vision", False), ("static OPTIONAL_COMPONENTS x", True)],
)
def test_cmake_knows_its_components(installed, tmp_path, wanted, found):
    """Also where the project itself is C++ alone."""
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(app CXX)\n"
        f"find_package(edge_gemma COMPONENTS {wanted})\n"
        'message(STATUS "found=${edge_gemma_FOUND}")\n'
    )
    tool("c++")
    command = [tool("cmake"), "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", timeout=300)
    assert f"found={int(found)}" in done.stdout
    assert ("has the components static and shared, and no vision" in " ".join(done.stderr.split())) != found


@pytest.mark.parametrize(("options", "optimized"), [([], True), (["-DEDGE_GEMMA_UNOPTIMIZED=ON"], False)])
def test_part_of_a_project_that_is_debugged(tmp_path, options, optimized):
    """The library is fast in such a project too, unless the library is what is debugged."""
    (tmp_path / "CMakeLists.txt").write_text(
        f'cmake_minimum_required(VERSION 3.16)\nproject(app CXX)\nadd_subdirectory("{ROOT}/csrc" engine)\n'
        "add_executable(app app.cpp)\ntarget_link_libraries(app PRIVATE edge_gemma::static)\n"
    )
    (tmp_path / "app.cpp").write_text('#include "edge_gemma.h"\nint main() { return eg_version() == nullptr; }\n')
    tool("c++")
    build = tmp_path / "build"
    wanted = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options]
    run(tool("cmake"), "-S", tmp_path, "-B", build, *wanted)
    commands = {entry["file"]: entry["command"] for entry in json.loads((build / "compile_commands.json").read_text())}
    engine = [command for file, command in commands.items() if Path(file).is_relative_to(ROOT / "csrc")]
    assert engine and all((" -O3 " in command) == optimized for command in engine)
    assert " -O3 " not in commands[str(tmp_path / "app.cpp")]


@pytest.mark.parametrize(
    "folders",
    [
        {"PREFIX": "usr"},
        {"PREFIX": "x", "LIBDIR": "lib64"},
        {"PREFIX": "out", "LIBDIR": "{tmp}/lib/x", "INCLUDEDIR": "{tmp}/dev/include"},
    ],
)
def test_pkg_config_of_unusual_folders(tmp_path, folders):
    """Distributions split a package into folders of their own, and CMake takes absolute paths for that."""
    places = {name: value.format(tmp=tmp_path) for name, value in folders.items()}
    places["PREFIX"] = str(tmp_path / places["PREFIX"])
    build = tmp_path / "build"
    run(tool("cmake"), "-S", ROOT / "csrc", "-B", build, *(f"-DCMAKE_INSTALL_{n}={v}" for n, v in places.items()))
    cache = dict(re.findall(r"^CMAKE_INSTALL_(\w+):\w+=(.*)$", (build / "CMakeCache.txt").read_text(), re.M))
    library, include = (Path(places["PREFIX"], cache[name] or default) for name, default in WHERE.items())
    (library / "pkgconfig").mkdir(parents=True)
    shutil.copy(build / "edge_gemma.pc", library / "pkgconfig")
    env = {**os.environ, "PKG_CONFIG_PATH": str(library / "pkgconfig")}
    flags = shlex.split(run(tool("pkg-config"), "--cflags", "--libs", "edge_gemma", env=env))
    assert [os.path.normpath(flag[2:]) for flag in flags[:2]] == [str(include), str(library)]


@pytest.mark.parametrize("kind", ["shared", "static"])
def test_found_by_pkg_config(installed, dense_model, tmp_path, kind):
    """Also after the installed folder was moved."""
    prefix = tmp_path / "moved to here"
    shutil.copytree(installed, prefix, symlinks=True)
    env = {**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    options = ["--static"] if kind == "static" else []
    flags = shlex.split(run(tool("pkg-config"), *options, "--cflags", "--libs", "edge_gemma", env=env))
    if kind == "static":
        flags = [flag if flag != "-ledge_gemma" else str(prefix / "lib" / "libedge_gemma.a") for flag in flags]
    run(
        tool("cc"),
        "-std=c11",
        ROOT / "tests" / "c" / "use_c.c",
        *flags,
        f"-Wl,-rpath,{prefix}/lib",
        "-o",
        tmp_path / "a",
    )
    assert run(tmp_path / "a", dense_model)
    assert run(tool("pkg-config"), "--modversion", "edge_gemma", env=env).strip() == edge_gemma.__version__


def test_shared_library_carries_major_and_minor(installed):
    """Until 1.0 a new minor version may change the interface, so it must not replace an older one under a program."""
    major, minor, _ = edge_gemma.__version__.split(".")
    assert major == "0", "from 1.0 on the major version alone is carried"
    table = run(tool("readelf"), "--dynamic", installed / "lib" / "libedge_gemma.so")
    assert re.findall(r"soname: \[(.*)\]", table) == [f"libedge_gemma.so.{major}.{minor}"]


@pytest.mark.parametrize(("shift", "found"), [((0, 0), True), ((0, 1), False), ((0, -1), False), ((1, 0), False)])
def test_cmake_compares_versions(installed, tmp_path, shift, found):
    """find_package takes the same minor version, in either direction."""
    major, minor = (int(number) + by for number, by in zip(edge_gemma.__version__.split("."), shift, strict=False))
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(app C)\n"
        f"find_package(edge_gemma {major}.{max(minor, 0)} QUIET)\n"
        'message(STATUS "found=${edge_gemma_FOUND}")\n'
    )
    out = run(tool("cmake"), "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    assert f"found={int(found)}" in out


def test_exports_only_the_header(installed):
    table = run(tool("nm"), "--dynamic", "--defined-only", installed / "lib" / "libedge_gemma.so")
    text = "".join(header.read_text() for header in HEADERS)
    declared = set(re.findall(r"^EG_API .*?\b(eg_\w+)\(", text, flags=re.M))
    assert {line.split()[-1] for line in table.splitlines()} == declared


def test_needs_only_the_c_library(installed):
    table = run(tool("nm"), "--dynamic", "--undefined-only", installed / "lib" / "libedge_gemma.so")
    foreign = {name for name in (line.split()[-1] for line in table.splitlines()) if "@GLIBC_" not in name}
    assert foreign <= TOOL_CHAIN


def test_never_exits_or_prints(installed):
    table = run(tool("nm"), "--undefined-only", "--format=posix", installed / "lib" / "libedge_gemma.a")
    assert not {line.split()[0] for line in table.splitlines() if line.strip()} & UNWANTED


def test_versions_agree(run_cli):
    from edge_gemma._version import __version__

    (header,) = re.findall(r'#define EG_VERSION "(.*)"', HEADER.read_text())
    assert header == __version__ == edge_gemma.__version__
    assert __version__ in run_cli("--version").stdout
