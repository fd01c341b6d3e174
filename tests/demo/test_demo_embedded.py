"""The demonstration with the embedded model, and how it is named and announced."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.assistant.spoken import UNSURE
from edge_gemma.audio.source import load_audio, open_audio
from edge_gemma.chat.conversation import Chat
from edge_gemma.chat.tools import Toolbox
from edge_gemma.cli import main
from edge_gemma.demo import utterances
from edge_gemma.demo.demo import Demo
from edge_gemma.demo.home import DONE, INSTRUCTIONS, Home
from edge_gemma.demo.utterances import bundled
from edge_gemma.engine.sampling import Sampling
from edge_gemma.hub import resolve
from support.dialogue import (
    write_recordings,
)
from support.listening import MMPROJ, MODEL
from support.scripted import RATE

ROOT = Path(eg.__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("utterances"))


NO_MODEL = not os.path.isfile(resolve.EMBEDDED)


@pytest.fixture
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGE_GEMMA_MODEL", "EDGE_GEMMA_MMPROJ"):
        monkeypatch.delenv(name, raising=False)


def embed(monkeypatch: pytest.MonkeyPatch, model: Any, mmproj: Any) -> None:
    monkeypatch.setattr(resolve, "EMBEDDED", str(model))
    monkeypatch.setattr(resolve, "EMBEDDED_MMPROJ", str(mmproj))


VERBS = [
    ["run", "x"],
    ["chat"],
    ["info"],
    ["bench"],
    ["transcribe", "x.wav"],
    ["translate", "--to=de", "x"],
    ["listen"],
    ["demo"],
]


@pytest.mark.parametrize("command", VERBS, ids=lambda command: command[0])
def test_no_model_at_all(
    command: list[str], nothing_named: None, monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    embed(monkeypatch, tmp_path / "none.gguf", tmp_path / "none.gguf")
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "--model FILE" in message and "EDGE_GEMMA_MODEL" in message and "Hugging Face" in message


@pytest.mark.filterwarnings("ignore:no model was named")
def test_the_embedded_model_is_the_default(nothing_named: None, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    embed(monkeypatch, tmp_path / "none.gguf", tmp_path / "none.gguf")
    with pytest.raises(ValueError, match="pull e2b"):
        eg.Model.load()
    embed(monkeypatch, MODEL, MMPROJ)
    with eg.Model.load() as model:
        assert model.path == MODEL and model.has_audio
    assert resolve.model_files() == (str(MODEL), str(MMPROJ)) and resolve.is_embedded(str(MODEL))
    assert resolve.model_files(None, "ears") == (str(MODEL), "ears")
    monkeypatch.setenv("EDGE_GEMMA_MMPROJ", "ears")  # of a model that nobody names
    assert resolve.model_files() == (str(MODEL), str(MMPROJ))
    monkeypatch.setenv("EDGE_GEMMA_MODEL", str(MODEL.parent / "dense-Q4_0.gguf"))
    assert not resolve.is_embedded(resolve.model_files()[0])
    with eg.Model.load(MODEL) as model:
        assert not model.has_audio  # a path means what it says
    embed(monkeypatch, MODEL, tmp_path / "none.gguf")
    monkeypatch.delenv("EDGE_GEMMA_MODEL")
    assert resolve.model_files() == (str(MODEL), None)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_notice(options: tuple[str, ...], nothing_named: None, monkeypatch: Any, capsys: Any) -> None:
    """It is said on standard error, terminal or not, when the toy answers and nobody asked for it."""
    embed(monkeypatch, MODEL, MMPROJ)
    command = ["run", "--temperature", "0", "--max-tokens", "1", *options, "x"]
    assert main(command) == 0
    notice = capsys.readouterr().err
    assert "toy" in notice and "edge_gemma pull e2b" in notice and len(notice.splitlines()) == 1
    assert main([*command, "--model", "toy"]) == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize("microphone", [True, False])
def test_the_demo_says_it_in_its_own_way(
    microphone: bool, folder: Path, nothing_named: None, monkeypatch: Any, capsys: Any
) -> None:
    from edge_gemma.audio import microphone as microphones

    embed(monkeypatch, MODEL, MMPROJ)
    monkeypatch.setattr(utterances, "FOLDER", folder)
    monkeypatch.setattr(microphones, "devices", lambda: ["one"] * microphone)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["demo", "--fast", "-t", "1", "--language", "de"]) == 0
    shown = capsys.readouterr()
    assert "This was a toy model: " in shown.out and "edge_gemma chat --model e2b" in shown.out and shown.err == ""
    assert ("edge_gemma listen --model e2b" in shown.out) == microphone
    notice = shown.out.split("This was a toy model")[1]
    assert "4.56 M parameters in 4.58 MB" in " ".join(notice.split())
    prose = notice[: notice.index("engine:")]
    assert max(map(len, prose.splitlines())) <= 60 and all(line in "".join(prose) for line in ("synthetic", "Spanish"))


@pytest.mark.parametrize("hub", [True, False])
def test_the_advice_at_the_end_can_be_typed(hub: bool, folder: Path, tmp_path: Path) -> None:
    """With the command inside and outside of PATH, and as a module."""
    program = tmp_path / "bin" / "edge-gemma"
    program.parent.mkdir()
    hidden = "" if hub else "sys.modules['huggingface_hub'] = None; "
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, sys; {hidden}\nfrom edge_gemma.cli import main\nsys.exit(main())"
    )
    program.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_GEMMA")}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}

    def advice(*command: str, path: str = "") -> list[str]:
        options = {**env, "PATH": path + os.environ["PATH"]}
        shown = subprocess.run([*command, "demo", "--fast", "-l", "es"], env=options, cwd=tmp_path, capture_output=True)
        assert shown.returncode == 0, shown.stderr
        return [line.strip() for line in shown.stdout.decode().splitlines() if "e2b" in line or "pip" in line]

    for shown, name in (
        (advice("bin/edge-gemma"), "bin/edge-gemma"),
        (advice("bin/edge-gemma", path=f"{program.parent}{os.pathsep}"), "edge-gemma"),
    ):
        assert f"{name} pull e2b" in shown and f"{name} chat --model e2b" in shown
        assert ("-m pip install huggingface_hub" in shown[0]) == (not hub)
        for line in shown:
            typed = line.split()[0]
            assert typed == "edge-gemma" or shutil.which(typed, path=None) or os.access(tmp_path / typed, os.X_OK)


@pytest.mark.skipif(NO_MODEL, reason="the checkout is without the embedded model")
@pytest.mark.skipif(not (utterances.FOLDER / "utterances.json").is_file(), reason="the checkout is without utterances")
def test_the_embedded_model_understands_every_utterance(nothing_named: None) -> None:
    items = bundled()
    with eg.Model.load() as model, Demo(model, detector="energy") as demo:
        done = [event.exchange for event in demo.perform(items, live=False) if event.kind == "done"]
        expected = Home()
        for item in items:
            if item.call:
                before = expected.state()
                result = Toolbox(expected.tools).call(item.call["name"], item.call["arguments"])
                assert "error" not in str(result)
                assert result != DONE or expected.state() != before  # there is something to see
        assert [exchange.utterance for exchange in done] == items
        wrong = [
            (exchange.text, exchange.calls, exchange.reply) for exchange in done if not all(exchange.verdict().values())
        ]
        assert not wrong
        assert demo.home.state() == expected.state()
    assert {"en", "es", "de"} <= {item.language for item in items}


@pytest.mark.skipif(NO_MODEL, reason="the checkout is without the embedded model")
@pytest.mark.skipif(not (utterances.FOLDER / "utterances.json").is_file(), reason="the checkout is without utterances")
def test_calls_are_those_of_the_shown_words(nothing_named: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where noise makes the words wrong: typed in a chat, they lead to the same calls."""
    monkeypatch.setattr("edge_gemma.demo.demo._TOY_LOGPROB", None)  # words that are not sure are answered, too
    monkeypatch.setattr("edge_gemma.demo.demo._TOY_PROBABILITY", 0.0)
    rng, wrong, called = np.random.default_rng(1), 0, 0
    with eg.Model.load("toy") as model:
        for item, loudness in itertools.product(bundled()[:6], (0.1, 0.6)):
            samples = load_audio(item.path)
            noise = rng.standard_normal(len(samples)).astype(np.float32) * samples.std()
            with Demo(model, detector="energy") as demo:
                quiet = np.zeros(RATE, np.float32)
                sound = np.concatenate([quiet, samples + noise * loudness, quiet]).astype(np.float32)
                done = [event.exchange for event in demo.run(open_audio(sound)) if event.kind == "done"]
            for exchange in done:
                assert exchange
                wrong += exchange.text != item.text
                called += len(exchange.calls)
                calls = typed(model, exchange.text) if exchange.text else []
                assert [(call.name, call.arguments) for call in exchange.calls] == calls, exchange.text
    assert wrong and called >= 5


