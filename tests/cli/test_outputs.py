"""What commands may write: no file of anybody else is replaced, errors name the output, and one file's trouble is its own."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edge_gemma as eg
from edge_gemma.cli import main
from edge_gemma.cli.encoding import tolerate_encoding
from edge_gemma.cli.outputs import check_output, replacing
from support.paths import ROOT
from support.processes import read_output

UTTERANCES = ROOT / "edge_gemma" / "demo" / "data" / "utterances"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two recordings, in which the command is run."""
    for name, source in (("a.wav", "1-en.wav"), ("b.wav", "5-en.wav")):
        shutil.copy(UTTERANCES / source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def transcribe(*args: str) -> int:
    return main(["transcribe", "--model", "toy", *args])


def unchanged(folder: Path) -> bool:
    return all(
        (folder / name).read_bytes() == (UTTERANCES / source).read_bytes()
        for name, source in (("a.wav", "1-en.wav"), ("b.wav", "5-en.wav"))
    )


@pytest.mark.parametrize(
    "args",
    [
        ("-o", "a.wav", "b.wav"),  # what the shell makes of `-o *.wav`
        ("-o", "a.wav", "b.wav", "--format", "txt"),
        ("-o", "a.wav", "b.wav", "--format", "txt", "--force"),
        ("-o", "a.wav", "b.wav", "--format", "txt", "--resume"),
        ("-o", "a.wav", "a.wav", "--format", "txt", "--force"),
        ("-o", "hard.txt", "b.wav", "--force"),
        ("-o", "soft.txt", "b.wav", "--force"),
        ("-o", "a.wav", "a.wav", "b.wav", "--force"),
    ],
)
def test_recordings_are_never_replaced(folder, args):
    os.link(folder / "a.wav", folder / "hard.txt")
    os.symlink("a.wav", folder / "soft.txt")
    before = sorted(os.listdir(folder))
    status = transcribe(*args)
    assert unchanged(folder) and sorted(os.listdir(folder)) == before
    assert status == (0 if "--resume" in args else 2)  # --resume skips what is there


def test_force_replaces_text_only(folder, capsys):
    (folder / "out.txt").write_text("precious")
    assert transcribe("a.wav", "-o", "out.txt") == 2
    assert (folder / "out.txt").read_text() == "precious" and "--force" in capsys.readouterr().err
    assert transcribe("a.wav", "-o", "out.txt", "--force") == 0
    assert "kitchen" in (folder / "out.txt").read_text()
    (folder / "empty.txt").touch()  # as mktemp leaves it
    assert transcribe("a.wav", "-o", "empty.txt") == 0


def test_an_interrupted_run_is_not_begun_anew_by_accident(folder, capsys):
    part = folder / "out.txt.part"
    part.write_text('{"edge-gemma": "unfinished transcript", "version": 1}\n')
    assert transcribe("a.wav", "-o", "out.txt") == 2
    assert "--resume" in capsys.readouterr().err and part.exists()
    for foreign in (b"RIFF\0\0\0\0WAVE", b"notes of somebody\n", b'{"mine": 1}\n'):
        part.write_bytes(foreign)
        for option in ("--force", "--resume", "--verbose"):
            assert transcribe("a.wav", "-o", "out.txt", option) == 2 and part.read_bytes() == foreign
        assert "in the way" in capsys.readouterr().err
    part.write_bytes(b"")  # as a full disk leaves it
    assert transcribe("a.wav", "-o", "out.txt", "--resume") == 0 and not part.exists()


def test_names_that_say_no_format(folder, capsys):
    assert transcribe("a.wav", "-o", "long.docx") == 2
    assert "txt, srt, vtt" in capsys.readouterr().err and not (folder / "long.docx").exists()
    assert transcribe("a.wav", "-o", "long.docx", "--format", "txt") == 0
    assert transcribe("a.wav", "-o", "OUT.SRT") == 0 and "-->" in (folder / "OUT.SRT").read_text()


def test_several_recordings_want_a_directory(folder, capsys):
    assert transcribe("a.wav", "b.wav", "-o", "r.srt") == 2
    assert "give a directory" in capsys.readouterr().err and not (folder / "r.srt").exists()
    assert transcribe("a.wav", "b.wav", "-o", "texts") == 0
    assert sorted(os.listdir(folder / "texts")) == ["a.txt", "b.txt"]
    assert transcribe("a.wav", "b.wav", "-o", "texts/") == 2  # they exist already


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_errors_name_the_output(folder, capsys):
    assert transcribe("a.wav", "-o", "/dev/full") == 1
    assert "/dev/full cannot be written: No space left" in capsys.readouterr().err
    command = [sys.executable, "-m", "edge_gemma", "transcribe", "--model", "toy", "a.wav", "b.wav"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}, text=True)
    assert done.returncode == 1 and "standard output cannot be written: No space left" in done.stderr
    assert "a.wav" not in done.stderr and "1 failed, 1 not begun" in done.stderr
    command = [sys.executable, "-m", "edge_gemma", "transcribe", "--model", "toy", "a.wav", "-o", "/dev/stdout"]
    with open("redirected", "w") as file:
        subprocess.run(command, stdout=file, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert "kitchen" in (folder / "redirected").read_text()
    with open("redirected", "a") as file:  # what the shell appends to keeps what it has
        subprocess.run(command, stdout=file, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert (folder / "redirected").read_text().count("kitchen") == 2
    assert transcribe("a.wav", "-o", "nowhere/x.txt") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_names_that_are_not_utf8(folder, capfd):
    name = os.fsdecode(b"caf\xe9.wav")
    shutil.copy("a.wav", name)
    for format in ("txt", "srt", "json", "jsonl"):
        assert transcribe(name, "b.wav", "--format", format, "-o", f"out-{format}") == 0
        assert len(os.listdir(f"out-{format}")) == 2
    assert json.loads((folder / "out-json" / os.fsdecode(b"caf\xe9.json")).read_text())["file"] == name
    assert transcribe(name, "b.wav", "--format", "json", "-o", "out-json", "--resume") == 0
    assert transcribe(name, "missing.wav", "b.wav", "--format", "json") == 1
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line)["complete"] for line in lines] == [True, True]


