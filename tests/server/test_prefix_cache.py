"""What a request has in common with earlier ones is not read again: in memory, and on disk after a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_gemma.engine.model import Model
from edge_gemma.server.disk_cache import model_digest
from edge_gemma.server.running import Running
from edge_gemma.server.volatile import move_to_end, without_times
from server.conftest import endless, run_server
from support.paths import DATA

PATH = "/v1/chat/completions"
RULES = " ".join(f"Rule {number}: be brief and kind to everybody in the house." for number in range(30))


def ask(running: Running, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    body = {"messages": messages, "temperature": 0, "max_tokens": 8, **more}
    answer = httpx.post(running.url + PATH, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def usage(answer: dict[str, Any]) -> tuple[int, int]:
    """Tokens of the prompt, and those that were in the cache."""
    return answer["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def chat(question: str, rules: str = RULES) -> list[dict[str, Any]]:
    return [{"role": "system", "content": rules}, {"role": "user", "content": question}]


def said(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def test_the_next_turn_reads_only_what_is_new(own_server):
    running = own_server()
    first = ask(running, chat("Turn on the light."))
    assert usage(first)[1] == 0
    follow = [
        *chat("Turn on the light."),
        {"role": "assistant", "content": said(first)},
        {"role": "user", "content": "And off."},
    ]
    prompt, cached = usage(ask(running, follow))
    assert cached >= usage(first)[0] and prompt - cached < 40


def test_an_answer_from_the_cache_is_the_same(own_server):
    running = own_server()
    fresh = said(ask(run := own_server(), chat("Play jazz in the office."), max_tokens=40)), run
    ask(running, chat("Turn on the light."))
    again = ask(running, chat("Play jazz in the office."), max_tokens=40)
    assert usage(again)[1] > 300 and said(again) == fresh[0]


def test_instructions_are_shared_by_conversations_that_go_on_for_long(own_server):
    """A timeline cannot go back far behind its window, so the end of the instructions is kept by itself."""
    running = own_server()
    question = " ".join(f"Tell me story number {number}." for number in range(60))
    long = endless(running, messages=chat(question), max_tokens=300, stream=False)
    long.pop("prompt")
    assert httpx.post(running.url + PATH, json=long, timeout=60).status_code == 200
    prompt, cached = usage(ask(running, chat("Something else entirely, and longer than the first question was.")))
    assert 300 < cached < prompt


def test_the_same_question_again_after_a_long_answer(own_server):
    running = own_server()
    text = f"{RULES} What does the first rule say?"
    body = endless(running, messages=[{"role": "user", "content": text}], max_tokens=300, stream=False)
    body.pop("prompt")
    for _ in range(2):
        answer = httpx.post(running.url + PATH, json=body, timeout=60).json()
    prompt, cached = usage(answer)
    assert cached == prompt - 1, "one token is read for its logits"
    other = [{"role": "user", "content": f"{RULES} What does the last one say?"}]
    prompt, cached = usage(ask(running, other))
    assert prompt - cached < 30


def test_a_snapshot_for_each_room(own_server):
    """A line near the end of the instructions tells the room: rooms that take turns both find theirs."""
    running = own_server()
    rooms = [f"{RULES} You are in area {room}." for room in ("Kitchen", "Bedroom")]
    for room in rooms:
        ask(running, chat("Turn on the light.", room), user=room)
    for number in range(3):
        for room in rooms:
            prompt, cached = usage(ask(running, chat(f"Turn on lamp {number}.", room), user=f"{number}"))
            assert prompt - cached < 40


def test_a_line_with_the_time_spoils_nothing(own_server):
    running, moving = own_server(), own_server(moves_times=False)

    def at(time: str) -> list[dict[str, Any]]:
        return chat("Turn on the light.", f"Current time is {time}. Today's date is 2026-11-28.\n{RULES}")

    for server in (running, moving):
        ask(server, at("00:25:00"))
    prompt, cached = usage(ask(running, at("00:26:11")))
    assert prompt - cached < 60
    assert usage(ask(moving, at("00:26:11")))[1] < 40


def test_what_counts_as_a_line_with_the_time():
    line = "Current time is 00:25:00. Today's date is 2026-11-28."
    assert without_times(f"Be kind.\n{line}\nBe brief.") == ("Be kind.\nBe brief.", [line])
    for text in ("The time is now.", "At 10:30 the shop opens.", f"{line} {RULES}", "Today is a day."):
        assert without_times(text) == (text, [])
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"c": 1}]},
    ]
    move_to_end(messages, [line])
    assert messages[0]["content"] == "a" and messages[2]["content"] == [
        {"type": "text", "text": f"{line}\n\n"},
        {"c": 1},
    ]


def test_requests_that_come_together_share_what_the_first_reads(own_server):
    running = own_server(parallel=4)
    answer = ask(running, chat("Hello."), n=4, seed=1)
    assert len(answer["choices"]) == 4
    page = httpx.get(running.url + "/metrics").text
    read = next(
        float(line.split()[-1]) for line in page.splitlines() if line.startswith("edge_gemma_pass_prompt_tokens_total")
    )
    assert read < 1.2 * usage(answer)[0], "the prompt was read once"


def test_calls_come_back_in_another_form(own_server, house):
    running = own_server()
    first = ask(running, house.messages, tools=house.tools, max_tokens=60)
    message = first["choices"][0]["message"]
    for call in message["tool_calls"]:
        arguments = json.loads(call["function"]["arguments"])
        call["function"]["arguments"] = json.dumps(dict(reversed(arguments.items())), separators=(",", ":"))
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": '{"data": {}}'} for call in message["tool_calls"]
    ]
    cached = usage(ask(running, [*house.messages, message, *results], tools=house.tools))[1]
    assert cached >= usage(first)[0] + first["usage"]["completion_tokens"] - 2


def test_the_budget_bounds_what_is_kept(own_server):
    running = own_server(cache_bytes=3_000_000)
    for number in range(12):
        ask(running, chat(f"Question {number}", f"{number} {RULES}"), user=str(number))
        cache = running.core.scheduler.cache
        assert cache.size <= 3_000_000 and cache.size == sum(entry.size for entry in cache.entries)
    assert running.core.scheduler.cache.entries
    off = own_server(cache_bytes=0)
    for _ in range(2):
        assert usage(ask(off, chat("Hello.")))[1] == 0
    assert not off.core.scheduler.cache.entries


def restarted(folder: Path, **options: Any) -> Running:
    return run_server(cache_dir=str(folder), **options)


def test_prefixes_outlive_the_server(tmp_path):
    with restarted(tmp_path) as running:
        first = ask(running, chat("Turn on the light."), max_tokens=30)
    with restarted(tmp_path) as running:
        again = ask(running, chat("Turn on the light."), max_tokens=30)
        assert usage(again)[1] == usage(again)[0] - 1 and said(again) == said(first)
        other = ask(running, chat("Something else."))
        assert usage(other)[1] > 300
    folder = next(tmp_path.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_another_kind_of_cache_or_a_damaged_file_is_no_prefix(tmp_path):
    with restarted(tmp_path) as running:
        first = ask(running, chat("Turn on the light."))
    with restarted(tmp_path, kv="f32") as running:
        assert usage(ask(running, chat("Turn on the light.")))[1] == 0
    for path in tmp_path.glob("*/*.session"):
        path.write_bytes(path.read_bytes()[:-100])
    for path in list(tmp_path.glob("*/*.json"))[:1]:
        path.write_text("{")
    with restarted(tmp_path) as running:
        again = ask(running, chat("Turn on the light."))
        assert usage(again)[1] == 0 and said(again) == said(first)


def test_the_folder_is_bounded(tmp_path):
    with restarted(tmp_path, cache_dir_bytes=1_500_000) as running:
        for number in range(6):
            ask(running, chat(f"Question {number}", f"{number} {RULES}"))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.session")) <= 1_500_000


def test_models_have_different_digests():
    files = {"path": DATA / "e2b-Q4_0.gguf", "threads": 1}
    with Model.load("toy", threads=1) as toy, Model.load(**files) as tiny:
        seeing = Model.load(**files, mmproj=DATA / "vision-e2b.gguf")
        digests = [model_digest(model, "f16") for model in (toy, tiny, seeing)]
        seeing.close()
        assert len({*digests, model_digest(toy, "q8")}) == 4


@pytest.mark.parametrize("header", ["x-session-id", "x-openwebui-chat-id"])
def test_a_header_names_the_conversation(own_server, header):
    running = own_server()
    body = {"messages": chat("Hello."), "max_tokens": 2}
    assert httpx.post(running.url + PATH, json=body, headers={header: "one"}, timeout=60).status_code == 200
    assert {entry.hint for entry in running.core.scheduler.cache.entries} == {"one"}
