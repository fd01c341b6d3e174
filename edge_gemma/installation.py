"""What is missing where this program runs, and the command that installs it."""

from __future__ import annotations

import glob
import os
import sys

from .shell import quoted

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
#: The packages that every installation has, by the module whose import fails without them.
_NEEDED = {"numpy": "numpy", "cffi": "cffi", "_cffi_backend": "cffi", "jinja2": "jinja2", "PIL": "pillow"}


def pip_line(*packages: str) -> str:
    """The command that installs packages where this program runs: into its virtual environment, or that of pipx or uv.

    "edge-gemma[voice]" stands for the packages of that extra.
    """
    wanted = " ".join(map(quoted, packages))
    if os.path.join("pipx", "venvs") in sys.prefix:
        return f"pipx runpip {os.path.basename(sys.prefix)} install {wanted}"
    python = quoted(sys.executable or "python3")
    # Not by importlib.util.find_spec("pip"): setuptools takes that for pip itself, and fails when it is imported later.
    if not any(os.path.isdir(os.path.join(folder, "pip")) for folder in sys.path if folder):
        return f"uv pip install --python {python} {wanted}"
    return f"{python} -m pip install {wanted}"


def source_folder() -> str | None:
    """The folder of the source, if this package was imported from there."""
    root = os.path.dirname(_PACKAGE)
    return root if all(os.path.exists(os.path.join(root, name)) for name in ("setup.py", "csrc")) else None


def missing_package(error: ImportError) -> ImportError:
    """The error to raise instead of one that came while edge_gemma was imported.

    It is the same one, unless a package that every installation has is missing. Then it says where to get it: most likely
    another Python runs than the one that edge_gemma was installed for.
    """
    package = _NEEDED.get(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    if package is None or str(error) != f"No module named {error.name!r}":
        return error
    text = f"edge_gemma needs the package {package}, which {sys.executable or 'this Python'} does not have."
    root = source_folder()
    if root is None:
        return ModuleNotFoundError(f"{text} Install it: `{pip_line(package)}`.", name=error.name)
    made = os.path.join(root, ".venv", "bin", "python")
    if os.path.exists(made) and os.path.abspath(sys.prefix) != os.path.join(root, ".venv"):
        return ModuleNotFoundError(f"{text} Use {made}, which `make` has set up.", name=error.name)
    # Not into this Python: those of Debian and of Homebrew refuse packages outside of a virtual environment.
    python = os.path.join("venv", "Scripts" if os.name == "nt" else "bin", "python")
    line = f"{quoted(sys.executable or 'python3')} -m venv venv && {python} -m pip install {quoted(root)}"
    return ModuleNotFoundError(f"{text} Install edge_gemma with all that it needs: `{line}`.", name=error.name)


def missing_engine(error: ImportError) -> ImportError:
    """The error to raise instead of one that came while the engine, `edge_gemma._engine`, was imported."""
    if isinstance(error, ModuleNotFoundError) and error.name != "edge_gemma._engine":
        return missing_package(error)
    root = source_folder()
    if not isinstance(error, ModuleNotFoundError):
        text = f"the engine does not fit this system or is damaged ({str(error).rstrip('.')}). {build_again()}"
    elif root is None:
        text = f"the engine in {_PACKAGE} is not one for Python {sys.version.split()[0]}. {build_again()}"
    else:
        text = f"edge_gemma was imported from {root}, the folder of its source, where the engine is not built. "
        if other := _installed_elsewhere():
            text += f"Python looks into the current folder first: leave it, and the package in {other} is used. "
        text += f"To use the source, build the engine there: `{pip_line('-e', root)}`."
    return ImportError(text, name=error.name)


def build_again() -> str:
    """A sentence that tells how to build the engine anew."""
    if root := source_folder():
        return f"Build it again: `{pip_line('-e', root)}`."
    return (
        f"Install the package again, in the folder of its source: `{pip_line('--force-reinstall', '--no-deps', '.')}`."
    )


def _installed_elsewhere() -> str | None:
    """Another folder of this Python that has the package and its engine."""
    for folder in sys.path:
        package = os.path.join(os.path.abspath(folder or os.curdir), "edge_gemma")
        built = glob.glob(os.path.join(glob.escape(package), "_engine.*"))
        if package != _PACKAGE and any(not name.endswith(".pyi") for name in built):
            return os.path.dirname(package)
    return None
