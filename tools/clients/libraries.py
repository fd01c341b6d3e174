"""Uses a running server through the libraries of other makers, in every way that they offer, and checks what comes.

    python -m venv ~/clients
    ~/clients/bin/pip install 'openai[realtime]' langchain-openai openai-agents anthropic ollama numpy
    edge-gemma serve &                                  (with --voice espeak-ng, answers are spoken too)
    ~/clients/bin/python tools/clients/libraries.py [--base URL] [--recording FILE] [NAME ...]

Names are openai, responses, audio, realtime, langchain, agents, anthropic and ollama; without names all run. What is checked is
the form of the answers and not their sense, so that any model will do. Ends with 1 if something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib.metadata
import struct
import sys
import traceback
import warnings
import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

RECORDING = Path(__file__).parents[2] / "edge_gemma/demo/data/utterances/1-en.wav"
QUESTION = [{"role": "user", "content": "Turn on the light in the kitchen."}]
DEVICE = {
    "type": "object",
    "properties": {"device": {"type": "string", "enum": ["light", "radio"]}, "on": {"type": "boolean"}},
    "required": ["device", "on"],
    "additionalProperties": False,
}
SHORT = 24  # tokens


def png(red: int, green: int, blue: int, size: int = 64) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes((red, green, blue)) * size) * size
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Setup:
    """The server, what it offers, and the material."""

    def __init__(self, base: str, key: str, recording: Path) -> None:
        from openai import OpenAI

        self.base, self.key, self.recording = base.rstrip("/"), key, recording
        self.openai = OpenAI(base_url=self.base + "/v1", api_key=key)
        model = self.openai.models.list().data[0]
        self.model = model.id
        self.sees = "image" in (model.model_extra or {}).get("input_modalities", ())
        self.hears = "audio" in (model.model_extra or {}).get("input_modalities", ())
        self.picture = "data:image/png;base64," + base64.b64encode(png(200, 30, 30)).decode()

    @property
    def speaks(self) -> bool:
        """Whether the server has a voice."""
        from openai import NotFoundError

        try:
            self.openai.audio.speech.create(model="any", voice="any", input="Hello.", response_format="pcm")
        except NotFoundError:
            return False
        return True

    def pcm(self, rate: int) -> bytes:
        """The recording, 16 bits, with a second of silence behind it."""
        import numpy

        with wave.open(str(self.recording)) as file:
            samples = numpy.frombuffer(file.readframes(file.getnframes()), "<i2")
            at = numpy.arange(0, len(samples), file.getframerate() / rate)
        heard = numpy.interp(at, numpy.arange(len(samples)), samples)
        return bytes(numpy.concatenate([heard, numpy.zeros(rate)]).astype("<i2").tobytes())


def use_openai(setup: Setup) -> None:
    """Chat: plain, streamed, with a form, tools in two rounds, pictures, recordings, several answers, log-probabilities."""
    import json

    from openai import BadRequestError
    from pydantic import BaseModel

    class Switched(BaseModel):
        device: Literal["light", "radio"]
        on: bool

    chat, model = setup.openai.chat.completions, setup.model
    plain = chat.create(
        model=model, messages=QUESTION, max_completion_tokens=SHORT, n=2, seed=1, logprobs=True, top_logprobs=2
    )
    assert len(plain.choices) == 2 and plain.usage.completion_tokens > 0, plain
    assert plain.choices[0].logprobs.content is not None, plain
    chunks = list(
        chat.create(
            model=model, messages=QUESTION, max_tokens=SHORT, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None and not chunks[-1].choices, chunks[-1]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length"), chunks
    parsed = chat.parse(model=model, messages=QUESTION, response_format=Switched, max_completion_tokens=200)
    assert isinstance(parsed.choices[0].message.parsed, Switched), parsed
    tools = [{"type": "function", "function": {"name": "switch", "parameters": DEVICE, "strict": True}}]
    with chat.stream(
        model=model, messages=QUESTION, tools=tools, tool_choice="required", max_completion_tokens=200
    ) as events:
        message = events.get_final_completion().choices[0].message
    assert message.tool_calls, message
    given = json.loads(message.tool_calls[0].function.arguments)
    assert given["device"] in ("light", "radio") and isinstance(given["on"], bool), given
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"done": true}'}
    calls = [call.model_dump(include={"id", "type", "function"}) for call in message.tool_calls[:1]]
    asked = [*QUESTION, {"role": "assistant", "tool_calls": calls}, result]
    second = chat.create(model=model, messages=asked, tools=tools, tool_choice="none", max_tokens=SHORT)
    assert second.usage.prompt_tokens_details.cached_tokens > 0, second.usage
    if setup.sees:
        picture = {"type": "image_url", "image_url": {"url": setup.picture, "detail": "low"}}
        asked = [{"role": "user", "content": [{"type": "text", "text": "Which colour is it?"}, picture]}]
        seen = chat.create(model=model, messages=asked, max_tokens=SHORT)
        assert seen.usage.prompt_tokens > 10, seen.usage
    if setup.hears:
        data = base64.b64encode(setup.recording.read_bytes()).decode()
        sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        heard = chat.create(model=model, messages=[{"role": "user", "content": [sound]}], max_tokens=SHORT)
        assert heard.usage.prompt_tokens > 20, heard.usage
    try:
        chat.create(model=model, messages=QUESTION, temperature=5)
        raise AssertionError("a temperature of 5 was taken")
    except BadRequestError as error:
        assert "temperature" in str(error), error


def use_responses(setup: Setup) -> None:
    """The Responses interface: plain, streamed, parsed, a call and its result, a conversation that goes on."""
    from pydantic import BaseModel

    class Switched(BaseModel):
        device: Literal["light", "radio"]
        on: bool

    responses, model = setup.openai.responses, setup.model
    first = responses.create(model=model, instructions="Be brief.", input="Hello.", max_output_tokens=SHORT)
    assert first.output and first.usage.output_tokens > 0, first
    again = responses.create(model=model, input="And again.", previous_response_id=first.id, max_output_tokens=SHORT)
    assert again.previous_response_id == first.id, again
    asked: list[dict[str, Any]] = [{"type": "input_text", "text": "What is it?"}]
    if setup.sees:
        asked.append({"type": "input_image", "image_url": setup.picture, "detail": "low"})
    with responses.stream(model=model, input=[{"role": "user", "content": asked}], max_output_tokens=SHORT) as events:
        kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"], kinds
    assert kinds[-1] in ("response.completed", "response.incomplete"), kinds
    parsed = responses.parse(model=model, input="The light is on.", text_format=Switched, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Switched), parsed
    tools = [{"type": "function", "name": "switch", "parameters": DEVICE, "strict": True}]
    called = responses.create(
        model=model, input="Light on.", tools=tools, tool_choice="required", max_output_tokens=200
    )
    call = next(item for item in called.output if item.type == "function_call")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    responses.create(model=model, previous_response_id=called.id, input=[result], tools=tools, max_output_tokens=SHORT)
    assert responses.retrieve(called.id).id == called.id
    responses.delete(called.id)


def use_audio(setup: Setup) -> None:
    """Recordings in every form, a translation, a stream, and a text that is read aloud."""
    audio = setup.openai.audio
    if setup.hears:
        for form in ("json", "text", "srt", "vtt", "verbose_json"):
            more = {"timestamp_granularities": ["word", "segment"]} if form == "verbose_json" else {}
            with setup.recording.open("rb") as file:
                heard = audio.transcriptions.create(model="any", file=file, response_format=form, **more)
            assert heard if isinstance(heard, str) else heard.text is not None, heard
        with setup.recording.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # their maker has given translations up
            assert audio.translations.create(model="any", file=file).text is not None
        with setup.recording.open("rb") as file:
            events = list(audio.transcriptions.create(model="any", file=file, stream=True))
        assert events[-1].type == "transcript.text.done", events
    if setup.speaks:
        for form, start in {"wav": b"RIFF", "flac": b"fLaC", "pcm": b""}.items():
            with audio.speech.with_streaming_response.create(
                model="any", voice="any", input="Hello there.", response_format=form
            ) as answer:
                assert answer.headers["content-type"] == f"audio/{form}", answer.headers
                assert len(sound := answer.read()) > 1000 and sound.startswith(start), len(sound)


def use_realtime(setup: Setup) -> None:
    """A spoken turn with words and an answer, and one of text."""
    if not setup.hears:
        return
    from openai import AsyncOpenAI

    rate, words = 24000, {"model": "any"}
    pcm = setup.pcm(rate)
    heard = {
        "format": {"type": "audio/pcm", "rate": rate},
        "transcription": words,
        "turn_detection": {"type": "server_vad"},
    }

    async def run() -> None:
        async with (
            AsyncOpenAI(base_url=setup.base + "/v1", api_key=setup.key) as client,
            client.realtime.connect(model=setup.model) as connection,
        ):
            assert (await connection.recv()).type == "session.created"
            session = {
                "type": "realtime",
                "instructions": "Be brief.",
                "max_output_tokens": SHORT,
                "audio": {"input": heard},
            }
            await connection.session.update(session=session)
            assert (await connection.recv()).type == "session.updated"

            async def speak() -> None:
                for at in range(0, len(pcm), 1920):
                    await connection.input_audio_buffer.append(audio=base64.b64encode(pcm[at : at + 1920]).decode())
                    await asyncio.sleep(0.04)

            speaker, seen = asyncio.create_task(speak()), []
            async with asyncio.timeout(120):
                while not seen or seen[-1] != "response.done":
                    seen.append((await connection.recv()).type)
                    assert seen[-1] != "error", seen
                    if seen[-1].endswith("transcription.completed") and speaker.done():
                        break  # no words were heard, so nothing is answered
            speaker.cancel()
            kinds = ("speech_started", "speech_stopped", "committed")
            assert [f"input_audio_buffer.{kind}" for kind in kinds] == [kind for kind in seen if "buffer" in kind], seen
            text = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
            await connection.conversation.item.create(item=text)
            await connection.response.create(response={"output_modalities": ["text"]})
            async with asyncio.timeout(120):
                while (event := await connection.recv()).type != "response.done":
                    assert event.type != "error", event
            assert event.response.status in ("completed", "incomplete"), event

    asyncio.run(run())


def use_langchain(setup: Setup) -> None:
    """LangChain's model: plain, streamed, with tools, with a form, over the Responses interface."""
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    @tool
    def switch(device: Literal["light", "radio"], on: bool) -> str:
        """Switches a device."""
        return "done"

    def open_model(most: int, **options: Any) -> Any:
        return ChatOpenAI(base_url=setup.base + "/v1", api_key=setup.key, model=setup.model, max_tokens=most, **options)

    brief, long = open_model(SHORT), open_model(200)
    assert brief.invoke("Hello.").usage_metadata["output_tokens"] > 0
    assert list(brief.stream("Hello."))
    total = None
    for chunk in long.bind_tools([switch], tool_choice="any").stream("Turn on the light."):
        total = chunk if total is None else total + chunk
    assert total is not None and total.tool_calls[0]["name"] == "switch", total
    shape = {"title": "device", **DEVICE}
    for method in ("json_schema", "function_calling"):
        found = long.with_structured_output(shape, method=method).invoke("The light is on.")
        assert found["device"] in ("light", "radio"), found
    assert open_model(SHORT, use_responses_api=True).invoke("Hello.").usage_metadata["output_tokens"] > 0


