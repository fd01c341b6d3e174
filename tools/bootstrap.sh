#!/bin/sh
# Installs the system packages that the tests need. This is possible as root on a Debian-like system. Otherwise, and when a
# package is not available, the script prints a message and succeeds: a test that lacks a tool skips itself and names the
# tool. With the argument `build` it installs only what the build and the microphone need.
set -u

packages=
want() {   # want PACKAGES COMMAND...: installs the packages if the command fails
    wanted=$1
    shift
    "$@" >/dev/null 2>&1 || packages="$packages $wanted"
}

has_python_header() {
    "${PYTHON:-python3}" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
}

has_portaudio() {   # also needs the configuration of ALSA: the tests use files as a sound card
    test -f /usr/share/alsa/alsa.conf &&
        "${PYTHON:-python3}" -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("portaudio"))'
}

runs_sanitizers() {   # a clang with the run-time library that fuzzing links
    test -f "$(clang -print-resource-dir)/lib/linux/libclang_rt.fuzzer-$(uname -m).a"
}

runs_windows_programs() { test -x /usr/lib/wine/wine64 || command -v wine64 || command -v wine; }

want 'gcc libc6-dev binutils' command -v gcc
want 'python3-dev' has_python_header
want 'python3-venv' "${PYTHON:-python3}" -c 'import ensurepip'
want 'libportaudio2 libasound2-data' has_portaudio
if [ "${1:-}" != build ]; then
    want 'g++' command -v g++
    want 'cmake' command -v cmake
    want 'pkg-config' command -v pkg-config
    want 'clang libclang-rt-14-dev' runs_sanitizers
    want 'gcc-aarch64-linux-gnu libc6-dev-arm64-cross' command -v aarch64-linux-gnu-gcc
    want 'qemu-user-static' command -v qemu-aarch64-static
    want 'wine64' runs_windows_programs
fi

[ -n "$packages" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    case "$packages" in
        *gcc\ libc6* | *python3-*) needed="the build fails without them" ;;
        *portaudio*) needed="microphones need them" ;;
        *) needed="tests that use them are skipped" ;;
    esac
    echo "bootstrap: these system packages are missing; $needed:$packages"
    echo "bootstrap: on Debian, Ubuntu and Raspberry Pi OS: sudo apt install$packages"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
echo "bootstrap: installing these system packages:$packages"
apt-get -qq update >/dev/null 2>&1
install() { apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1; }
# shellcheck disable=SC2086 -- a list of words on purpose
install $packages && exit 0
for package in $packages; do
    install "$package" || echo "bootstrap: $package cannot be installed"
done
exit 0
