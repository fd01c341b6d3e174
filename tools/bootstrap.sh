#!/bin/sh
# Installs what the tests use beyond Python packages, where that is possible: root on a Debian-like system. Elsewhere, and
# when a package cannot be had, it says so and goes on: tests that miss a tool skip themselves and name it. With the argument
# `build`, only what building and hearing take.
set -u

packages=
want() {   # want PACKAGES COMMAND...: the packages are wanted if the command fails
    wanted=$1
    shift
    "$@" >/dev/null 2>&1 || packages="$packages $wanted"
}

has_python_header() {
    "${PYTHON:-python3}" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
}

has_portaudio() {   # and the configuration of ALSA, with which the tests make a sound card of files
    test -f /usr/share/alsa/alsa.conf &&
        "${PYTHON:-python3}" -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("portaudio"))'
}

runs_sanitizers() {   # a clang with the run-time library that fuzzing links
    test -f "$(clang -print-resource-dir)/lib/linux/libclang_rt.fuzzer-$(uname -m).a"
}

want 'gcc libc6-dev binutils' command -v gcc
want 'python3-dev' has_python_header
want 'python3-venv' "${PYTHON:-python3}" -c 'import ensurepip'
want 'libportaudio2 libasound2-data' has_portaudio
if [ "${1:-}" != build ]; then
    want 'g++' command -v g++
    want 'cmake' command -v cmake
    want 'clang libclang-rt-14-dev' runs_sanitizers
    want 'gcc-aarch64-linux-gnu libc6-dev-arm64-cross' command -v aarch64-linux-gnu-gcc
    want 'qemu-user-static' command -v qemu-aarch64-static
fi

[ -n "$packages" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "bootstrap: not installed (needs root and apt-get), what needs them is skipped:$packages"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
echo "bootstrap: installing$packages"
apt-get -qq update >/dev/null 2>&1
install() { apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1; }
# shellcheck disable=SC2086 -- a list of words on purpose
install $packages && exit 0
for package in $packages; do
    install "$package" || echo "bootstrap: no $package"
done
exit 0
