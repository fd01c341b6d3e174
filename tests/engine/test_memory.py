"""Memory limits: what a session needs, what fits, what is refused, and that a process really stays below its limit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_gemma import Model
from edge_gemma.engine.memory import MemoryLimit, fit, memory_need, parse_size, resident
from edge_gemma.errors import EdgeGemmaMemoryError, EdgeGemmaValueError
from support.paths import DATA, ROOT

DENSE = DATA / "dense-Q4_0.gguf"
TOY = ROOT / "edge_gemma" / "demo" / "data" / "demo.gguf"


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.load(DENSE, threads=1) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _a_steady_process(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that runs all tests grows and shrinks between two plans. Here it has one size, so that plans can be
    compared."""
    begun = (resident() or 400_000_000) - model.memory()["resident"]
    monkeypatch.setattr("edge_gemma.engine.memory.resident", lambda: begun + model.memory()["resident"])


def own(model: Model, context: int, kv: str) -> int:
    """Bytes that a session of this size takes for itself."""
    return sum(model.estimate(context, kv).values())


def limit_for(model: Model, context: int, kv: str) -> int:
    """The smallest limit for such a session."""
    return memory_need(model, context, kv).total


# ---- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1.5GB", 1_500_000_000),
        ("900 mb", 900_000_000),
        ("2GiB", 2**31),
        ("64k", 64_000),
        ("123", 123),
        (".5G", 5 * 10**8),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "1.5XB", "1.5GB extra", "1e9", "nan", "9999999TB", "1ib"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(EdgeGemmaValueError, match="is not a size"):
        parse_size(text)


# ---- plans ------------------------------------------------------------------------------------------------------


def test_plenty_gives_what_is_wanted(model: Model) -> None:
    plan = fit(model, "100GB", 3000)
    assert (plan.context, plan.kv) == (3000, "f16")
    assert fit(model, 10**11).context == model.config.context_length
    assert fit(model, 10**11, 3000, "q8").kv == "q8"