@pytest.mark.skipif(NO_MODEL, reason="the checkout is without the embedded model")
@pytest.mark.skipif(not (utterances.FOLDER / "utterances.json").is_file(), reason="the checkout is without utterances")
def test_typed_commands_are_as_right_with_declarations_that_limit_them() -> None:
    """Also in words that the model hardly knows, where it is more likely to write a call that is none."""
    pytest.importorskip("llguidance", reason="needs llguidance")
    free = limited = 0
    with eg.Model.load("toy") as model:
        for item in bundled():
            for words in (item.text, f"Well, erm, {item.text.lower().replace('the ', 'that ')}"):
                want = [] if item.call is None else [(item.call["name"], item.call["arguments"])]
                free += typed(model, words) == want
                limited += typed(model, words, constrain=True) == want
    assert limited >= free > len(bundled()) / 2


def typed(model: eg.Model, words: str, constrain: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """What the model calls when somebody types these words."""
    with Chat(
        model, INSTRUCTIONS, Home().tools, sampling=Sampling(temperature=0), max_rounds=2, constrain=constrain
    ) as chat:
        return [
            (event.call.name, event.call.arguments)
            for event in chat.send(words)
            if event.call and event.kind == "tool_call"
        ]


@pytest.mark.skipif(NO_MODEL, reason="the checkout is without the embedded model")
@pytest.mark.parametrize("detector", ["energy", "none"])
def test_the_embedded_model_does_nothing_because_of_noise(detector: str, nothing_named: None) -> None:
    rng = np.random.default_rng(5)
    rumble = np.cumsum(rng.standard_normal(40000))
    sounds = {
        "hiss": rng.standard_normal(40000),
        "rumble": (rumble - np.linspace(rumble[0], rumble[-1], 40000)) / rumble.std(),
        "hum": np.sin(np.arange(40000) * 2 * np.pi * 50 / RATE)
        + 0.3 * np.sin(np.arange(40000) * 2 * np.pi * 150 / RATE),
        "burst": np.concatenate([np.zeros(6000), rng.standard_normal(20000), np.zeros(6000)]),
    }
    home = Home()
    before = home.state()
    with eg.Model.load("toy") as model, Demo(model, home=home, detector=detector) as demo:
        for name, samples in sounds.items():
            for loudness in (0.02, 0.2):
                events = list(demo.run(open_audio((samples * loudness).astype(np.float32))))
                for event in events:
                    assert event.kind not in ("call", "translation"), name
                    assert event.kind != "transcript" or event.text == "", name
    assert home.state() == before


@pytest.mark.skipif(NO_MODEL, reason="the checkout is without the embedded model")
@pytest.mark.skipif(not (utterances.FOLDER / "utterances.json").is_file(), reason="the checkout is without utterances")
def test_the_embedded_model_does_nothing_because_of_other_speech(nothing_named: None) -> None:
    """Commands played backwards sound like speech of another language."""
    done, home = [], Home()
    before = home.state()
    with eg.Model.load("toy") as model, Demo(model, home=home, detector="energy") as demo:
        for item in bundled():
            samples = np.concatenate([np.zeros(RATE // 2), load_audio(item.path)[::-1], np.zeros(RATE)])
            done += [
                event.exchange for event in demo.run(open_audio(samples.astype(np.float32))) if event.kind == "done"
            ]
    unsure = [exchange for exchange in done if exchange and exchange.problem == UNSURE]
    assert len(done) >= 9 and len(unsure) >= len(done) - 1
    for exchange in unsure:
        assert exchange.calls == [] and exchange.reply == "" and exchange.translation is None and exchange.timing
    assert home.state() == before or len(unsure) < len(done)


@pytest.mark.skipif(NO_MODEL, reason="the checkout is without the embedded model")
def test_the_embedded_model_reads_what_it_hears(nothing_named: None) -> None:
    home = Home()
    with eg.Model.load() as model:
        assert model.has_audio
        with model.chat(system=INSTRUCTIONS, tools=home.tools, sampling=Sampling(temperature=0)) as chat:
            list(chat.send("Turn on the kitchen light."))
    assert home.rooms["kitchen"].on["light"]


@pytest.mark.skipif(NO_MODEL, reason="the checkout is without the embedded model")
@pytest.mark.parametrize("options", [("--to", "fr"), ("--to", "Italian"), ("--microphone", "-l", "pl")])
def test_the_embedded_model_is_not_asked_for_other_languages(options: Any, nothing_named: None, capsys: Any) -> None:
    assert main(["demo", "--fast", *options] if "--microphone" not in options else ["demo", *options]) != 0
    shown = capsys.readouterr()
    assert "English, Spanish and German" in shown.err and "[1 of" not in shown.out
