"""Voices: programs, servers and packages that make sound of text, and what happens when they fail."""

from __future__ import annotations

import http.server
import io
import json
import os
import shutil
import sys
import threading
import time
import types
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_gemma.assistant.interface import EdgeGemmaVoiceError, Voice
from edge_gemma.assistant.voices.command import CommandVoice
from edge_gemma.assistant.voices.espeak import EspeakVoice
from edge_gemma.assistant.voices.opening import open_voice
from edge_gemma.assistant.voices.piper_voices import PiperVoices
from edge_gemma.assistant.voices.process import text_pieces
from edge_gemma.assistant.voices.speech_server import SpeechServer

TONE = (np.sin(np.arange(4000) * 0.3) * 9000).astype(np.int16)


def spoken(voice: Voice, text: str, language: str | None = None) -> np.ndarray[Any, Any]:
    found = list(voice.speak(text, language))
    assert all(piece.dtype == np.int16 and piece.ndim == 1 for piece in found)
    return np.concatenate(found) if found else np.zeros(0, np.int16)


def wav(samples: np.ndarray[Any, Any], rate: int = 22050, channels: int = 1, width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(channels)
        made.setsampwidth(width)
        made.setframerate(rate)
        made.writeframes(samples.tobytes())
    return file.getvalue()


def eventually(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


# ---- espeak-ng -------------------------------------------------------------------------------------------------------

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@needs_espeak
def test_espeak_speaks() -> None:
    voice = EspeakVoice()
    short, long = spoken(voice, "One."), spoken(voice, "One two three four five six seven eight.")
    assert voice.sample_rate == 22050 and 0.2 < len(short) / 22050 < 1.5 and len(long) > 2 * len(short)
    assert np.abs(long.astype(int)).max() > 3000
    assert np.array_equal(spoken(voice, "One."), short)  # and the voice stays usable


@needs_espeak
@pytest.mark.parametrize(
    "text, other",
    [
        ("Hello [[h@l`oU]] you", "Hello [ [h@l`oU]] you"),  # no phonemes
        ("one\x01two\x1b", "one two "),  # no commands
        ("-w stolen.wav", " -w stolen.wav"),  # no options
        ("$(touch stolen) `touch stolen` ; touch stolen", " $(touch stolen) `touch stolen` ; touch stolen"),  # no shell
        ("half \ud800 a character", "half  a character"),
    ],
)
def test_espeak_speaks_a_text_and_nothing_else(
    text: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    voice = EspeakVoice()
    assert len(spoken(voice, text)) > 5000 and np.array_equal(spoken(voice, text), spoken(voice, other))
    assert list(tmp_path.iterdir()) == []


@needs_espeak
def test_espeak_does_not_interpret_markup() -> None:
    voice = EspeakVoice()
    assert len(spoken(voice, '<break time="9s"/>one', "en")) < 8 * 22050
    assert spoken(voice, "", "en").size == 0


@needs_espeak
def test_espeak_speaks_long_texts() -> None:
    voice = EspeakVoice(words_per_minute=450)
    words = "alpha beta gamma " * 1200
    pieces = voice.speak(words, "en")
    assert len(next(pieces)) and sum(map(len, pieces)) > 300 * 22050


@needs_espeak
def test_espeak_speaks_the_language_of_the_text() -> None:
    voice = EspeakVoice()
    text = "Die Milch und das Brot."
    german, english = spoken(voice, text, "de"), spoken(voice, text, "en")
    assert not np.array_equal(german, english)
    assert np.array_equal(spoken(EspeakVoice("de"), text, "de-AT"), german)
    assert np.array_equal(spoken(voice, text, "tlh"), english)  # nobody speaks that: the voice's own
    assert len(spoken(voice, "你好世界", "zh")) > 10000
    high = EspeakVoice("en+f3")
    assert not np.array_equal(spoken(high, "Hello.", "en"), spoken(voice, "Hello.", "en"))
    assert np.array_equal(spoken(high, text, "de"), german)


@needs_espeak
def test_espeak_guesses_the_language() -> None:
    pytest.importorskip("py3langid")
    voice = EspeakVoice()
    text = "Das Licht in der Küche ist jetzt an."
    assert np.array_equal(spoken(voice, text), spoken(voice, text, "de"))
    text = "The kitchen light is on."
    assert np.array_equal(spoken(voice, text), spoken(EspeakVoice("en"), text, "en"))


@needs_espeak
def test_espeak_stops_at_once() -> None:
    """Closing the iterator ends the process, however much it has to say."""
    voice = EspeakVoice(words_per_minute=80)
    pieces = voice.speak("word " * 2000, "en")
    next(pieces)
    began = {process for process in children() if "espeak" in process[1]}
    assert began
    pieces.close()
    assert not began & children()
    assert spoken(voice, "Next.").size


def children() -> set[tuple[int, str]]:
    """Number and name of each process that this one has started, zombies included."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition(" (")[2].rpartition(") ")
        except OSError:
            continue
        if int(rest.split()[1]) == os.getpid():
            found.add((int(folder.name), name))
    return found


@pytest.mark.parametrize("options, message", [({"program": "espeak-nowhere"}, "apt install espeak-ng|brew install")])
def test_without_espeak_it_is_said_what_to_install(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeGemmaVoiceError, match=message) as caught:
        EspeakVoice(**options)
    assert caught.value.code == "voice"


@needs_espeak
def test_what_espeak_refuses() -> None:
    with pytest.raises(EdgeGemmaVoiceError, match=r"espeak-ng has failed: .*does not exist\."):
        EspeakVoice("nosuch")
    with pytest.raises(EdgeGemmaVoiceError, match="80 to 450 words"):
        EspeakVoice(words_per_minute=10)


# ---- commands --------------------------------------------------------------------------------------------------------


def script(folder: Path, code: str) -> str:
    """A command that runs Python code, in which `text` is what it reads and `out` takes bytes."""
    path = folder / "my voice.py"
    path.write_text(
        "import os, sys, time\n"
        "text, out = sys.stdin.buffer.read().decode(), sys.stdout.buffer\n"
        f"TONE = {TONE.tobytes()!r}\n{code}\n"
    )
    return f"'{sys.executable}' '{path}'"


def test_a_command_gives_raw_samples(tmp_path: Path) -> None:
    voice = CommandVoice(script(tmp_path, "out.write(TONE * len(text))"), 16000)
    assert voice.sample_rate == 16000
    assert np.array_equal(spoken(voice, "abc"), np.tile(TONE, 3)) and spoken(voice, "").size == 0


def test_a_command_learns_the_language(tmp_path: Path) -> None:
    code = "out.write(TONE * (len(sys.argv[1]) + 10 * len(os.environ['EDGE_GEMMA_LANGUAGE'])))"
    voice = CommandVoice(script(tmp_path, code) + " {language}", 16000)
    assert len(spoken(voice, "a", "de")) == 22 * len(TONE) and spoken(voice, "a").size == 0


@pytest.mark.parametrize("cut", [False, True])
def test_a_command_gives_wav(tmp_path: Path, cut: bool) -> None:
    data = wav(TONE, 22050)
    if cut:  # as written to a pipe, whose length is not known beforehand
        data = data[:40] + b"\x00\xf0\xff\x7f" + data[44:]
    voice = CommandVoice(script(tmp_path, f"out.write({data!r})"))
    assert np.array_equal(spoken(voice, "a"), TONE)


def test_wav_of_other_kinds_is_converted(tmp_path: Path) -> None:
    stereo = np.stack([TONE, TONE], axis=1)
    voice = CommandVoice(script(tmp_path, f"out.write({wav(stereo, channels=2)!r})"))
    assert np.array_equal(spoken(voice, "a"), TONE)
    bytes8 = (TONE // 256 + 128).astype(np.uint8)
    heard = spoken(CommandVoice(script(tmp_path, f"out.write({wav(bytes8, width=1)!r})")), "a")
    assert np.abs(heard.astype(int) - TONE).max() <= 256
    pytest.importorskip("soxr")
    heard = spoken(CommandVoice(script(tmp_path, f"out.write({wav(TONE, 44100)!r})")), "a")
    assert abs(len(heard) - len(TONE) // 2) <= 2 and heard.max() > 8000


def test_the_sound_of_a_command_comes_while_it_is_made_and_can_be_stopped(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    code = (
        f"out.write(TONE); out.flush()\nif os.fork() == 0:\n    time.sleep(600)\n"
        f"time.sleep(600); open({str(gone)!r}, 'w')"
    )
    pieces = CommandVoice(script(tmp_path, code)).speak("a")
    assert len(next(pieces))
    before = children()
    pieces.close()
    assert len(children()) < len(before) and not gone.exists()


@pytest.mark.parametrize(
    "code, message",
    [
        ("sys.exit(3)", "has failed: status 3"),
        ("print('no such voice.', file=sys.stderr); sys.exit(1)", r"has failed: no such voice\."),
        ("out.write(b'RIFFxxxxWAVE')", "is damaged"),
        ("out.write(b'RIFF\\x00\\x00\\x00\\x00WAVEfmt \\x10\\x00\\x00\\x00U\\x00\\x01\\x00\\x22V\\x00\\x00\\x00\\x00\\x00"
         "\\x00\\x01\\x00\\x10\\x00data\\x00\\x00\\x00\\x00')", "compressed sound"),
    ],
)  # fmt: skip
def test_commands_that_fail(tmp_path: Path, code: str, message: str) -> None:
    voice = CommandVoice(script(tmp_path, code))
    with pytest.raises(EdgeGemmaVoiceError, match=message):
        spoken(voice, "Hello.")


def test_a_silent_command_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edge_gemma.assistant.voices.process.SpeakingProcess.__init__.__defaults__", (None, 0.2), raising=True
    )
    with pytest.raises(EdgeGemmaVoiceError, match=r"no sound for 0\.2 seconds"):
        spoken(CommandVoice(script(tmp_path, "time.sleep(600)")), "Hello.")


def test_a_command_that_reads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deaf.py"
    path.write_text(f"import sys\nsys.stdin.close()\nsys.stdout.buffer.write({TONE.tobytes()!r})")
    assert np.array_equal(spoken(CommandVoice(f"'{sys.executable}' '{path}'"), "word " * 2000)[: len(TONE)], TONE)


@pytest.mark.parametrize(
    "command, message",
    [("", "is empty"), ("'a", "cannot be read"), ("no-such-program -x", "no program no-such-program")],
)
def test_unusable_commands(command: str, message: str) -> None:
    with pytest.raises(EdgeGemmaVoiceError, match=message):
        CommandVoice(command)


@pytest.mark.parametrize("text", ["word " * 9000, "x" * 40000, "ü" * 30000, "short", ""])
def test_texts_are_cut_for_pipes(text: str) -> None:
    parts = list(text_pieces(text))
    assert "".join(parts) == text and all(len(part.encode()) <= 12000 for part in parts)


# ---- servers ---------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Answers as `answer` says, and keeps what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.left = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append((self.path, dict(self.headers), body))
                try:
                    answer(self)
                except OSError:
                    server.left.set()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def start(answer: Any) -> Server:
        servers.append(Server(answer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer_with(body: bytes, kind: str = "audio/pcm", status: int = 200) -> Any:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_a_server_speaks(serve: Any) -> None:
    server = serve(answer_with(TONE.tobytes()))
    voice = SpeechServer(server.url, "anna", "kokoro", "secret")
    assert voice.sample_rate == 24000 and np.array_equal(spoken(voice, "Grüße!", "de"), TONE)
    ((path, headers, body),) = server.asked
    assert path == "/v1/audio/speech" and headers["Authorization"] == "Bearer secret"
    assert body == {"model": "kokoro", "voice": "anna", "input": "Grüße!", "response_format": "pcm"}


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/", "/v1/audio/speech"),
        ("/v1", "/v1/audio/speech"),
        ("/v1/audio/speech", "/v1/audio/speech"),
        ("/tts/v1/?a=b", "/tts/v1/audio/speech?a=b"),
    ],
)
def test_addresses_of_servers(serve: Any, path: str, expected: str) -> None:
    server = serve(answer_with(wav(TONE, 24000), "audio/wav"))
    assert np.array_equal(spoken(SpeechServer(server.url + path), "a"), TONE)
    assert server.asked[0][0] == expected and "Authorization" not in server.asked[0][1]


def test_the_sound_of_a_server_comes_while_it_is_made_and_can_be_stopped(serve: Any) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "audio/pcm")
        handler.end_headers()
        while True:
            handler.wfile.write(TONE.tobytes())
            time.sleep(0.01)

    server = serve(answer)
    pieces = SpeechServer(server.url).speak("a")
    assert len(next(pieces)) and len(next(pieces))
    pieces.close()
    assert server.left.wait(10)


@pytest.mark.parametrize(
    "answer, message",
    [
        (answer_with(b'{"error": {"message": "No voice anna."}}', "application/json", 404), "answered 404: No voice anna."),
        (answer_with(b'{"detail": "broken"}', "application/json", 500), "answered 500: broken."),
        (answer_with(b"", "text/html", 302), "answered 302: Found."),
        (answer_with(b"{}", "application/json"), "answered application/json"),
        (answer_with(b"ID3", "audio/mpeg"), "answered audio/mpeg"),
        (lambda handler: handler.connection.close(), "cannot be used"),
        (lambda handler: time.sleep(1), "not answered for 0.2 seconds"),
    ],
)  # fmt: skip
def test_servers_that_fail(serve: Any, answer: Any, message: str) -> None:
    with pytest.raises(EdgeGemmaVoiceError, match=message):
        spoken(SpeechServer(serve(answer).url, patience=0.2), "Hello.")


def test_no_server() -> None:
    with pytest.raises(EdgeGemmaVoiceError, match="cannot be used: Connection refused"):
        spoken(SpeechServer("http://127.0.0.1:9"), "Hello.")
    for url in ("ftp://a", "http://", "http://a:b"):
        with pytest.raises(EdgeGemmaVoiceError, match="address of the voice"):
            SpeechServer(url)


# ---- Piper -----------------------------------------------------------------------------------------------------------


class FakePiper:
    """Stands for the package piper: a voice that says a second of its number."""

    def __init__(self, path: str) -> None:
        if "damaged" in path:
            raise RuntimeError("Protobuf parsing failed")
        self.number = int(Path(path).stem[-1])

    load = classmethod(lambda cls, path: cls(path))

    def synthesize(self, text: str) -> Iterator[Any]:
        for sentence in text.split("."):
            if "?" in sentence:
                raise ValueError("no phoneme")
            yield types.SimpleNamespace(audio_int16_array=np.full(22050, self.number, np.int16))


def piper_voice(folder: Path, name: str, language: str, rate: int = 22050) -> str:
    path = folder / f"{name}.onnx"
    path.write_bytes(b"")
    (folder / f"{name}.onnx.json").write_text(
        json.dumps({"audio": {"sample_rate": rate}, "espeak": {"voice": language}, "language": {"code": language}})
    )
    return str(path)


@pytest.fixture
def piper(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("piper")
    module.PiperVoice = FakePiper  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "piper", module)


@pytest.mark.usefixtures("piper")
def test_piper_has_a_voice_for_each_language(tmp_path: Path) -> None:
    voice = open_voice(f"{piper_voice(tmp_path, 'v1', 'en_US')},{piper_voice(tmp_path, 'v2', 'de_DE')}")
    assert voice.sample_rate == 22050
    assert set(spoken(voice, "One.", "en-GB")) == {1} and set(spoken(voice, "Eins.", "de")) == {2}
    assert set(spoken(voice, "Un.", "fr")) == {1}
    pieces = voice.speak("One. Two.", "en")
    assert len(next(pieces)) == 2205
    pieces.close()  # type: ignore[attr-defined]
    with pytest.raises(EdgeGemmaVoiceError, match="cannot speak this text: no phoneme"):
        spoken(voice, "What?", "en")
    voice.close()


@pytest.mark.usefixtures("piper")
def test_unusable_voices_of_piper(tmp_path: Path) -> None:
    with pytest.raises(EdgeGemmaVoiceError, match=r"x\.onnx\.json cannot be read: No such file"):
        PiperVoices([str(tmp_path / "x.onnx")])
    with pytest.raises(EdgeGemmaVoiceError, match="different rates of samples: 22050, 16000"):
        PiperVoices([piper_voice(tmp_path, "a1", "en"), piper_voice(tmp_path, "b2", "de", 16000)])
    with pytest.raises(EdgeGemmaVoiceError, match=r"damaged1\.onnx cannot be opened"):
        PiperVoices([piper_voice(tmp_path, "damaged1", "en")])
    (tmp_path / "c1.onnx.json").write_text("[]")
    with pytest.raises(EdgeGemmaVoiceError, match=r"c1\.onnx.json does not describe a voice"):
        PiperVoices([str(tmp_path / "c1.onnx")])


def test_without_piper_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piper", None)
    with pytest.raises(EdgeGemmaVoiceError, match="pip install piper-tts"):
        open_voice("en_US-amy-low.onnx")


# ---- opening ---------------------------------------------------------------------------------------------------------


@needs_espeak
def test_voices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_voice(), EspeakVoice) and isinstance(open_voice("espeak-ng"), EspeakVoice)
    text = "Milch und Brot."
    assert np.array_equal(spoken(open_voice("espeak-ng:de"), text, "de"), spoken(open_voice("de"), text, "de"))
    assert isinstance(open_voice("http://localhost:8000#anna"), SpeechServer)
    command = open_voice(command="cat", rate=16000)
    assert isinstance(command, CommandVoice) and command.sample_rate == 16000
    for options in ({"voice": "de", "command": "cat"}, {"voice": "/usr/bin/thing"}):
        with pytest.raises(EdgeGemmaVoiceError):
            open_voice(**options)