def test_first_the_cache_gets_smaller_then_the_context(model: Model) -> None:
    wanted = model.config.context_length
    f16, q8, least = (limit_for(model, *key) for key in ((wanted, "f16"), (wanted, "q8"), (256, "q8")))
    assert f16 > q8 > least
    plan = fit(model, (f16 + q8) // 2, wanted)
    assert (plan.context, plan.kv) == (wanted, "q8")
    limit = (q8 + least) // 2
    plan = fit(model, limit, wanted)
    assert plan.kv == "q8" and 256 < plan.context < wanted and plan.context % 256 == 0
    assert plan.need.total <= limit
    larger = plan.need.total - plan.need.kv - plan.need.scratch + own(model, plan.context + 256, "q8")
    assert larger > limit, "a larger context would have fitted"
    fixed = fit(model, limit, wanted, "f16")
    assert fixed.kv == "f16" and fixed.context < plan.context


def test_what_can_not_fit_is_refused_with_what_would(model: Model) -> None:
    with pytest.raises(EdgeGemmaMemoryError) as caught:
        fit(model, "5MB", 4096)
    assert caught.value.code == "memory"
    text = str(caught.value)
    for part in ("limit of 5 MB", "at 4096 tokens with a q8 cache", "at 256 tokens", "weights", "smaller quantization"):
        assert part in text
    least = memory_need(model, 256, "q8").total
    assert f"{least / 1e6:.3g} MB at 256" in text


def test_the_least_context_is_kept(model: Model) -> None:
    limit = (limit_for(model, 256, "q8") + limit_for(model, 4096, "q8")) // 2
    assert fit(model, limit, 4096).context < 4000
    with pytest.raises(EdgeGemmaMemoryError, match="at 4000 tokens"):
        fit(model, MemoryLimit(limit, least=4000), 4096)
    assert fit(model, MemoryLimit(limit_for(model, 100, "f16") + 300_000, least=4000), 100).context == 100


def test_more_sessions_take_more(model: Model) -> None:
    one, four = (memory_need(model, 4096, sessions=n) for n in (1, 4))
    own = model.estimate(4096)["scratch"]
    assert (four.kv, four.scratch) == (4 * one.kv, one.scratch + 3 * own)
    limit = limit_for(model, 4096, "f16") + 500_000
    assert fit(model, limit, 4096).kv == "f16"
    with pytest.raises(EdgeGemmaMemoryError):
        fit(model, MemoryLimit(limit, sessions=100), 4096)


def test_the_table_of_rows_does_not_count_and_the_encoder_does() -> None:
    text, encoder = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"
    with Model.load(text, threads=1) as model:
        parts = model.weight_sizes()
        assert parts["rows"] > 0 and parts["encoder"] == 0
        assert parts["weights"] + parts["rows"] + parts["vocabulary"] == model.memory()["mapped"]
        assert memory_need(model, 256).encoder == 0
    with Model.load(text, mmproj=encoder, threads=1) as model:
        assert 0 < model.weight_sizes()["encoder"] <= encoder.stat().st_size
        with_sound, without = (memory_need(model, 256, audio=audio) for audio in (None, False))
        assert with_sound.encoder >= model.weight_sizes()["encoder"] and without.encoder == 0


def test_pictures_count_where_they_are_seen() -> None:
    with Model.load(DATA / "e2b-Q4_0.gguf", mmproj=DATA / "vision-e2b.gguf", threads=1) as model:
        image = model.weight_sizes()["image"]
        seeing, unknown, blind = (memory_need(model, 256, vision=vision) for vision in (True, None, False))
        assert image > 0 and seeing.encoder == unknown.encoder > image and blind.encoder == 0
        limit = blind.total + 1_000_000
        assert fit(model, MemoryLimit(limit, vision=False), 256).context == 256
        with pytest.raises(EdgeGemmaMemoryError, match="the encoders"):
            fit(model, MemoryLimit(limit), 256)
    with Model.load(DATA / "e2b-Q4_0.gguf", threads=1) as model:
        assert memory_need(model, 256, vision=True).encoder == 0


# ---- sessions ---------------------------------------------------------------------------------------------------


def test_sessions_and_chats_within_a_limit(model: Model) -> None:
    limit = (limit_for(model, 256, "q8") + limit_for(model, 4096, "q8")) // 2
    with model.session(4096, memory_limit=limit) as session:
        assert 256 <= session.context < 4096
        assert session.memory()["kv"] == model.estimate(session.context, "q8")["kv"]
    with model.chat(context=4096, memory_limit=limit).session as session:
        assert session.context < 4096
    with pytest.raises(EdgeGemmaMemoryError):
        model.session(memory_limit="1MB")
    with pytest.raises(EdgeGemmaValueError, match="not a size"):
        model.session(memory_limit="much")
    with pytest.raises(EdgeGemmaValueError, match="above 0"):
        model.session(memory_limit=0)


def test_a_saved_session_is_taken_or_refused(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "session"
    with model.session(4096) as session:
        session.feed_tokens([5, 6, 7])
        session.save(file)
    with model.session(restore=file, memory_limit="10GB") as session:
        assert session.position == 3
    with pytest.raises(EdgeGemmaMemoryError, match="4096 tokens"):
        model.session(restore=file, memory_limit="5MB")


# ---- truth ------------------------------------------------------------------------------------------------------

PEAK = """
import json, sys
from edge_gemma import Model
from edge_gemma.engine.memory import fit, memory_need, resident
model = Model.load(sys.argv[1], threads=1)
limit = memory_need(model, 256, "q8").total + int(sys.argv[2])
plan = fit(model, limit)
session = model.session(memory_limit=limit)
ids = [i % 200 + 20 for i in range(session.context - 40)]
session.feed_tokens(ids)
for _ in session.generate(32, temperature=0):
    pass
print(json.dumps([limit, session.context, plan.need.total, resident("VmHWM")]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a system that tells the peak of a process")
@pytest.mark.parametrize("more", [1_000_000, 32_000_000])
def test_a_process_stays_below_its_limit(more: int) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, DENSE, str(more)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    limit, context, planned, peak = json.loads(done.stdout)
    assert context >= 256
    assert planned <= limit
    assert 0.4 * planned < peak <= planned, "what is planned must be above what is used, and not far above"


TOUCHED = """
import sys
from edge_gemma import Model
from edge_gemma.engine.memory import resident
model = Model.load(sys.argv[1], threads=1)
long = model.session(4096)
long.feed_tokens([i % 200 + 20 for i in range(3000)])
long.fork().close()
begun, sessions = resident(), []
for _ in range(40):
    sessions.append(model.session(4096))
    sessions[-1].feed_tokens([i % 200 + 20 for i in range(200)])
    long.fork().close()
print((resident() - begun) / 40, *(model.estimate(n)["kv"] for n in (512, 4096)))
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs a system that tells what a process has in memory"
)
def test_a_session_takes_memory_for_the_tokens_it_has_even_where_a_longer_one_was_closed() -> None:
    done = subprocess.run([sys.executable, "-c", TOUCHED, str(TOY)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken, some, all_ = map(float, done.stdout.split())
    assert 0 < taken < some < all_ / 3


def test_the_option(run_cli) -> None:
    small = run_cli("run", "-m", str(DENSE), "--raw", "-n", "3", "hello", "--memory-limit", "3MB")
    assert small.returncode == 1 and "memory limit of 3 MB" in small.stderr and "tokens" in small.stderr
    assert run_cli("run", "-m", str(DENSE), "--raw", "-n", "3", "hello", "--memory-limit", "300MB").returncode == 0
    wrong = run_cli("run", "hello", "--memory-limit", "lots")
    assert wrong.returncode == 2 and "'lots' is not a size" in wrong.stderr