def test_an_internal_error_is_the_trouble_of_one_file(folder, capsys, monkeypatch):
    from edge_gemma.cli import recordings

    do = recordings._Work.do

    def fails_for_a(self, file, output, heading):
        if file == "a.wav":
            raise UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed")
        return do(self, file, output, heading)

    monkeypatch.setattr(recordings._Work, "do", fails_for_a)
    assert transcribe("a.wav", "b.wav") == 1
    done = capsys.readouterr()
    assert (
        "a.wav: internal error" in done.err
        and "1 of 2 recordings done, 1 failed." in done.err
        and "==> b.wav" in done.out
    )


def test_replacing_leaves_nothing_behind(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["out.txt"]
    with replacing(path) as file:
        file.write("new")
    assert path.read_text() == "new"
    check_output(tmp_path / "another.txt", force=False)


def test_what_other_verbs_replace(folder, capsys):
    """A saved conversation is replaced by another, a model file by another with --force; nothing else is."""
    with eg.Model.load("toy") as model, model.chat() as chat:
        chat.save("old.json")
    for name, replaced in (("old.json", True), ("a.wav", False), ("note.json", False)):
        if name == "note.json":
            (folder / name).write_text("{}")
        before = (folder / name).read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(f"Hello\n/save {name}\nHello\n/save kept-{name}.json\n"))
            main(["chat", "--model", "toy", "--temperature", "0"])
        # What was refused has not ended the conversation.
        assert len(json.loads((folder / f"kept-{name}.json").read_text())["messages"]) == 4
        assert ((folder / name).read_bytes() != before) == replaced
        assert replaced or "exists already" in capsys.readouterr().err
    model_file = str(ROOT / "tests" / "data" / "dense-Q4_0.gguf")
    assert main(["quantize", model_file, "a.wav", "--type", "Q8_0", "--force"]) == 1
    assert "no GGUF file" in capsys.readouterr().err and unchanged(folder)


