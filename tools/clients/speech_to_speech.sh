#!/bin/sh
# Hugging Face's speech-to-speech as a client of a running server that speaks (--voice). It is itself a Realtime server, at
# ws://127.0.0.1:8765, and speech_to_speech.py talks to it.
#
#   tools/clients/speech_to_speech.sh FOLDER install [TORCH]          1 minute, 1.7 GB; Python 3.11; TORCH as for open_webui.sh
#   tools/clients/speech_to_speech.sh FOLDER start MODE [URL]         of the server, http://127.0.0.1:8080 by default. MODE:
#                                                  audio        the recording in a chat request
#                                                  responses    a transcription, then /v1/responses
#                                                  realtime     a transcription over WebSocket, then a chat request
#   FOLDER/program/bin/python tools/clients/speech_to_speech.py [RECORDING.wav]
#   tools/clients/speech_to_speech.sh FOLDER stop
set -eu
folder=$(realpath -m "$1")
. "$(dirname "$0")/process.sh"
export HOME="$folder/home" HF_HUB_OFFLINE=1
case $2 in
install)
    mkdir -p "$HOME"
    "${PYTHON:-python3}" -m venv "$folder/program"
    "$folder/program/bin/pip" install -q uv "${3:-torch}"
    torch=$("$folder/program/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))')
    # Without what it requires: among that is a voice that older systems cannot load, and that is not used.
    "$folder/program/bin/pip" install -q --no-deps speech-to-speech==1.1.0
    nice -n 10 "$folder/program/bin/uv" pip install -q --python "$folder/program/bin/python" "torch==$torch" 'transformers>=5.18,<6' \
        nltk==3.10.3 librosa==0.11.0 'openai[realtime]>=2.28' silero-vad anyio fastapi huggingface-hub httpx jsonschema \
        lingua-language-detector numpy onnxruntime pillow pydantic PyYAML rich scipy sounddevice soundfile soxr uvicorn websockets
    # It fetches two things when it starts. The detector of speech is in the package silero-vad as well; the tables for splitting
    # sentences may be empty.
    detector=$HOME/.cache/torch/hub/snakers4_silero-vad_master
    mkdir -p "$detector"
    cat >"$detector/hubconf.py" <<'PYTHON'
import silero_vad as package

dependencies = ["torch"]


def silero_vad(**options):
    return package.load_silero_vad(), None
PYTHON
    tables=$HOME/nltk_data/tokenizers/punkt_tab/english
    mkdir -p "$tables"
    for name in abbrev_types.txt collocations.tab ortho_context.tab sent_starters.txt; do
        : >"$tables/$name"
    done
    ;;
start)
    base=${4:-http://127.0.0.1:8080}/v1
    case $3 in
    audio) options="--stt none --llm_backend chat-completions" ;;
    responses) options="--stt openai --openai_stt_base_url $base --openai_stt_api_key none --llm_backend responses-api" ;;
    realtime) options="--stt openai-realtime --openai_realtime_stt_base_url $base --openai_realtime_stt_api_key none --llm_backend chat-completions" ;;
    *) echo "audio, responses or realtime" >&2 && exit 2 ;;
    esac
    # shellcheck disable=SC2086
    start "$folder/program/bin/speech-to-speech" serve --host 127.0.0.1 --port 8765 --device cpu --no_smart_turn $options \
        --model_name any --responses_api_base_url "$base" --responses_api_api_key none \
        --tts openai --openai_tts_base_url "$base" --openai_tts_api_key none
    await curl -so /dev/null http://127.0.0.1:8765/
    ;;
stop)
    stop
    ;;
*)
    echo "install, start or stop" >&2
    exit 2
    ;;
esac
