#!/bin/sh
# Makes the demo's model from nothing: records the speech, trains, measures, and writes the files into edge_gemma/data.
#
#     tools/demo/build.sh [FOLDER] [MINUTES]
#
# FOLDER (default: build/demo) keeps the recordings (4 GB), the checkpoint and the state of the training: the same command goes on with
# what was interrupted. MINUTES (default: 150) is the time for training; recording takes another quarter of an hour on two cores.
# Needs root on a Debian-like system for the speech synthesizers, or have them installed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../build/demo}
minutes=${2:-150}
venv=$folder/venv
mkdir -p "$folder"

voices="espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
for command in espeak-ng flite festival; do
    command -v $command >/dev/null || { apt-get -qq update && apt-get -qq install -y $voices; break; }
done
# Heard in the tests alone. Debian has it in "non-free": it is free, but not all of its data has sources.
command -v pico2wave >/dev/null || apt-get -qq install -y libttspico-utils || {
    echo "build: add the component non-free to apt's sources for libttspico-utils, the voice of the tests" >&2; exit 1; }

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet -e "$here/../..[voice]" -r "$here/requirements.txt"

# Large blocks of memory are kept instead of returned to the system with every step: a third of the time.
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456

cd "$here"
run="$venv/bin/python"
$run clips.py "$folder/clips"
[ -f "$folder/hf/tokenizer.json" ] || $run vocabulary.py "$folder/hf"
$run train.py "$folder/clips" "$folder/hf" --minutes "$minutes"
$run export.py "$folder/hf"
for split in known unknown; do
    $run evaluate.py "$folder/clips" ../../edge_gemma/data/demo.gguf ../../edge_gemma/data/demo-mmproj.gguf --split $split --count 900
done
