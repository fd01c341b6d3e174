"""The engine's audio: equal to the NumPy reference and to outputs of the reference implementation, however the sound was cut,
and a session that stays usable whatever is pushed into it."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.sampling import GREEDY
from edge_gemma.reference.audio import AudioEncoder, log_mel
from support.paths import DATA
from support.tiny_audio import AudioShape, audio_writer
from support.tiny_model import Shape, write_model

TEXT, ENCODER = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"
NUMBERS = np.load(DATA / "audio-reference.npz")
CLOSING = "<turn|>\n<|turn>model\n"


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """rms of the difference over that of what is wanted."""
    assert got.shape == want.shape
    return float(np.sqrt(np.mean(np.square(got - want, dtype=np.float64)) / np.mean(np.square(want, dtype=np.float64))))


def noise(n: int, seed: int = 0) -> np.ndarray:
    """n samples of noise whose level changes."""
    rng = np.random.default_rng(seed)
    level = np.interp(np.arange(n), np.linspace(0, max(n, 2), 12), rng.uniform(0, 0.3, 12))
    return (rng.standard_normal(n) * level).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """The small E2B with its encoder."""
    with eg.Model.load(TEXT, mmproj=ENCODER, threads=2) as opened:
        yield opened


# ---- the encoder -------------------------------------------------------------------------------------------------------


def test_equals_reference_implementation(model: eg.Model) -> None:
    """Mel frames and soft tokens of recorded outputs."""
    assert np.abs(eg.kernels.log_mel(NUMBERS["audio_b_samples"]) - NUMBERS["audio_b_mel"]).max() < 1e-4
    for clip in "bc":
        got = model.encode_audio(NUMBERS[f"audio_{clip}_samples"])
        assert got.dtype == np.float32
        assert relative(got, NUMBERS[f"audio_{clip}_soft"]) < 1e-5


@pytest.mark.parametrize("variant", ["e2b", "e4b"])
def test_equals_fixtures(variant: str, shared: Path) -> None:
    """All clips, and the logits of a prompt with one of them."""
    folder = shared / "fixtures" / variant
    r = np.load(folder / "reference.npz")
    with eg.Model.load(folder / "model-BF16.gguf", mmproj=folder / "mmproj-BF16.gguf") as m:
        for clip in "abc":
            samples, frames = r[f"audio_{clip}_samples"], r[f"audio_{clip}_mel"][r[f"audio_{clip}_mel_mask"]]
            assert np.abs(eg.kernels.log_mel(samples) - frames).max() < 1e-4
            assert relative(m.encode_audio(samples), r[f"audio_{clip}_soft"]) < 1e-5
        ids, soft = r["audio_prompt_ids"], r["audio_a_soft"]
        values, counts = np.unique(ids, return_counts=True)
        where = np.flatnonzero(ids == values[counts.argmax()])  # the placeholder
        assert len(where) == len(soft)
        s = m.session(kv="f32")
        s.feed_tokens(ids[: where[0] - 1])  # the markers are feed_audio's
        s.feed_audio(r["audio_a_samples"])
        s.feed_tokens(ids[where[-1] + 2 :])
        assert s.position == len(ids)
        expected = r["audio_prompt_logits"].reshape(-1, m.config.vocab_size)[-1]
        assert np.sqrt(np.mean((s.logits() - expected) ** 2)) < 1e-3


@pytest.mark.parametrize("n", [1, 161, 320, 321, 480, 481, 640, 641, 800, 801, 961, 1280, 1281, 5000, 21000])
def test_log_mel_equals_reference(n: int) -> None:
    """Frames exist as the specification says, and hold the same numbers."""
    sound = noise(n)
    got = eg.kernels.log_mel(sound)
    assert got.shape == ((n - 1) // 160, 128)
    assert np.allclose(got, log_mel(sound), atol=2e-6)


SHAPES = {
    "plain": AudioShape(),
    "unbounded": AudioShape(clip=0),
    "clipped": AudioShape(clip=0.4),
    "heads": AudioShape(width=48, heads=3, ffn=80, layers=3, output=40),
    "mel": AudioShape(features=50, channels=(5, 3)),
    "bf16": AudioShape(type="BF16"),
    "f16": AudioShape(type="F16"),
    "q8_0": AudioShape(type="Q8_0"),
    "q4_0": AudioShape(type="Q4_0"),
    "q5_1": AudioShape(type="Q5_1"),
    "tq2_0": AudioShape(width=256, heads=4, ffn=512, output=256, type="TQ2_0"),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model of the encoders' width."""
    return write_model(tmp_path_factory.mktemp("text") / "text.gguf", Shape([True, False]))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("left_context", [12, 13])
