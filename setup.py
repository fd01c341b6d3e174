"""Builds the C engine as the extension `edge_gemma._engine`; all else is in pyproject.toml."""

import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor

from setuptools import setup
from setuptools.command.build_ext import build_ext

# One wheel serves all later Python versions, except interpreters without the GIL, which have no stable interface yet.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")


class ParallelBuild(build_ext):
    """Compiles the files of the extension side by side."""

    def build_extension(self, ext):
        compile_serially = self.compiler.compile

        def compile_in_parallel(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(pool.map(lambda source: compile_serially([source], **options), sources))
            return [name for names in objects for name in names]

        self.compiler.compile = compile_in_parallel
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_serially


setup(
    cffi_modules=["edge_gemma/_build.py:ffibuilder"],
    cmdclass={"build_ext": ParallelBuild},
    options={
        # Editable installs are a plain path, which type checkers and editors can follow.
        "editable_wheel": {"mode": "compat"},
        **({"bdist_wheel": {"py_limited_api": "cp310"}} if ABI3 else {}),
    },
)
