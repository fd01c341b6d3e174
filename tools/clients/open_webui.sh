#!/bin/sh
# Open WebUI beside a running server: without accounts, without the internet, at http://127.0.0.1:3000.
#
#   tools/clients/open_webui.sh FOLDER install [TORCH]      2 minutes, 2.6 GB; needs Python 3.11 or 3.12, npm, and Debian's chromium
#   tools/clients/open_webui.sh FOLDER start [URL [KEY]]    of the server, http://127.0.0.1:8080 by default
#   NODE_PATH=FOLDER/browser/node_modules node tools/clients/open_webui.js FOLDER RECORDING.wav
#   tools/clients/open_webui.sh FOLDER stop
#
# BUILT_IN_TOOLS=False leaves out the 36 tools that Open WebUI gives to a model, by its own setting: they take 6,100 tokens of E2B and
# 10,700 of the toy, which has room for 4,096. Random weights never end an answer: DEFAULT_MODEL_PARAMS='{"max_tokens": 100}' does.
set -eu
folder=$(realpath -m "$1")
. "$(dirname "$0")/process.sh"
case $2 in
install)
    mkdir -p "$folder/browser"
    "${PYTHON:-python3}" -m venv "$folder/program"
    # torch first and by pip: TORCH names a build for processors, such as torch==2.13.0+cpu, where pip knows one. What pip takes
    # without it brings 5 GB more, for graphics cards.
    "$folder/program/bin/pip" install -q uv "${3:-torch}"
    torch=$("$folder/program/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))')
    "$folder/program/bin/uv" pip install -q --python "$folder/program/bin/python" open-webui "torch==$torch"
    (cd "$folder/browser" && npm install --silent playwright-core)
    ;;
start)
    base=${3:-http://127.0.0.1:8080}/v1 key=${4:-none}
    mkdir -p "$folder/data"
    cd "$folder/data"
    export DATA_DIR="$folder/data" WEBUI_SECRET_KEY=tests WEBUI_AUTH=False ENABLE_PERSISTENT_CONFIG=False
    export OFFLINE_MODE=True HF_HUB_OFFLINE=1 ANONYMIZED_TELEMETRY=False DO_NOT_TRACK=true GLOBAL_LOG_LEVEL=WARNING
    export BYPASS_EMBEDDING_AND_RETRIEVAL=True RAG_EMBEDDING_ENGINE=openai ENABLE_OLLAMA_API=False # no models of its own
    [ "${BUILT_IN_TOOLS:-True}" = True ] || export DEFAULT_MODEL_METADATA='{"capabilities": {"builtin_tools": false}}'
    export OPENAI_API_BASE_URL="$base" OPENAI_API_KEY="$key"
    for part in STT TTS REALTIME; do
        export "AUDIO_${part}_ENGINE=openai" "AUDIO_${part}_OPENAI_API_BASE_URL=$base" "AUDIO_${part}_OPENAI_API_KEY=$key"
    done
    export AUDIO_STT_MODEL=any AUDIO_REALTIME_ENABLED=True AUDIO_REALTIME_MODEL=any
    start "$folder/program/bin/open-webui" serve --host 127.0.0.1 --port 3000
    await curl -so /dev/null http://127.0.0.1:3000/health
    ;;
stop)
    stop
    ;;
*)
    echo "install, start or stop" >&2
    exit 2
    ;;
esac
