"""Pictures, videos and recordings in a conversation: what is fed in which order, once, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from edge_gemma.chat.conversation import Chat
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.vision.cache import shared_cache
from edge_gemma.vision.video import Clip, Frame
from support.scripted import ScriptedModel, ScriptedSession
from support.videos import make_video


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    shared_cache.clear()


def picture(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def open_chat(*script: Any, **options: Any) -> tuple[Chat, ScriptedModel, ScriptedSession]:
    senses = {name: options.pop(name) for name in ("has_audio", "has_vision") if name in options}
    model = ScriptedModel(script or "ok<turn|>", **senses)
    chat = Chat(model, **options)
    assert isinstance(chat.session, ScriptedSession)
    return chat, model, chat.session


def answer(chat: Chat, *args: Any, **options: Any) -> Any:
    """The last event."""
    return list(chat.send(*args, **options))[-1]


def shown(session: ScriptedSession) -> str:
    """The timeline as text, with an underscore for a run of soft tokens."""
    tokenizer = session.model.tokenizer
    pieces: list[str] = []
    for number in session.tokens:
        text = "_" if number < 0 else tokenizer.decode([number], special=True)
        if text != "_" or pieces[-1] != "_":
            pieces.append(text)
    return "".join(pieces)


def test_pictures_come_before_the_text() -> None:
    chat, model, session = open_chat()
    done = answer(chat, "What?", images=[picture(1), picture(2)])
    begin = "<bos><|turn>user\n<|image>_<image|><|image>_<image|>What?<turn|>\n<|turn>model\n"
    assert shown(session) == begin + "ok<turn|>"
    tokens = model.image_tokens(30, 20, 280)
    assert done.stats["image_tokens"] == 2 * tokens == sum(number < 0 for number in session.tokens)
    assert [budget for _, budget in model.encoded] == [280, 280]


def test_all_senses_at_once_in_their_order() -> None:
    chat, _, session = open_chat()
    frames = [(0, picture(1)), (61.5, picture(2))]
    answer(chat, "Well?", images=picture(3), video=frames, audio=np.zeros(700, np.float32))
    assert (
        shown(session).removeprefix("<bos><|turn>user\n").partition("<turn|>")[0]
        == "<|image>_<image|>00:00 <|image>_<image|> 01:01 <|image>_<image|>Well?<|audio>_<audio|>"
    )


def test_parts_of_a_message_stay_in_their_order() -> None:
    chat, _, session = open_chat()
    content = [
        {"type": "text", "text": "First"},
        {"type": "image", "image": picture(1)},
        {"type": "text", "text": "second"},
        {"type": "image", "image": picture(2), "detail": "low"},
        {"type": "text", "text": "end"},
    ]
    chat.history.append({"role": "user", "content": content})
    answer(chat)
    assert "user\nFirst<|image>_<image|>second<|image>_<image|>end<turn|>" in shown(session)


@pytest.mark.parametrize(("wanted", "budget"), [(None, 280), ("low", 70), ("high", 1120), ("auto", 70), (140, 140)])
def test_budgets(wanted: Any, budget: int) -> None:
    chat, model, _ = open_chat()
    answer(chat, "?", images=picture(1), image_tokens=wanted)
    assert [found for _, found in model.encoded] == [budget]
    chat, model, _ = open_chat()
    part = {"type": "image", "image": picture(2)} | ({} if wanted is None else {"max_tokens": wanted})
    chat.history.append({"role": "user", "content": [part]})
    answer(chat)
    assert [found for _, found in model.encoded] == [budget]


def test_a_picture_is_fed_once_and_encoded_once() -> None:
    chat, model, session = open_chat()

    def pictures() -> int:
        count = sum(isinstance(part, tuple) and part[0] == "picture" for part in session.fed)
        session.fed.clear()
        return count

    answer(chat, "What?", images=picture(1))
    assert (pictures(), len(model.encoded)) == (1, 1)
    done = answer(chat, "And now?")
    assert (pictures(), len(model.encoded), done.stats["image_tokens"]) == (0, 1, 0)
    chat.history[0]["content"][1]["text"] = "Which?"  # behind the picture
    answer(chat, "So?")
    assert (pictures(), len(model.encoded)) == (0, 1)
    chat.system = "Be brief."  # before it: it is fed again, and not encoded again
    answer(chat, "So?")
    assert (pictures(), len(model.encoded)) == (1, 1)
    chat.history[0]["content"][0]["image"] = picture(2)
    answer(chat, "So?")
    assert (pictures(), len(model.encoded)) == (1, 2)
    chat.history[0]["content"][0]["max_tokens"] = 70
    answer(chat, "So?")
    assert (pictures(), len(model.encoded)) == (1, 3)
    with Chat(model) as other:  # another conversation of this process
        answer(other, "What?", images=picture(1))
    assert len(model.encoded) == 3


def test_a_session_that_cannot_go_back_reads_the_picture_again_from_the_cache() -> None:
    chat, model, session = open_chat()
    answer(chat, "What?", images=picture(1))
    session.rewind_limit = 3
    chat.history[0]["content"][1]["text"] = "Which?"
    answer(chat, "So?")
    assert len(model.encoded) == 1 and shown(session).count("<|image>_<image|>") == 1


def test_every_kind_of_file(tmp_path: Path) -> None:
    image = PIL.Image.fromarray(picture(1))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    for way in (tmp_path / "a.png", str(tmp_path / "a.png"), buffer.getvalue(), image, picture(1)):
        chat, model, _ = open_chat()
        answer(chat, "?", images=way)
        assert np.array_equal(model.encoded[0][0], picture(1))
        assert np.array_equal(chat.history[0]["content"][0]["image"], picture(1))
        (tmp_path / "a.png").unlink(missing_ok=True)
        answer(chat, "Again?")  # the file is not needed any more
        (tmp_path / "a.png").write_bytes(buffer.getvalue())


def test_the_callers_array_may_change_afterwards() -> None:
    chat, model, _ = open_chat()
    pixels = picture(1)
    answer(chat, "?", images=pixels)
    pixels[:] = 0
    assert pixels.flags.writeable
    answer(chat, "Again?")
    assert len(model.encoded) == 1 and np.array_equal(model.encoded[0][0], picture(1))


def test_videos(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    path = tmp_path / "walk.mp4"
    path.write_bytes(make_video(30, 10, sound=1.5))
    chat, model, session = open_chat()
    answer(chat, "What?", video=path, fps=1)
    times = " ".join(f"00:0{n} <|image>_<image|>" for n in range(3))
    assert f"user\n{times}<|audio>_<audio|>What?<turn|>" in shown(session)
    assert {budget for _, budget in model.encoded} == {70} and len(model.heard) == 1
    path.unlink()
    session.fed.clear()
    answer(chat, "Sure?")
    assert not [part for part in session.fed if isinstance(part, tuple)]
    clip = chat.history[0]["content"][0]["video"]
    assert isinstance(clip, Clip)
    deaf, _, session = open_chat(has_audio=False)
    answer(deaf, "What?", video=clip)
    assert "<|audio>" not in shown(session)
    path.write_bytes(make_video(30, 10, sound=1.5))
    chat, model, session = open_chat()
    chat.history.append({"role": "user", "content": [{"type": "video", "video": path, "frames": 2, "sound": False}]})
    answer(chat)
    assert len(model.encoded) == 2 and not model.heard
    chat, model, _ = open_chat()
    answer(chat, "?", video=[str(path), str(path)], frames=1)
    assert len(model.encoded) == 1, "both are the same picture"


@pytest.mark.parametrize(
    ("options", "sense"),
    [({"images": picture(1)}, "image"), ({"video": [(0, picture(1))]}, "image"), ({"audio": np.zeros(900)}, "audio")],
)
def test_a_model_without_the_sense(options: dict[str, Any], sense: str) -> None:
    chat, _, session = open_chat(has_audio=False, has_vision=False)
    with pytest.raises(EdgeGemmaError, match=rf"without {sense} encoder.*--mmproj") as caught:
        chat.send("What?", **options)
    assert caught.value.code == "unsupported" and chat.history == [] and session.position == 0
    chat.history = [{"role": "user", "content": [{"type": sense, sense: next(iter(options.values()))}]}]
    with pytest.raises(EdgeGemmaError, match=f"without {sense} encoder"):
        list(chat.send("What?"))
    assert len(chat.history) == 1 and session.position == 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"images": "none.png"}, "file"),
        ({"images": [b"no picture"]}, "format"),
        ({"images": np.zeros((3, 3))[None, None]}, "argument"),
        ({"images": 3}, "argument"),
        ({"images": picture(1), "image_tokens": 100}, "argument"),
        ({"video": "none.mp4"}, "file"),
        ({"video": []}, "argument"),
        ({"video": [(0, picture(1))], "frames": 2, "fps": 1}, None),
        ({"video": [(0, "none.png")]}, "file"),
        ({"audio": "none.wav"}, "file"),
    ],
)
def test_what_cannot_be_read_is_an_error_and_nothing_is_said(options: dict[str, Any], code: str | None) -> None:
    if options.get("video") == "none.mp4":
        pytest.importorskip("av", reason="videos need PyAV")
    chat, _, session = open_chat()
    if code is None:
        answer(chat, "What?", **options)
        return
    with pytest.raises(EdgeGemmaError) as caught:
        chat.send("What?", **options)
    assert caught.value.code == code and chat.history == [] and session.position == 0


def test_an_unknown_part_is_an_error() -> None:
    chat, _, _ = open_chat()
    chat.history.append({"role": "user", "content": [{"type": "hologram"}]})
    with pytest.raises(EdgeGemmaError, match="'hologram'"):
        list(chat.send("?"))


def test_no_room_for_a_picture_is_told_before_it_is_encoded() -> None:
    chat, model, session = open_chat(context=100)
    with pytest.raises(EdgeGemmaError, match="more tokens do not fit") as caught:
        list(chat.send("What?", images=picture(1)))
    assert caught.value.code == "context" and not model.encoded and session.position < 30
    chat.history.clear()
    answer(chat, "What?", images=picture(1), image_tokens=70)
    with pytest.raises(EdgeGemmaError, match="room for 100") as caught:
        chat.send("What?", video=[(n, picture(n)) for n in range(5)])
    assert caught.value.code == "context"


def test_progress_and_a_failure_while_encoding() -> None:
    chat, model, session = open_chat()
    seen: list[tuple[int, int]] = []
    answer(chat, "?", images=[picture(1), picture(2)], progress=lambda done, total: seen.append((done, total)))
    each = model.image_tokens(30, 20)
    halves = [each // 2, each, each, each + each // 2, 2 * each, 2 * each]
    assert seen == [(done, 2 * each) for done in halves]

    def fail(image: Any) -> None:
        raise EdgeGemmaError("broken", "memory")

    model.on_encode = fail
    with pytest.raises(EdgeGemmaError, match="broken"):
        list(chat.send("?", images=picture(3)))
    model.on_encode = None
    assert answer(chat).stop == "turn" and shown(session).count("<|image>_<image|>") == 3


def test_a_cancelled_picture_leaves_nothing_of_itself() -> None:
    chat, model, session = open_chat()
    model.on_encode = lambda image: chat.cancel()
    done = answer(chat, "?", images=picture(1))
    assert done.stop == "cancelled" and -1 not in session.tokens
    model.on_encode = None
    assert answer(chat).stop == "turn" and shown(session).count("<|image>_<image|>") == 1


def test_a_template_decides_the_place() -> None:
    old = (
        "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}"
        "{{ '\n\n<|' + p.type + '|>\n\n' }}{% endif %}{% endfor %}{% endfor %}"
    )
    chat, _, session = open_chat(template=old)
    answer(chat, "What?", images=picture(1), video=[(0, picture(2))])
    assert shown(session).startswith("\n\n<|image>_<image|>\n\n\n\n00:00 <|image>_<image|>\n\nWhat?")
    chat, _, _ = open_chat(template="{% for m in messages %}<|image|><|image|>{% endfor %}")
    with pytest.raises(EdgeGemmaError, match=r"prints <\|image\|> in the wrong place"):
        list(chat.send("?", images=picture(1)))
    chat, _, _ = open_chat(template="{% for m in messages %}{{ m.role }}{% endfor %}")
    with pytest.raises(EdgeGemmaError, match="no place for audio, images or video"):
        list(chat.send("?", video=[(0, picture(1))]))


def test_a_conversation_survives_a_file(tmp_path: Path) -> None:
    chat, model, session = open_chat()
    sound = np.linspace(-0.5, 0.5, 900, dtype=np.float32)
    answer(chat, "What?", images=[picture(1), picture(2)], audio=sound, image_tokens="low")
    clip = Clip((Frame(0.0, picture(3)), Frame(1.25, picture(4))), sound, "walk.mp4", 2.5, 2.0)
    answer(chat, "And?", video=clip)
    chat.save(tmp_path / "chat.json")
    text = (tmp_path / "chat.json").read_text()
    assert json.loads(text)["messages"][0]["content"][0]["image"].keys() == {"png"}
    other, again, timeline = open_chat()
    other.load(tmp_path / "chat.json")
    other.history.pop()
    answer(other)
    assert shown(timeline) == shown(session)
    assert [budget for _, budget in again.encoded] == [budget for _, budget in model.encoded]
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(again.encoded, model.encoded, strict=True))
    restored = other.history[2]["content"][0]["video"]
    assert (restored.name, restored.duration, restored.sound_seconds) == ("walk.mp4", 2.5, 2.0)
    assert np.array_equal(restored.sound, sound)


def test_files_of_the_first_version_are_read(tmp_path: Path) -> None:
    """They have pictures as arrays."""
    chat, _, _ = open_chat()
    array = {"array": "AAECAwQF", "dtype": "|u1", "shape": [1, 2, 3]}
    content = {"format": "edge-gemma-chat", "version": 1, "system": None}
    for value in (array, {"png": "no"}, {"png": ""}, 3, {**array, "shape": [9]}):
        part = {"type": "image", "image": value}
        (tmp_path / "x.json").write_text(json.dumps({**content, "messages": [{"role": "user", "content": [part]}]}))
        if value is array:
            chat.load(tmp_path / "x.json")
            assert chat.history[0]["content"][0]["image"].tolist() == [[[0, 1, 2], [3, 4, 5]]]
        else:
            with pytest.raises(EdgeGemmaError, match="not a saved conversation"):
                chat.load(tmp_path / "x.json")
