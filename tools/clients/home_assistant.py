"""Uses Home Assistant (home_assistant.sh) with a running server as its owner does.

    python -m venv ~/clients && ~/clients/bin/pip install aiohttp
    edge-gemma serve --wyoming 127.0.0.1:10300 &
    tools/clients/home_assistant.sh FOLDER install && tools/clients/home_assistant.sh FOLDER start
    ~/clients/bin/python tools/clients/home_assistant.py FOLDER [--base URL] [--wyoming ADDRESS] [--lenient] [STEP ...]

Steps, in this order: owner (a user, the first time), integrations (`llama_cpp`, `ollama`, `wyoming`, set up by their forms),
house (what the agents may do), text, speech, satellite, idle. Without steps all run. A model turns the light on by the tools of
Assist. The toy knows other tools, so the house has an API for language models and an intent for it. `--lenient`: a light that
stays off is no fault. Ends with 1 if something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
import time
import traceback
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

HOME = "http://127.0.0.1:8123"
RECORDING = Path(__file__).parents[2] / "edge_gemma/demo/data/utterances/1-en.wav"
COMMAND, LIGHT = "Turn on the kitchen lights.", "light.kitchen_light"
PROMPT = "You are the voice of a home."  # as the toy knows it
AGENTS = ("llama_cpp", "ollama", "wyoming")
ATTEMPTS = 3  # Ollama's form has no temperature, and the toy at 1.0 is no sure thing
PIECE = 640  # bytes of speech: 20 ms
SILENCE = 5.0  # seconds behind the recording


class House:
    """Home Assistant as its own pages use it: forms and states over HTTP, pipelines over a WebSocket."""

    def __init__(self, args: argparse.Namespace, http: aiohttp.ClientSession) -> None:
        self.args, self.http = args, http
        self.keeper: Path = args.folder / "token"
        self.token = self.keeper.read_text() if self.keeper.exists() else ""
        self.counter = 0
        self.socket: aiohttp.ClientWebSocketResponse | None = None

    async def ask(self, path: str, body: Any = None, form: Any = None) -> Any:
        """A request: POST with a body or form, else GET."""
        method = "GET" if body is None and form is None else "POST"
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with self.http.request(method, HOME + path, json=body, data=form, headers=headers) as answer:
            text = await answer.text()
            assert answer.status < 400, f"{path}: {answer.status} {text[:300]}"
            return json.loads(text) if text else None

    async def connect(self) -> None:
        """Opens the WebSocket."""
        self.socket = await self.http.ws_connect(HOME + "/api/websocket", max_msg_size=0)
        assert (await self.socket.receive_json())["type"] == "auth_required"
        await self.socket.send_json({"type": "auth", "access_token": self.token})
        assert (await self.socket.receive_json())["type"] == "auth_ok"

    async def command(self, kind: str, **fields: Any) -> Any:
        """A command over the WebSocket, and its result."""
        assert self.socket is not None
        self.counter += 1
        await self.socket.send_json({"id": self.counter, "type": kind, **fields})
        while (answer := await self.socket.receive_json())["id"] != self.counter or answer["type"] != "result":
            pass
        assert answer["success"], f"{kind}: {answer['error']}"
        return answer["result"]

    async def entities(self, domain: str) -> dict[str, str]:
        """Entities of a domain by the integration that they come from: those whose server was reached."""
        states = {state["entity_id"]: state["state"] for state in await self.ask("/api/states")}
        listed = await self.command("config/entity_registry/list")
        return {
            entry["platform"]: entry["entity_id"]
            for entry in listed
            if entry["entity_id"].startswith(domain + ".")
            and states.get(entry["entity_id"], "unavailable") != "unavailable"
        }

    async def light(self) -> str:
        """The state of the light."""
        return str((await self.ask(f"/api/states/{LIGHT}"))["state"])

    async def darken(self) -> None:
        """Turns the light off."""
        await self.ask("/api/services/light/turn_off", {"entity_id": LIGHT})

    async def counted(self, pattern: str) -> float:
        """The sum of the server's counters whose lines begin so."""
        async with self.http.get(self.args.base + "/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line))

    @contextlib.asynccontextmanager
    async def pipeline(self, agent: str, hearing: str | None = None) -> AsyncIterator[str]:
        """A voice assistant as the settings make one."""
        nothing = ("tts_engine", "tts_language", "tts_voice", "wake_word_entity", "wake_word_id")
        made = await self.command(
            "assist_pipeline/pipeline/create",
            name=f"Voice of {agent}",
            language="en",
            conversation_engine=agent,
            conversation_language="en",
            stt_engine=hearing,
            stt_language="en" if hearing else None,
            prefer_local_intents=False,
            **dict.fromkeys(nothing),
        )
        try:
            yield made["id"]
        finally:
            await self.command("assist_pipeline/pipeline/delete", pipeline_id=made["id"])

    async def run(self, sound: bytes = b"", **fields: Any) -> list[tuple[float, str, Any]]:
        """Runs a voice assistant: its events, with the seconds since the first piece of sound. The microphone stays open until
        the words are there, as a satellite's does."""
        assert self.socket is not None
        events: list[tuple[float, str, Any]] = []
        began, speaking = time.monotonic(), None
        await self.command("assist_pipeline/run", end_stage="intent", **fields)

        async def speak(handler: int) -> None:
            assert self.socket is not None
            start = time.monotonic()
            for number, at in enumerate(range(0, len(sound), PIECE)):
                await self.socket.send_bytes(bytes([handler]) + sound[at : at + PIECE])
                await asyncio.sleep(max(0.0, start + number * PIECE / 32000 - time.monotonic()))

        try:
            while True:
                event = (await self.socket.receive_json(timeout=180)).get("event")
                if event is None:
                    continue
                events.append((time.monotonic() - began, event["type"], event.get("data")))
                if event["type"] == "run-start" and sound:
                    began = time.monotonic()
                    speaking = asyncio.create_task(speak(event["data"]["runner_data"]["stt_binary_handler_id"]))
                if event["type"] == "stt-end" and speaking is not None:
                    speaking.cancel()
                if event["type"] == "run-end":
                    return events
        finally:
            if speaking is not None:
                speaking.cancel()


async def owner(house: House) -> None:
    """The first user, by the pages of the first start, and a token that stays."""
    if not house.token:
        client = {"client_id": HOME + "/"}
        user = {"name": "Owner", "username": "owner", "password": "owner", "language": "en"}
        code = (await house.ask("/api/onboarding/users", {**client, **user}))["auth_code"]
        granted = await house.ask("/auth/token", form={**client, "grant_type": "authorization_code", "code": code})
        house.token = granted["access_token"]
        await house.ask("/api/onboarding/core_config", {})
        await house.ask("/api/onboarding/analytics", {})
        await house.ask("/api/onboarding/integration", {**client, "redirect_uri": HOME + "/"})
        await house.connect()
        # Else the section http is undone after five minutes, with a restart.
        await house.command("http/config/promote")
        house.token = await house.command("auth/long_lived_access_token", client_name="checks", lifespan=30)
        house.keeper.write_text(house.token)
    await house.connect()
    print(f"owner: Home Assistant {(await house.ask('/api/config'))['version']}")


async def integrations(house: House) -> None:
    """Each by its forms; the model is the first that a form offers."""
    flow = "/api/config/config_entries/flow"
    there = {entry["domain"] for entry in await house.command("config_entries/get")}

    async def begin(handler: Any, path: str = flow) -> dict[str, Any]:
        return dict(await house.ask(path, {"handler": handler}))

    async def fill(step: dict[str, Any], fields: dict[str, Any], path: str = flow) -> dict[str, Any]:
        assert step["type"] == "form", step
        step = dict(await house.ask(f"{path}/{step['flow_id']}", fields))
        assert step["type"] == "create_entry" or not step.get("errors"), step
        return step

    def offered(step: dict[str, Any], name: str) -> Any:
        field = next(field for field in step["data_schema"] if field["name"] == name)
        option = field["selector"]["select"]["options"][0]
        return option["value"] if isinstance(option, dict) else option

    if "llama_cpp" not in there:
        step = await fill(await begin("llama_cpp"), {"base_url": house.args.base + "/v1"})
        step = await fill(step, {"chat_model": offered(step, "chat_model")})
        assert step["type"] == "create_entry", step
    if "ollama" not in there:
        step = await fill(await begin("ollama"), {"url": house.args.base})
        path, entry = "/api/config/config_entries/subentries/flow", step["result"]["entry_id"]
        for _ in range(30):
            step = await begin([entry, "conversation"], path)
            if step["type"] == "form":
                break
            await asyncio.sleep(1)  # the entry is not loaded yet
        fields = {
            "name": "Ollama",
            "model": offered(step, "model"),
            "num_ctx": 8192,
            "max_history": 20,
            "keep_alive": -1,
        }
        step = await fill(step, {**fields, "llm_hass_api": ["assist"]}, path)
        assert step["type"] == "create_entry", step
    if "wyoming" not in there:
        address, _, port = house.args.wyoming.rpartition(":")
        step = await fill(await begin("wyoming"), {"host": address, "port": int(port)})
        assert step["type"] == "create_entry", step
    agents = await reached(house)
    hearing = await house.entities("stt")
    assert "wyoming" in hearing, hearing
    print(f"integrations: {agents}, hearing: {hearing['wyoming']}")


async def house_of(house: House) -> None:
    """What the agents may do: all that Assist knows, or for the toy its own tool, by the form that changes an agent."""
    async with house.http.get(house.args.base + "/v1/models") as answer:
        model = (await answer.json())["data"][0]["id"]
    toy = model in ("toy", "demo")
    lights = [LIGHT, "light.bedroom_light"]
    visible = {"assistants": ["conversation"], "entity_ids": lights, "should_expose": True}
    await house.command("homeassistant/expose_entity", **visible)
    areas = {area["name"]: area["area_id"] for area in await house.command("config/area_registry/list")}
    kitchen = areas.get("Kitchen") or (await house.command("config/area_registry/create", name="Kitchen"))["area_id"]
    await house.command("config/entity_registry/update", entity_id=LIGHT, area_id=kitchen)
    await reached(house)
    path = "/api/config/config_entries/subentries/flow"
    for entry in await house.command("config_entries/get"):
        if entry["domain"] not in ("llama_cpp", "ollama"):
            continue
        listed = await house.command("config_entries/subentries/list", entry_id=entry["entry_id"])
        agent = next(item for item in listed if item["subentry_type"] == "conversation")
        handler = [entry["entry_id"], "conversation"]
        step = await house.ask(path, {"handler": handler, "subentry_id": agent["subentry_id"]})
        fields = {"prompt": PROMPT, "llm_hass_api": ["demo_home" if toy else "assist"]}
        if entry["domain"] == "llama_cpp":
            fields |= {"chat_model": model, "recommended": not toy, **({"temperature": 0.1} if toy else {})}
        else:
            offered = next(field for field in step["data_schema"] if field["name"] == "model")["selector"]["select"][
                "options"
            ][0]
            fields |= {"model": offered["value"], "num_ctx": 8192, "max_history": 20, "keep_alive": -1}
        step = await house.ask(f"{path}/{step['flow_id']}", fields)
        assert step["type"] == "abort" and step["reason"] == "reconfigure_successful", step
    await reached(house)
    print(f"house: {'the tool of the toy' if toy else 'the tools of Assist'}")


async def reached(house: House) -> dict[str, str]:
    """Waits until the servers of all agents are reached."""
    for _ in range(60):
        agents = await house.entities("conversation")
        if set(AGENTS) <= set(agents):
            return agents
        await asyncio.sleep(1)
    raise AssertionError(f"Only these agents are there: {agents}")


async def text(house: House) -> None:
    """A command and thanks to each agent, in one conversation. Errors would be spoken, and so they are faults."""
    agents = await reached(house)
    for name in AGENTS:
        attempt, state = 0, "off"
        while state != "on" and attempt < ATTEMPTS:
            attempt += 1
            await house.darken()
            body, said = {"language": "en", "agent_id": agents[name]}, []
            for words in (COMMAND, "Thank you."):
                answer = await house.ask("/api/conversation/process", {**body, "text": words})
                response = answer["response"]
                body |= {"conversation_id": answer["conversation_id"]} if answer["conversation_id"] else {}
                said.append(response["speech"].get("plain", {}).get("speech", ""))
                about = response["data"].get("code") if response["response_type"] == "error" else None
                # The toy answers thanks by whatever it knows, which the house may refuse.
                assert about in (None, "no_valid_targets", "no_intent_match", "failed_to_handle"), (name, response)
                assert "API error" not in said[-1], said
                if words == COMMAND:
                    state = await house.light()
        print(f"text, {name}: light {state} at attempt {attempt}, said {said}")
        assert state == "on" or house.args.lenient, f"{name}: the light is {state}"


async def finish(house: House, what: str, told: str) -> None:
    """Tells what came, and whether the light is on."""
    await asyncio.sleep(0.5)
    state = await house.light()
    print(f"{what}: light {state}, {told}")
    assert state == "on" or house.args.lenient, f"{what}: the light is {state}"


async def speech(house: House) -> None:
    """Speech to each agent. The turn must end by our own detector: while the sound still comes, and before its end."""
    with wave.open(str(house.args.recording)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000), (
            "16 kHz, 16 bits, please"
        )
        spoken = file.readframes(file.getnframes())
    sound, length = spoken + bytes(int(32000 * SILENCE)), len(spoken) / 32000
    agents, hearing = await reached(house), (await house.entities("stt"))["wyoming"]
    for name in AGENTS:
        attempt = 0
        while attempt < ATTEMPTS and (attempt == 0 or await house.light() != "on"):
            attempt += 1
            await house.darken()
            async with house.pipeline(agents[name], hearing) as made:
                asked = {"start_stage": "stt", "input": {"sample_rate": 16000}, "pipeline": made, "timeout": 150}
                events = await house.run(sound, **asked)
        kinds = [kind for _, kind, _ in events]
        assert "error" not in kinds and "stt-end" in kinds, [
            (kind, data) for _, kind, data in events if kind == "error"
        ]
        assert "stt-vad-end" not in kinds, "Home Assistant has looked for the end of speech itself"
        heard, words = next((at, data["stt_output"]["text"]) for at, kind, data in events if kind == "stt-end")
        assert words and heard < length + SILENCE - 0.5, (heard, words)
        ended = next(at for at, kind, _ in events if kind == "intent-end")
        told = f"{words!r} {heard:.2f} s after the start of {length:.2f} s of sound, the answer after {ended:.2f} s"
        await finish(house, f"speech, {name}", told)


async def satellite(house: House) -> None:
    """The same command from a device in the kitchen, and again: the second request finds its instructions in the cache."""
    device = next(d["id"] for d in await house.command("config/device_registry/list") if d["entry_type"] == "service")
    areas = await house.command("config/area_registry/list")
    kitchen = next(area["area_id"] for area in areas if area["name"] == "Kitchen")
    await house.command("config/device_registry/update", device_id=device, area_id=kitchen)
    agents = await reached(house)
    for name in AGENTS:
        await house.darken()
        shares = []
        for _ in range(2):
            counters = ("edge_gemma_prompt_tokens_total", "edge_gemma_cached_tokens_total")
            before = [await house.counted(pattern) for pattern in counters]
            async with house.pipeline(agents[name]) as made:
                asked = {"start_stage": "intent", "input": {"text": COMMAND}, "pipeline": made, "device_id": device}
                events = await house.run(**asked)
            assert "error" not in [kind for _, kind, _ in events], events
            prompt, cached = [await house.counted(pattern) - old for pattern, old in zip(counters, before, strict=True)]
            shares.append(cached / prompt)
        assert shares[1] > 0.5, shares
        await finish(house, f"satellite, {name}", f"{shares[1]:.0%} of the second prompt was in the cache")


async def idle(house: House) -> None:
    """Home Assistant asks every 30 seconds what there is. The model does nothing for it."""
    asked, passes = 'edge_gemma_requests_total.route="wyoming"', "edge_gemma_passes_total"
    before = await house.counted(asked), await house.counted(passes)
    await asyncio.sleep(75)
    after = await house.counted(asked), await house.counted(passes)
    assert after[0] - before[0] >= 2, (before, after)
    assert after[1] == before[1], (before, after)
    print(f"idle: {after[0] - before[0]:.0f} questions in 75 s, no pass of the model")


STEPS: dict[str, Callable[[House], Awaitable[None]]] = {
    "owner": owner,
    "integrations": integrations,
    "house": house_of,
    "text": text,
    "speech": speech,
    "satellite": satellite,
    "idle": idle,
}


async def run_steps(args: argparse.Namespace) -> int:
    """The steps one after the other."""
    failed = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as http:
        house = House(args, http)
        await owner(house)
        for name in args.steps or list(STEPS)[1:]:
            try:
                if name != "owner":
                    await STEPS[name](house)
            except Exception:
                failed += 1
                print(f"{name}: WRONG\n{traceback.format_exc()}")
    return int(failed > 0)


def main() -> int:
    """Reads the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of home_assistant.sh")
    parser.add_argument("steps", nargs="*", metavar="STEP", choices=[*STEPS, []], help="which steps (default: all)")
    parser.add_argument(
        "--base", default="http://127.0.0.1:8080", metavar="URL", help="the server (default: %(default)s)"
    )
    parser.add_argument(
        "--wyoming", default="127.0.0.1:10300", metavar="ADDRESS", help="its Wyoming (default: %(default)s)"
    )
    parser.add_argument(
        "--recording", type=Path, default=RECORDING, metavar="FILE", help="a command that turns the light on"
    )
    parser.add_argument("--lenient", action="store_true", help="the light may stay off")
    return asyncio.run(run_steps(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