def use_agents(setup: Setup) -> None:
    """OpenAI's agents: a tool is called once and its result answered, over both interfaces."""
    import agents

    agents.set_tracing_disabled(True)  # else it reports to its maker
    ran: list[str] = []

    @agents.function_tool
    def switch(device: Literal["light", "radio"]) -> str:
        """Switches a device on."""
        ran.append(device)
        return f"{device} is on"

    async def run(kind: Any) -> None:
        async with agents.AsyncOpenAI(base_url=setup.base + "/v1", api_key=setup.key) as client:
            settings = agents.ModelSettings(tool_choice="required", max_tokens=200)
            model = kind(model=setup.model, openai_client=client)
            agent = agents.Agent(
                name="Home", instructions="Use tools.", tools=[switch], model=model, model_settings=settings
            )
            result = agents.Runner.run_streamed(agent, "Turn on the light.")
            kinds = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
        assert "tool_called" in kinds and "tool_output" in kinds, kinds

    for kind in (agents.OpenAIResponsesModel, agents.OpenAIChatCompletionsModel):
        ran.clear()
        asyncio.run(run(kind))
        assert ran, kind


def use_anthropic(setup: Setup) -> None:
    """Messages: plain, streamed, a call and its result, thinking, a picture, a count."""
    from anthropic import Anthropic

    messages, model = Anthropic(base_url=setup.base, api_key=setup.key).messages, setup.model
    with messages.stream(model=model, max_tokens=SHORT, system="Be brief.", messages=QUESTION) as stream:
        final = stream.get_final_message()
    assert final.stop_reason in ("end_turn", "max_tokens") and final.usage.output_tokens > 0, final
    tools = [{"name": "switch", "description": "Switches a device.", "input_schema": DEVICE}]
    called = messages.create(model=model, max_tokens=200, tools=tools, tool_choice={"type": "any"}, messages=QUESTION)
    use = next(block for block in called.content if block.type == "tool_use")
    assert called.stop_reason == "tool_use" and use.input["device"] in ("light", "radio"), called
    result = [{"type": "tool_result", "tool_use_id": use.id, "content": "done"}]
    parts = [block.model_dump(include={"type", "text", "id", "name", "input"}) for block in called.content]
    asked: list[Any] = [*QUESTION, {"role": "assistant", "content": parts}, {"role": "user", "content": result}]
    messages.create(model=model, max_tokens=SHORT, tools=tools, messages=asked)
    thinking = {"type": "enabled", "budget_tokens": 1024}
    messages.create(model=model, max_tokens=2048, thinking=thinking, messages=QUESTION)
    if setup.sees:
        source = {"type": "base64", "media_type": "image/png", "data": setup.picture.partition(",")[2]}
        content = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
        messages.create(model=model, max_tokens=SHORT, messages=[{"role": "user", "content": content}])
    assert messages.count_tokens(model=model, messages=QUESTION).input_tokens > 0


