#!/bin/sh
# Makes EdgeGemmaC.xcframework, the engine for iOS, its simulator and macOS, on a Mac with Xcode:
#
#     bindings/apple/xcframework.sh [FOLDER]        FOLDER: where it is made; default: build/apple
#
# An application adds it to its target and imports CEdgeGemma, or adds the sources of bindings/apple/Sources/EdgeGemma as well.
# It has not been run where the project is tested, which is no Mac.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-$root/build/apple}
csrc=$root/csrc
mkdir -p "$out"
command -v xcodebuild >/dev/null || { echo "xcodebuild is missing: this needs a Mac with Xcode." >&2; exit 1; }

# One static library: NAME SDK TARGET
library() {
    folder=$out/$1
    sysroot=$(xcrun --sdk "$2" --show-sdk-path)
    mkdir -p "$folder"
    rm -f "$folder"/*.o "$folder/libedge_gemma.a"
    while read -r source; do
        [ -n "$source" ] || continue
        xcrun --sdk "$2" clang -target "$3" -isysroot "$sysroot" -std=c11 -O3 -fvisibility=hidden -ffp-contract=off -Wall -Wextra \
            -c "$csrc/$source" -o "$folder/$(echo "$source" | tr / -).o"
    done <"$csrc/sources.txt"
    xcrun --sdk "$2" libtool -static -o "$folder/libedge_gemma.a" "$folder"/*.o
}

# One library of two architectures: NAME FIRST SECOND
join() {
    mkdir -p "$out/$1"
    xcrun lipo -create "$out/$2/libedge_gemma.a" "$out/$3/libedge_gemma.a" -output "$out/$1/libedge_gemma.a"
}

library ios iphoneos arm64-apple-ios15.0
library simulator-arm64 iphonesimulator arm64-apple-ios15.0-simulator
library simulator-x86_64 iphonesimulator x86_64-apple-ios15.0-simulator
library macos-arm64 macosx arm64-apple-macos12.0
library macos-x86_64 macosx x86_64-apple-macos12.0
join simulator simulator-arm64 simulator-x86_64
join macos macos-arm64 macos-x86_64

headers=$out/headers
mkdir -p "$headers"
cp "$csrc/edge_gemma.h" "$csrc/edge_gemma_chat.h" "$csrc/edge_gemma_platform.h" "$csrc/module.modulemap" "$headers"
rm -rf "$out/EdgeGemmaC.xcframework"
xcodebuild -create-xcframework \
    -library "$out/ios/libedge_gemma.a" -headers "$headers" \
    -library "$out/simulator/libedge_gemma.a" -headers "$headers" \
    -library "$out/macos/libedge_gemma.a" -headers "$headers" \
    -output "$out/EdgeGemmaC.xcframework"
