#!/bin/sh
# Sends a running server requests that Schemathesis makes of its description, right ones and wrong ones: none may end in a status
# of 500 or above, in one that is not described, or in an answer that does not fit its schema.
#
#   python -m venv ~/schemathesis && ~/schemathesis/bin/pip install schemathesis
#   edge-gemma serve --context 1024 &
#   tools/clients/generated_requests.sh ~/schemathesis/bin/schemathesis [URL] [SECONDS] [OPTION ...]
#
# The checks say nothing of requests that fit the description and are refused all the same: pictures of random bytes are.
set -eu
program=$(realpath "$1")
base=${2:-http://127.0.0.1:8080}
seconds=${3:-600}
shift $(($# < 3 ? $# : 3))
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method
cd "$(mktemp -d)" # it writes notes into the folder
exec "$program" run "$base/openapi.json" --phases examples,coverage,fuzzing --max-examples 50 --max-time "$seconds" \
    --checks $checks --request-timeout 60 --continue-on-failure --no-shrink --warnings off "$@"