def use_ollama(setup: Setup) -> None:
    """Chat, generate, a form, tools, and what is told of the model."""
    import json

    from ollama import Client

    client = Client(host=setup.base, headers={"Authorization": f"Bearer {setup.key}"})
    model = client.list().models[0].model
    assert "completion" in client.show(model).capabilities and client.ps().models[0].model == model
    few = {"num_predict": SHORT}
    lines = list(client.chat(model, QUESTION, stream=True, think=False, options=few))
    assert lines[-1].done and lines[-1].eval_count, lines[-1]
    formed = client.chat(model, QUESTION, format=DEVICE, options={"num_predict": 200})
    assert json.loads(formed.message.content)["device"] in ("light", "radio"), formed
    tools = [{"type": "function", "function": {"name": "switch", "description": "Switches.", "parameters": DEVICE}}]
    assert client.chat(model, QUESTION, tools=tools, options=few).done
    images = [setup.picture.partition(",")[2]] if setup.sees else None
    assert client.generate(model, "What is it?", images=images, options=few).done


USES: dict[str, tuple[Callable[[Setup], None], str]] = {
    "openai": (use_openai, "openai"),
    "responses": (use_responses, "openai"),
    "audio": (use_audio, "openai"),
    "realtime": (use_realtime, "openai"),
    "langchain": (use_langchain, "langchain-openai"),
    "agents": (use_agents, "openai-agents"),
    "anthropic": (use_anthropic, "anthropic"),
    "ollama": (use_ollama, "ollama"),
}


def main() -> int:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*USES, []], help="which uses (default: all)")
    parser.add_argument(
        "--base", default="http://127.0.0.1:8080", metavar="URL", help="the server (default: %(default)s)"
    )
    parser.add_argument("--key", default="none", help="its key (default: %(default)s)")
    parser.add_argument(
        "--recording", type=Path, default=RECORDING, metavar="FILE", help="speech, a wav file of one channel"
    )
    args = parser.parse_args()
    setup, failed = Setup(args.base, args.key, args.recording), 0
    print(f"{setup.model} at {setup.base}: sees {setup.sees}, hears {setup.hears}")
    for name in args.names or USES:
        use, package = USES[name]
        try:
            use(setup)
            print(f"{name}: good, with {package} {importlib.metadata.version(package)}")
        except ImportError as error:
            print(f"{name}: left out, {error}")
        except Exception:
            failed += 1
            print(f"{name}: WRONG\n{traceback.format_exc()}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