def test_shapes_and_types(name: str, left_context: int, text: Path, tmp_path: Path) -> None:
    """Any shape and weight type: what quantized activations cost stays far below a tenth of a percent."""
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(audio_writer(SHAPES[name]).build())
    sound = noise(24111)
    want = AudioEncoder(path, left_context=left_context).encode(sound)
    with eg.Model.load(text, mmproj=path) as m:
        got = m.encode_audio(sound, left_context=left_context)
        assert relative(got, want) < (2e-4 if "Q" in SHAPES[name].type else 1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_stream_equals_whole(model: eg.Model, seed: int) -> None:
    """The same bits for any cut, on any number of threads, and each token as soon as it is final."""
    rng = np.random.default_rng(seed)
    sound = noise(int(rng.integers(40000, 60000)), seed)
    whole = model.encode_audio(sound)
    assert len(whole) == eg.audio_tokens(len(sound))
    longest = [1500, 2, 50000, 9000][seed]
    with model.audio_encoder() as stream:
        for _ in range(2):  # a finished stream begins anew
            rows, at = [], 0
            limit = len(sound) if seed != 1 else 3000
            while at < limit:
                n = min(int(rng.integers(1, longest + 1)), limit - at)
                rows.append(stream.push(sound[at : at + n]))
                at += n
                assert sum(map(len, rows)) == max(at - 1, 0) // 160 // 4
            last = stream.finish()
            assert len(last) <= 1
            got = np.concatenate([*rows, last])
            assert np.array_equal(got, whole if limit == len(sound) else model.encode_audio(sound[:limit]))
    with eg.Model.load(TEXT, mmproj=ENCODER, threads=1) as single:
        assert np.array_equal(single.encode_audio(sound), whole)


@pytest.mark.parametrize("n", [161, 162, 320, 321, 481, 641, 801, 961, 1121, 1281, 2561])
def test_every_ending(model: eg.Model, n: int) -> None:
    """Recordings that end within a token."""
    got, want = model.encode_audio(noise(n)), AudioEncoder(ENCODER).encode(noise(n))
    assert len(got) == eg.audio_tokens(n) == -(-((n - 1) // 160) // 4)
    assert relative(got, want) < 1e-5


def test_whole_numbers_and_empty_pieces(model: eg.Model) -> None:
    """16-bit samples mean what they mean in files; a piece without samples changes nothing."""
    pcm = (noise(4000) * 32767).astype(np.int16)
    want = model.encode_audio(pcm / np.float32(32768))
    assert np.array_equal(model.encode_audio(pcm), want)
    with model.audio_encoder() as stream:
        rows = [stream.push([]), stream.push(pcm[:1500]), stream.push(pcm[:0]), stream.push(pcm[1500:].tolist()[:0])]
        rows += [stream.push(pcm[1500:]), stream.finish()]
        assert np.array_equal(np.concatenate(rows), want)
    s = model.session()
    s.feed_audio(pcm)
    assert s.tokens.count(-1) == len(want)


def test_stream_without_end(model: eg.Model) -> None:
    """Far into a stream a token depends on the last 8 seconds alone, and state does not drift."""
    sound, tail = noise(16000 * 60), noise(16000 * 9, seed=5)
    with model.audio_encoder() as stream:
        stream.push(sound)
        late = stream.push(tail)[-20:]
        stream.reset()
        stream.push(sound[: 16000 * 2])
        early = stream.push(tail)[-20:]
    assert np.array_equal(late, early)


def test_bad_sound(model: eg.Model) -> None:
    """Refused with a sentence; the stream goes on as if nothing had been pushed."""
    sound = noise(5000)
    for bad in (np.nan, np.inf, -np.inf):
        broken = sound.copy()
        broken[77] = bad
        with pytest.raises(eg.EdgeGemmaError, match=r"samples\[77\]"):
            model.encode_audio(broken)
    for short in (0, 1, 160):
        with pytest.raises(eg.EdgeGemmaError, match="161"):
            model.encode_audio(sound[:short])
    with pytest.raises(eg.EdgeGemmaError, match="shape"):
        model.encode_audio(np.zeros((500, 2)))
    with pytest.raises(eg.EdgeGemmaError, match="left_context is 11"):
        model.encode_audio(sound, left_context=11)
    with model.audio_encoder() as stream:
        rows = [stream.push(sound[:2000])]
        with pytest.raises(eg.EdgeGemmaError):
            stream.push(broken)
        rows += [stream.push(sound[2000:]), stream.finish()]
        assert np.array_equal(np.concatenate(rows), model.encode_audio(sound))
        assert len(stream.finish()) == 0  # no sound, no token


def test_cancel_a_stream(model: eg.Model) -> None:
    """From another thread, within a layer; after a reset the stream works."""
    sound = noise(16000 * 60)
    with model.audio_encoder() as stream:
        worker = threading.Timer(0.02, stream.cancel)
        worker.start()
        with pytest.raises(eg.Cancelled):
            for _ in range(50):
                stream.push(sound)
        worker.join()
        with pytest.raises(eg.EdgeGemmaError, match="reset"):
            stream.push(sound[:100])
        stream.reset()
        got = np.concatenate([stream.push(sound[:5000]), stream.finish()])
    assert np.array_equal(got, model.encode_audio(sound[:5000]))


# ---- sessions ----------------------------------------------------------------------------------------------------------


def fed_by_hand(model: eg.Model, sound: np.ndarray, before: str = "<bos><|turn>user\n") -> eg.Session:
    """A session with the sound as embeddings between markers, and the model's turn opened."""
    s = model.session(context=512, kv="f32")
    s.feed_text(before + "<|audio>", special=True)
    s.feed_embeddings(model.encode_audio(sound))
    s.feed_text("<audio|>" + CLOSING, special=True)
    return s


def test_three_ways_in(model: eg.Model) -> None:
    """Embeddings, a whole recording, a stream of any chunks: the same tokens and the same logits."""
    sound, rng = noise(30000), np.random.default_rng(3)
    want = fed_by_hand(model, sound)
    whole = model.session(context=512, kv="f32")
    whole.feed_text("<bos><|turn>user\n", special=True)
    whole.feed_audio(sound)
    whole.feed_text(CLOSING, special=True)
    assert whole.tokens == want.tokens
    assert np.array_equal(whole.logits(), want.logits())
    assert whole.stats["audio_tokens"] == eg.audio_tokens(30000)
    for longest in (100, 3000, 20000):
        s, at = model.session(context=512, kv="f32"), 0
        s.feed_text("<bos><|turn>user\n", special=True)
        with s.stream_audio() as audio:
            while at < len(sound):
                n = int(rng.integers(1, longest))
                audio.push(sound[at : at + n])
                at += n
        assert s.audio is None
        s.feed_text(CLOSING, special=True)
        assert s.tokens == want.tokens
        assert np.array_equal(s.logits(), want.logits())


def test_without_markers(model: eg.Model) -> None:
    """Soft tokens alone."""
    s = model.session()
    s.feed_text("<bos>", special=True)
    s.feed_audio(noise(5000), markers=False)
    assert s.tokens == [2] + [-1] * 8
    t = model.session()
    t.feed_text("<bos>", special=True)
    t.feed_embeddings(model.encode_audio(noise(5000)))
    assert np.array_equal(s.logits(), t.logits())


def test_fork_in_the_middle(model: eg.Model) -> None:
    """A fork hears what was said so far and can answer it, while the other session listens on, undisturbed."""
    sound = noise(40000)
    s = model.session(context=512, kv="f32")
    s.feed_text("<bos><|turn>user\n", special=True)
    audio = s.stream_audio()
    audio.push(sound[:17777])
    fork = s.fork()
    assert fork.audio is not None
    fork.audio.finish()
    fork.feed_text(CLOSING, special=True)
    list(fork.generate(5, temperature=0))
    want = fed_by_hand(model, sound[:17777])
    list(want.generate(5, temperature=0))
    assert fork.tokens == want.tokens
    later = s.fork()
    for feed in (audio, later.audio):
        assert feed is not None
        feed.push(sound[17777:])
        feed.finish()
    fork.close()
    want = fed_by_hand(model, sound)
    for session in (s, later):
        session.feed_text(CLOSING, special=True)
        assert session.tokens == want.tokens
        assert np.array_equal(session.logits(), want.logits())


def test_the_end_of_a_recording_waits(model: eg.Model, tmp_path: Path) -> None:
    """Its last tokens are evaluated with what follows; forks, snapshots and rewinds before that lose nothing."""
    sound = noise(20000)
    want = fed_by_hand(model, sound)

    def heard() -> eg.Session:
        s = model.session(context=512, kv="f32")
        s.feed_text("<bos><|turn>user\n", special=True)
        with s.stream_audio() as audio:
            audio.push(sound[:18000])
            audio.push(sound[18000:])  # gathers until the end
        return s

    def same(s: eg.Session) -> bool:
        s.feed_text(CLOSING, special=True)
        return s.tokens == want.tokens and np.array_equal(s.logits(), want.logits())

    s = heard()
    fork = s.fork()
    s.feed_audio(noise(900))  # writes over the rows of the last recording
    s.close()
    assert same(fork)
    s = heard()
    s.save(tmp_path / "snapshot")
    assert same(model.session(restore=tmp_path / "snapshot"))
    assert same(s)
    for back in (1, 2, 3, 5, 9, 30):
        s = heard()
        kept = s.tokens[: s.position - back]
        s.rewind(back)
        assert s.tokens == kept
        s.feed_embeddings(model.encode_audio(sound)[kept.count(-1) :])
        s.feed_text("<audio|>", special=True)
        assert same(s)
    s = heard()
    assert np.array_equal(s.logits(), heard().logits())
    again = model.session(context=512, kv="f32")
    again.feed_text("<bos><|turn>user\n<|audio>", special=True)
    again.feed_embeddings(model.encode_audio(sound))
    again.feed_text("<audio|>", special=True)
    assert np.array_equal(s.logits(), again.logits())


def test_nothing_else_while_audio_is_open(model: eg.Model, tmp_path: Path) -> None:
    """Other calls are refused and change nothing; the end of the audio allows them again."""
    s = model.session()
    s.feed_text("<bos>", special=True)
    audio = s.stream_audio()
    audio.push(noise(9000))
    for call in (
        lambda: s.feed_tokens([5]),
        lambda: s.forward([5]),
        lambda: s.feed_embeddings(np.zeros((1, model.config.hidden_size))),
        lambda: next(s.generate(1)),
        lambda: s.feed_audio(noise(900)),
        lambda: s.stream_audio(),
        lambda: s.save(tmp_path / "snapshot"),
        lambda: s.rewind(3),
        lambda: s.rewind(0),
    ):
        with pytest.raises(eg.EdgeGemmaError) as caught:
            call()
        assert caught.value.code == "state"
    s.logits()
    audio.finish()
    assert s.audio is None
    with pytest.raises(eg.EdgeGemmaError) as caught:
        audio.push(noise(10))
    assert caught.value.code == "state"
    kept = s.tokens[:-4]
    s.rewind(4)
    s.feed_text("<audio|>", special=True)
    t = model.session()
    t.feed_text("<bos><|audio>", special=True)
    t.feed_embeddings(model.encode_audio(noise(9000))[: kept.count(-1)])
    t.feed_text("<audio|>", special=True)
    assert s.tokens == t.tokens
    assert np.array_equal(s.logits(), t.logits())


def test_bad_sound_in_a_session(model: eg.Model) -> None:
    """A sentence each; then the session is as it was, and works."""
    s = model.session(context=40)
    s.feed_text("<bos>", special=True)
    logits = s.logits()
    broken = noise(3000)
    broken[2999] = np.inf
    with pytest.raises(eg.EdgeGemmaError, match=r"samples\[2999\]"):
        s.feed_audio(broken)
    for n in (0, 160):
        with pytest.raises(eg.EdgeGemmaError, match="161"):
            s.feed_audio(noise(n))
    with pytest.raises(eg.EdgeGemmaError) as caught:
        s.feed_audio(noise(16000 * 3))
    assert caught.value.code == "context"
    with pytest.raises(eg.EdgeGemmaError, match="161"), s.stream_audio() as audio:
        audio.push(noise(160))
    assert s.tokens == [2]
    assert np.array_equal(s.logits(), logits)
    audio = s.stream_audio()
    audio.push(noise(9000))
    with pytest.raises(eg.EdgeGemmaError):
        audio.push(broken)
    with pytest.raises(eg.EdgeGemmaError) as caught:
        audio.push(noise(16000 * 9))
    assert caught.value.code == "context"
    audio.push(noise(30000)[9000 : 640 * 37])
    audio.finish()
    assert s.tokens[1:] == model.tokenizer.encode("<|audio>", special=True) + [-1] * 37 + model.tokenizer.encode(
        "<audio|>", special=True
    )
    with pytest.raises(eg.EdgeGemmaError) as caught:
        s.feed_tokens([5])  # exactly full
    assert caught.value.code == "context"


def test_exception_abandons(model: eg.Model) -> None:
    """The session is as before the audio, and the exception goes on."""
    s = model.session()
    s.feed_text("<bos>", special=True)
    with pytest.raises(KeyError), s.stream_audio() as audio:
        audio.push(noise(20000))
        raise KeyError
    assert s.audio is None
    assert s.tokens == [2]
    assert np.isfinite(s.logits()).all()


def test_cancel_in_a_session(model: eg.Model) -> None:
    """From another thread, in encoder or prefill; the position tells what was kept, and the session works."""
    s = model.session(context=4096)
    s.feed_text("<bos>", special=True)
    audio = s.stream_audio()
    worker = threading.Timer(0.02, s.cancel)
    worker.start()
    with pytest.raises(eg.Cancelled):
        audio.push(noise(16000 * 100))
    worker.join()
    assert s.audio is None
    assert s.tokens[2:] == [-1] * (s.position - 2)
    s.rewind(s.position)
    s.feed_text("<bos><|turn>user\n", special=True)
    s.feed_audio(noise(30000))
    s.feed_text(CLOSING, special=True)
    want = fed_by_hand(model, noise(30000))
    assert s.tokens == want.tokens


def test_chat_hears(model: eg.Model) -> None:
    """Audio in a conversation, over several turns: only what is new is fed."""
    chat = model.chat(context=1024, sampling=GREEDY, max_tokens=4)
    for turn in range(2):
        done = list(chat.send("What is this?", audio=noise(8000, seed=turn)))[-1]
        assert done.kind == "done"
        soft = chat.session.tokens.count(-1)
        assert soft == (turn + 1) * eg.audio_tokens(8000)
        assert done.stats["reused_tokens"] > 0 or turn == 0


# ---- opening ------------------------------------------------------------------------------------------------------------


def test_what_cannot_hear_says_so(text: Path, tmp_path: Path) -> None:
    """No encoders, encoders without audio, of another width, and files that are no encoders."""
    with eg.Model.load(text) as m:
        assert not m.config.audio
        for call in (lambda: m.encode_audio(noise(900)), m.audio_encoder, lambda: m.session().feed_audio(noise(900))):
            with pytest.raises(eg.EdgeGemmaError, match="mmproj") as caught:
                call()
            assert caught.value.code == "unsupported"
    (tmp_path / "eyes.gguf").write_bytes(
        audio_writer(AudioShape()).build().replace(b"has_audio_encoder", b"has_audio_encodeX")
    )
    with eg.Model.load(text, mmproj=tmp_path / "eyes.gguf") as m:
        assert not m.config.audio
        with pytest.raises(eg.EdgeGemmaError, match=r"eyes\.gguf.*none for audio"):
            m.encode_audio(noise(900))
    with pytest.raises(eg.EdgeGemmaError, match=r"audio-e2b\.gguf.*another model.*256 wide.*64"):
        eg.Model.load(text, mmproj=ENCODER)
    with pytest.raises(eg.EdgeGemmaError, match=r"text\.gguf: not a file of encoders"):
        eg.Model.load(text, mmproj=text)
    with pytest.raises(OSError, match="absent"):
        eg.Model.load(text, mmproj=tmp_path / "absent.gguf")


def test_every_tensor_is_needed(text: Path, tmp_path: Path) -> None:
    """Missing, of another shape, of an unknown type: the message names the tensor; bounds may be missing."""
    path, shape = tmp_path / "bad.gguf", AudioShape(layers=1)
    names = [t[0].decode() for t in audio_writer(shape).tensors]
    assert len(names) > 60
    for i, name in enumerate(names):
        w = audio_writer(shape)
        raw_name, dims, kind, raw, offset = w.tensors[i]
        damaged = [
            (raw_name, [*dims[:-1], dims[-1] + 1], kind, raw + bytes(len(raw)), offset),
            (raw_name, dims, 77, raw, offset),
            None,
        ]
        for tensor in damaged:
            w.tensors[i : i + 1] = [tensor] if tensor else []
            path.write_bytes(w.build())
            if tensor is None and name.endswith(("_min", "_max")):
                eg.Model.load(text, mmproj=path).close()
                continue
            with pytest.raises(eg.EdgeGemmaError) as caught:
                eg.Model.load(text, mmproj=path)
            assert "bad.gguf" in str(caught.value)
            wide = tensor is not None and tensor[2] == kind
            assert f"'{name}'" in str(caught.value) or (wide and name.startswith(("a.conv1d", "a.pre_encode", "mm.")))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 0),
        ("block_count", 2**20),
        ("block_count", 3),
        ("embedding_length", 0),
        ("embedding_length", 33),
        ("feed_forward_length", 0),
        ("attention.head_count", 0),
        ("attention.head_count", 5),
        ("num_mel_bins", 0),
        ("num_mel_bins", 10**6),
        ("num_mel_bins", 64),
        ("projector_type", "other"),
    ],
)
def test_bad_metadata(key: str, value: int | str, text: Path, tmp_path: Path) -> None:
    """Refused, naming the file."""
    w = audio_writer(AudioShape())
    w.entries = [entry for entry in w.entries if f"clip.audio.{key}".encode() not in entry]
    path = tmp_path / "bad.gguf"
    path.write_bytes(w.entry(f"clip.audio.{key}", value).build())
    with pytest.raises(eg.EdgeGemmaError, match=r"bad\.gguf"):
        eg.Model.load(text, mmproj=path)


