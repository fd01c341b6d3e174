"""Models, tokenizers and files that lie inside another file, opened by its descriptor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edge_gemma as eg
from support.paths import DATA

MODEL, MMPROJ = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"
IDS = list(range(20, 60))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both files behind each other, at odd places, as in an application's package."""
    path = tmp_path_factory.mktemp("package") / "assets.bin"
    path.write_bytes(b"x" * 4097 + MODEL.read_bytes() + b"y" * 13 + MMPROJ.read_bytes())
    return path


@pytest.fixture
def places(package: Path) -> Iterator[tuple[eg.FileDescriptor, eg.FileDescriptor]]:
    """Where the model and its encoders are; the descriptor is closed afterwards."""
    fd, size = os.open(package, os.O_RDONLY), MODEL.stat().st_size
    yield eg.FileDescriptor(fd, 4097, size), eg.FileDescriptor(fd, 4097 + size + 13)
    os.close(fd)


def test_a_model_in_another_file(package: Path) -> None:
    sound = np.sin(np.arange(8000) / 9).astype(np.float32)
    with eg.Model.load(MODEL, mmproj=MMPROJ) as model:
        session = model.session(256)
        session.feed_tokens(IDS)
        want, heard, sizes = session.logits(), model.encode_audio(sound), model.weight_sizes()
    fd, size = os.open(package, os.O_RDONLY), MODEL.stat().st_size
    opened = eg.Model.load(eg.FileDescriptor(fd, 4097, size), mmproj=eg.FileDescriptor(fd, 4097 + size + 13))
    os.close(fd)  # not needed any more
    with opened as model:
        session = model.session(256, memory_limit="4GB")
        session.feed_tokens(IDS)
        assert np.array_equal(session.logits(), want) and np.array_equal(model.encode_audio(sound), heard)
        assert model.weight_sizes() == sizes


def test_encoders_alone_in_another_file(places: tuple[eg.FileDescriptor, eg.FileDescriptor]) -> None:
    with eg.Model.load(MODEL, mmproj=places[1]) as model:
        assert model.has_audio and model.path == MODEL
    with eg.Model.load(places[0]) as model:
        assert not model.has_audio and "descriptor" in str(model.path)


def test_tokenizers_and_files_too(places: tuple[eg.FileDescriptor, eg.FileDescriptor]) -> None:
    text = "<|turn>hello"
    assert eg.Tokenizer.load(places[0]).encode(text) == eg.Tokenizer.load(MODEL).encode(text)
    with eg.GGUFFile(places[0]) as inside, eg.GGUFFile(MODEL) as alone:
        assert inside.tensors == alone.tensors and list(inside.metadata) == list(alone.metadata)


def test_a_descriptor_that_is_not_open() -> None:
    with pytest.raises(eg.EdgeGemmaError, match="descriptor"):
        eg.GGUFFile(eg.FileDescriptor(987654))


def test_the_toy_warns_wherever_the_encoders_come_from(
    places: tuple[eg.FileDescriptor, eg.FileDescriptor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_GEMMA_MODEL", raising=False)
    warned: list[object] = []
    monkeypatch.setattr("edge_gemma.engine.model.warn_if_toy", warned.append)
    with eg.Model.load(mmproj=places[1]) as model:
        assert model.has_audio and warned == [str(model.path)]
