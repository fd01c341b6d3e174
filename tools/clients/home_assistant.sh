#!/bin/sh
# Home Assistant beside a running server, at http://127.0.0.1:8123, with two lights. It wants a newer Python than most systems have, so it
# lives in a folder with a Debian of its own. Needs root, debootstrap and 2.2 GB.
#
#   tools/clients/home_assistant.sh FOLDER install          3 minutes
#   tools/clients/home_assistant.sh FOLDER start
#   python tools/clients/home_assistant.py FOLDER ...       see there
#   tools/clients/home_assistant.sh FOLDER stop
#   tools/clients/home_assistant.sh FOLDER forget           users, integrations and history: the next start is a new house
#   tools/clients/home_assistant.sh FOLDER remove           never by hand: /dev of this machine is mounted inside
set -eu
folder=$(realpath -m "$1")
. "$(dirname "$0")/process.sh"
debian=$folder/debian
version=${HOME_ASSISTANT:-2026.11.0}

inside() {
    nice -n 10 chroot "$debian" env LANG=C.UTF-8 HOME=/config PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$@"
}

mount_system() {
    for part in proc dev; do
        mountpoint -q "$debian/$part" || mount --bind "/$part" "$debian/$part"
    done
}

case $2 in
install)
    mkdir -p "$folder"
    if [ ! -x "$debian/usr/bin/python3.14" ]; then
        mirror=$(sed -nE 's#^(deb|URIs:).* ?(https?://[^ ]+/debian/?)( .*)?$#\2#p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
        packages=python3.14,python3.14-venv,python3.14-dev,ca-certificates,gcc,g++,libc6-dev,ffmpeg,libturbojpeg0
        # The script "sid" fits every later release, whose own name an older debootstrap does not know.
        nice -n 10 debootstrap --variant=minbase --include=$packages "${DEBIAN:-forky}" "$debian" "${mirror:-https://deb.debian.org/debian}" sid
    fi
    cp /etc/resolv.conf "$debian/etc/resolv.conf"
    cp /etc/ssl/certs/ca-certificates.crt "$debian/etc/ssl/certs/"
    mount_system
    inside python3.14 -m venv /opt/home
    inside /opt/home/bin/pip install -q --no-input "homeassistant==$version"
    # Home Assistant gets what an integration needs when it is first used. Here all of it comes now, as its manifests pin it.
    cat >"$debian/opt/needed.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import homeassistant
from homeassistant.bootstrap import DEFAULT_INTEGRATIONS

root = Path(homeassistant.__file__).parent
waiting, known, needed = {*sys.argv[1:], *DEFAULT_INTEGRATIONS}, set(), set()
while waiting:
    name = waiting.pop()
    known.add(name)
    manifest = json.loads((root / "components" / name / "manifest.json").read_text())
    needed.update(manifest.get("requirements", []))
    waiting |= set(manifest.get("dependencies", [])) - known
Path("/opt/needed.txt").write_text("\n".join(sorted(needed)))
print(root / "package_constraints.txt")
PYTHON
    pins=$(inside /opt/home/bin/python /opt/needed.py llama_cpp ollama wyoming assist_pipeline conversation stt tts wake_word \
        mcp_server template frontend onboarding api websocket_api config person auth hassio zeroconf)
    inside /opt/home/bin/pip install -q --no-input -c "$pins" -r /opt/needed.txt
    mkdir -p "$debian/config"
    cat >"$debian/config/configuration.yaml" <<'YAML'
homeassistant: {name: Home, unit_system: metric, time_zone: UTC, country: CH, language: en}
http: {server_host: 127.0.0.1, server_port: 8123}
api:
auth:
config:
frontend:
conversation:
assist_pipeline:
logger: {default: warning}
# The model of the demo knows the tool "switch" alone: as an intent for agents of Wyoming, and as an API for the others.
demo_home:
intent_script:
  switch:
    action:
      - action: "light.turn_{{ 'on' if on else 'off' }}"
        target: {entity_id: "light.{{ room }}_{{ thing }}"}
    speech: {text: "Done."}
input_boolean: {kitchen: {name: Kitchen switch}, bedroom: {name: Bedroom switch}}
template:
  - light:
      - name: Kitchen Light
        unique_id: kitchen_light
        state: "{{ is_state('input_boolean.kitchen', 'on') }}"
        turn_on: {action: input_boolean.turn_on, target: {entity_id: input_boolean.kitchen}}
        turn_off: {action: input_boolean.turn_off, target: {entity_id: input_boolean.kitchen}}
      - name: Bedroom Light
        unique_id: bedroom_light
        state: "{{ is_state('input_boolean.bedroom', 'on') }}"
        turn_on: {action: input_boolean.turn_on, target: {entity_id: input_boolean.bedroom}}
        turn_off: {action: input_boolean.turn_off, target: {entity_id: input_boolean.bedroom}}
YAML
    mkdir -p "$debian/config/custom_components/demo_home"
    cat >"$debian/config/custom_components/demo_home/manifest.json" <<'JSON'
{"domain": "demo_home", "name": "Demo home", "version": "1", "documentation": "", "codeowners": [], "requirements": []}
JSON
    cat >"$debian/config/custom_components/demo_home/__init__.py" <<'PYTHON'
"""An API for language models, as an integration registers it: the tools that the model of the demo knows. One does something."""

import voluptuous as vol
from homeassistant.helpers import llm
from homeassistant.util import dt as dt_util

TOOLS = [
    ("switch", "Switch a thing", {"room": str, "thing": str, "on": bool}),
    ("set_color", "Color of lights", {"room": str, "color": str}),
    ("set_brightness", "Brightness of lights", {"room": str, "percent": int}),
    ("set_timer", "Start a timer", {"amount": int, "unit": str}),
    ("cancel_timer", "Cancel the timer", {}),
    ("set_alarm", "Wake at a time", {"time": str}),
    ("get_time", "The time", {}),
    ("get_weather", "The weather", {"city": str, "day": str}),
    ("add_item", "Add to the shopping list", {"item": str}),
    ("read_list", "Read the shopping list", {}),
    ("play_music", "Play music", {"genre": str, "room": str}),
    ("stop_music", "Stop the music", {}),
    ("change_volume", "Turn the volume up or down", {"direction": str}),
    ("set_thermostat", "Set the temperature", {"degrees": int}),
    ("garage_door", "Open or close the garage door", {"open": bool}),
    ("lock_door", "Lock the front door", {}),
    ("scene", "Say good morning or good night", {"name": str}),
    ("stop", "Stop everything", {}),
]


class Known(llm.Tool):
    integration = "demo_home"

    def __init__(self, name, description, fields):
        self.name, self.description = name, description
        self.parameters = vol.Schema({vol.Required(name): kind for name, kind in fields.items()})

    async def async_call(self, hass, tool_input, llm_context):
        given = tool_input.tool_args
        if self.name == "switch":
            light = f"light.{given['room']}_{given['thing']}".replace(" ", "_")
            verb = "turn_on" if given["on"] else "turn_off"
            await hass.services.async_call("light", verb, {"entity_id": light}, blocking=True)
        return llm.ToolResult(data={"result": "done"})


class GetDateTime(llm.Tool):
    """Without a tool of this name, Home Assistant writes the time into the instructions, which the model has never seen."""

    name = "GetDateTime"
    description = "The time"
    integration = "demo_home"

    async def async_call(self, hass, tool_input, llm_context):
        return llm.ToolResult(data={"result": dt_util.now().strftime("%H:%M")})


class DemoHome(llm.API):
    async def async_get_api_instance(self, llm_context):
        return llm.APIInstance(self, "", llm_context, [*(Known(*row) for row in TOOLS), GetDateTime()])


async def async_setup(hass, config):
    llm.async_register_api(hass, DemoHome(hass=hass, id="demo_home", name="Demo home"))
    return True
PYTHON
    ;;
start)
    mount_system
    start chroot "$debian" env LANG=C.UTF-8 HOME=/config /opt/home/bin/hass -c /config --skip-pip
    await curl -sfo /dev/null http://127.0.0.1:8123/manifest.json
    ;;
stop)
    stop
    ;;
forget)
    rm -rf "$folder/token" "$debian/config/.storage" "$debian"/config/home-assistant*.db* "$debian"/config/home-assistant.log*
    ;;
remove)
    for part in proc dev; do
        ! mountpoint -q "$debian/$part" || umount "$debian/$part"
    done
    rm -rf --one-file-system "$debian"
    ;;
*)
    echo "install, start, stop, forget or remove" >&2
    exit 2
    ;;
esac