def test_projector_of_a_file_with_one_encoder(text: Path, tmp_path: Path) -> None:
    """Then its key may stand without "audio"."""
    w, path = audio_writer(AudioShape()), tmp_path / "ears.gguf"
    w.entries = [entry for entry in w.entries if b"projector_type" not in entry]
    path.write_bytes(w.entry("clip.projector_type", "gemma4a").build())
    with eg.Model.load(text, mmproj=path) as m:
        assert m.has_audio


def resident(path: Path) -> int:
    """Bytes of a file that this process has mapped and in memory now."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of mapped memory")
def test_weights_of_the_answer_are_touched_while_somebody_speaks(tmp_path: Path) -> None:
    """What only logits need is in memory before the first token is wanted; without sound it is not."""
    path = tmp_path / "text.gguf"  # most of it is in the layers that share K/V
    write_model(path, Shape([True, False] + [True, False] * 8, shared=16, hidden=256, ffn=[1024] * 18))
    (tmp_path / "mmproj.gguf").write_bytes(audio_writer(AudioShape(hidden=256)).build())
    size = path.stat().st_size
    with eg.Model.load(path, mmproj=tmp_path / "mmproj.gguf") as m:
        s = m.session()
        s.feed_text("<bos>hello", special=True)
        if resident(path) > 0.8 * size:
            pytest.skip("the system maps more of a file than was touched")
        with s.stream_audio(markers=False) as audio:  # the small vocabulary has none
            audio.push(noise(8000))
        assert resident(path) > 0.95 * size


def test_memory_counts_encoders(model: eg.Model) -> None:
    """Mapped bytes of both files; a session that hears has the encoder's work space."""
    assert model.memory()["mapped"] >= TEXT.stat().st_size + ENCODER.stat().st_size
    s = model.session()
    before = s.memory()["scratch"]
    s.feed_text("<bos>", special=True)
    s.feed_audio(noise(2000))
    first = s.memory()["scratch"]
    assert first > before
    s.feed_audio(noise(20000))
    assert s.memory()["scratch"] == first