def test_standard_output_by_its_usual_name(folder, capsys):
    assert transcribe("a.wav", "b.wav", "--format", "json", "-o", "-") == 0
    assert [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()] == ["a.wav", "b.wav"]
    assert not (folder / "-").exists()


def test_long_names(folder):
    """As long as the file system takes; the side file must not be longer."""
    name = "n" * 251 + ".txt"
    assert transcribe("a.wav", "-o", name) == 0 and "kitchen" in (folder / name).read_text()
    assert transcribe("a.wav", "-o", "n" * 300 + ".txt") == 2
    assert not list(folder.glob("*.part")) and not list(folder.glob("*.new"))


def test_two_recordings_for_one_output(folder, capsys):
    (folder / "other").mkdir()
    shutil.copy("a.wav", "other/a.wav")
    assert transcribe("a.wav", "other/a.wav", "-o", "texts/") == 2
    assert "both be written" in capsys.readouterr().err and not (folder / "texts").exists()
    assert transcribe("a.wav", "a.wav", "-o", "texts/") == 2 and "given twice" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="makes symbolic links and pipes")
def test_links_stay_links_and_devices_stay_devices(folder, capsys):
    """A file that takes the place of what it is written to must not take the place of a link or of a device."""
    model_file = str(ROOT / "tests" / "data" / "dense-Q4_0.gguf")
    os.mkfifo("pipe")
    os.symlink("pipe", "to-pipe")
    with eg.Model.load("toy") as model, model.session() as session, model.chat() as chat:
        session.feed_tokens([5])
        for save in (session.save, chat.save):
            target, link = folder / f"{save.__qualname__}.target", folder / f"{save.__qualname__}.link"
            link.symlink_to(target.name)
            for _ in range(2):
                save(link)
                assert link.is_symlink() and target.stat().st_size
        for path in ("pipe", "to-pipe"):
            with pytest.raises(OSError, match="no regular file"):
                session.save(path)
            assert main(["quantize", model_file, path, "--type", "Q8_0", "--force"]) == 1
            assert "no regular file" in capsys.readouterr().err
        chat.save("/dev/null")
    assert (folder / "pipe").is_fifo() and Path("/dev/null").is_char_device()


def test_text_files_that_are_not_there(folder, capsys):
    """Their names are not translated."""
    for name in ("letter.txt", "./letter", "/nowhere/notes.md"):
        assert main(["translate", "--model", "toy", "--to", "es", name]) == 2
        assert "does not exist" in capsys.readouterr().err
    assert main(["translate", "--model", "toy", "--to", "es", "--as", "text", "letter.txt"]) == 0


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupted_run_tells_what_it_has_done(folder):
    """Standard input stays silent, so the run is interrupted in the second recording."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from edge_gemma.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "transcribe", "--model", "toy", "a.wav", "-", "b.wav"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout
    read_output(process.stdout.fileno(), lambda output: b"kitchen" in output)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and b"1 of 3 recordings done, 2 not finished." in errors


def test_pipes_are_utf_8_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code page of western Europe, which Windows gives to pipes, has no Japanese."""
    for given, encoding in (("", "utf-8"), ("cp1252", "cp1252")):
        monkeypatch.setenv("PYTHONIOENCODING", given)
        pipes = {name: io.TextIOWrapper(io.BytesIO("日".encode()), encoding="cp1252") for name in ("stdin", "stdout")}
        for name, pipe in pipes.items():
            monkeypatch.setattr(sys, name, pipe)
        tolerate_encoding("win32")
        assert [pipe.encoding for pipe in pipes.values()] == [encoding, encoding]
    monkeypatch.setenv("PYTHONIOENCODING", "")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    tolerate_encoding("linux")
    assert sys.stdout.encoding == "cp1252"
