#!/bin/sh
# Makes the demo's model from scratch: records the speech, trains, measures, and writes the files to edge_gemma/demo/data.
#
#     tools/demo/build.sh [FOLDER]
#
# FOLDER (default: build/demo) gets the recordings (4 GB), the checkpoint and the state of the training. The same command
# continues an interrupted run. The speech synthesizers must be installed; as root on a Debian-like system with the components
# contrib and non-free, this script installs them.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../build/demo}
venv=$folder/venv
mkdir -p "$folder"

voices="espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts fonts-dejavu-core"
for command in espeak-ng flite festival; do
    command -v $command >/dev/null || { apt-get -qq update && apt-get -qq install -y $voices; break; }
done
# These packages are in Debian's components "contrib" and "non-free". The data of pico has a free licence, but lacks some of
# its sources. The diphones of mbrola may not be used in products: they are heard in tests only.
other="libttspico-utils mbrola"
for voice in de1 de2 de3 de4 de5 de6 de7 es1 es2 mx1 mx2 vz1 us1 us2 us3 en1; do other="$other mbrola-$voice"; done
{ command -v mbrola && command -v pico2wave; } >/dev/null || apt-get -qq install -y $other || {
    echo "build: add the components contrib and non-free to apt's sources for $other" >&2; exit 1; }

# glibc's malloc returns large blocks to the system after every step, which costs a third of the time, or keeps them in so many
# pieces that a process grows to 11 GB. tcmalloc keeps them in 2 GB.
tcmalloc() { ls /usr/lib/*/libtcmalloc_minimal.so.4 2>/dev/null | head -n 1; }
[ -n "$(tcmalloc)" ] || apt-get -qq install -y libtcmalloc-minimal4 || echo "build: without tcmalloc it takes longer" >&2

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet -e "$here/../..[voice]" -r "$here/requirements.txt"

cd "$here"
run="$venv/bin/python"
$run clips.py "$folder/clips"
[ -f "$folder/hf/tokenizer.json" ] || {
    $run vocabulary.py "$folder/hf"
    # The weights of an unfinished training belong to its own vocabulary.
    [ ! -f unfinished.npz ] || cp unfinished-tokenizer.json "$folder/hf/tokenizer.json"
}
LD_PRELOAD=$(tcmalloc) $run train.py "$folder/clips" "$folder/hf"
$run export.py "$folder/hf"
data=../../edge_gemma/demo/data
for split in known variants unknown; do
    $run evaluate.py "$folder/clips" $data/demo.gguf $data/demo-mmproj.gguf --split $split --count 900
done
$run evaluate.py $data/demo.gguf $data/demo-mmproj.gguf --pictures 300
$run transcripts.py "$folder/clips" $data/demo.gguf $data/demo-mmproj.gguf
