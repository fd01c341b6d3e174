"""The whole assistant, with a scripted model and without hardware: see `support.assistants`."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from edge_gemma.assistant.machine import Settings
from edge_gemma.assistant.toolbox import Toolbox
from edge_gemma.chat.calls import format_call
from edge_gemma.errors import EdgeGemmaValueError
from support.assistants import Room, Someone, Speaking, Tools, call, speech
from support.scripted import RATE, ScriptedSession

FREE = Settings(names=("Nabu",), interruption="speech", hears_itself=False)
STORY = "Once upon a time there was a fox. " * 12
WORDS = {0.5: "Stop.", 1.5: "What time is it?", 2.5: "Tell me a story.", 3.5: "Count on.", 4.5: "Okay Nabu, hello."}


def understood(session: ScriptedSession) -> str | None:
    """The transcript, by the length of the speech; None in a conversation."""
    if "Transcribe" not in session.text:
        return None
    return WORDS[min(WORDS, key=lambda seconds: abs(seconds + 0.4 - session.seconds))]


def script(session: ScriptedSession) -> str:
    words = understood(session)
    if words is not None:
        return words
    request = session.text.rpartition("<|turn>user\n")[2]
    if "story" in request:
        return STORY
    if "Count" in request:
        return "Three." if "<|tool_response>" in request else format_call("count", {"by": 3}) + "<|tool_response>"
    return "It is noon. Anything else?"


def asked(room: Room) -> str:
    """What the model had read when it began its last answer in the conversation."""
    decode = room.model.tokenizer.decode
    texts = [decode([token for token in request.tokens if token >= 0], special=True) for request in room.model.requests]
    return [text for text in texts if "You are Nabu." in text][-1]


def test_a_turn() -> None:
    with Room(script) as room:
        room.ask()
        (turn,) = room.turns(1)
        room.state("awake")
        assert [text for text, _ in room.voice.said] == ["It is noon.", "Anything else?"]
        assert {language for _, language in room.voice.said} == {"en"}
        states = [values["state"] for values in room.kinds("state")]
        assert states == ["asleep", "awake", "hearing", "thinking", "speaking", "awake"]
        (heard,) = room.kinds("heard")
        assert heard["text"] == "What time is it?" and 0 < heard["confidence"] <= 1
        assert room.kinds("reply")[-1] == {"text": "It is noon. Anything else?", "final": True}
        # Begun in the pause, and heard when the silence was over: not before, and at once.
        assert turn["begun_early"] and turn["first_token_s"] < turn["decision_s"] == pytest.approx(0.7, abs=0.1)
        assert 0 <= turn["decision_to_sound_s"] < 0.5
        assert json.loads(room.records[0]) == turn and "noon" not in room.records[0]
        room.state("asleep")


def test_a_follow_up_knows_what_was_said_before() -> None:
    with Room(script) as room:
        room.ask()
        room.turns(1)
        room.state("awake")
        room.clock.say(speech(1.5))
        room.turns(2)
        assert "It is noon." in asked(room)


def test_a_conversation_is_forgotten() -> None:
    with Room(script, settings=Settings(forget_after=10.0)) as room:
        room.ask()
        room.turns(1)
        room.until(lambda: room.kinds("forgotten"))
        room.ask()
        room.turns(2)
        assert "noon" not in asked(room) and "You are Nabu." in asked(room)


def test_a_pause_in_the_middle_leaves_no_trace() -> None:
    """The first half is answered in the pause; that answer is dropped, and nothing of it is heard or kept."""

    def pausing(session: ScriptedSession) -> str:
        if "Transcribe" in session.text:
            return "Tell me" if session.seconds < 2.8 else "Tell me a story."
        return STORY if "story" in session.text else "What?"

    with Room(pausing) as room:
        room.clock.say(
            call(), np.zeros(RATE // 2, np.float32), speech(1.5), np.zeros(RATE // 2, np.float32), speech(1.5)
        )
        room.state("speaking")
        assert [values["text"] for values in room.kinds("heard")] == ["Tell me a story."]
        assert not any("What?" in text for values in room.kinds("reply") for text in [values["text"]])
        assert "What?" not in asked(room)


def test_a_new_conversation_can_go_back_as_well() -> None:
    """After a conversation was forgotten, the answer to a pause is dropped, and the next one goes on from before it."""

    def pausing(session: ScriptedSession) -> str:
        if "Transcribe" in session.text:
            return "Tell me" if session.seconds < 2.8 else "Tell me a story."
        return "Once upon a time." if "story" in session.text else "What?"

    halves = (call(), np.zeros(RATE // 2, np.float32), speech(1.5), np.zeros(RATE // 2, np.float32), speech(1.5))
    with Room(pausing, settings=Settings(forget_after=8.0), partials=100.0) as room:  # nothing is read ahead
        for number in (1, 2, 3):
            room.clock.say(*halves)
            room.turns(number)
            room.until(lambda count=number: len(room.kinds("forgotten")) == count)
        assert [text for text, _ in room.voice.said] == ["Once upon a time."] * 3 and not room.kinds("problem")
        assert asked(room).count("<|turn>user") == 1


def test_a_failure_in_the_pause_is_told_when_the_turn_is_over() -> None:
    """The turn ends, and the next one is answered."""
    left = [1]

    def failing(session: ScriptedSession) -> Any:
        if understood(session) is None and left:
            left.pop()
            return EdgeGemmaValueError("The model has lost its thread.", "state")
        return script(session)

    with Room(failing) as room:
        room.ask()
        room.until(lambda: room.kinds("problem"))
        room.turns(1)
        room.state("asleep")
        room.ask()
        room.turns(2)
        assert [values["text"] for values in room.kinds("problem")] == ["The model has lost its thread."]
        assert [text for text, _ in room.voice.said] == ["It is noon.", "Anything else?"]


def test_tools_run_when_the_words_are_certain() -> None:
    ran: list[tuple[int, str]] = []

    def count(by: int) -> int:
        """Counts on."""
        ran.append((by, room.loop.state))
        return by

    with Room(script, count) as room:
        room.ask(3.5)
        (turn,) = room.turns(1)
        assert ran == [(3, "thinking")] and turn["tools"] == 1
        assert room.kinds("call") == [{"name": "count", "arguments": {"by": 3}}]
        assert room.kinds("result") == [{"name": "count", "result": 3}]
        assert [text for text, _ in room.voice.said] == ["Three."]


def test_a_slow_tool_does_not_make_it_deaf() -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def count(by: int) -> int:
        """Counts on."""
        waiting.set()
        go_on.wait(10)
        return by

    with Room(script, count) as room:
        room.ask(3.5)
        assert waiting.wait(10)
        room.clock.say(call(), np.zeros(RATE // 2, np.float32), speech(1.5))
        room.until(lambda: len(room.kinds("heard")) == 2)
        go_on.set()
        turns = room.turns(2)
        assert [turn["interrupted"] for turn in turns] == [True, False]
        assert [text for text, _ in room.voice.said] == ["It is noon.", "Anything else?"]


@pytest.mark.parametrize(
    ("answer", "counted", "reply"),
    [
        ("Yes, please.", 1, "Three."),
        ("No.", 0, "All right, I have done nothing."),
        ("What time is it?", 0, "It is noon."),
    ],
)
@pytest.mark.parametrize("remembers", [True, False])
def test_a_call_is_asked_back(answer: str, counted: int, reply: str, remembers: bool) -> None:
    """What yes means is told by its words, and the call is then the one that was asked back."""
    questions = []

    def count(by: int) -> int:
        """Counts on."""
        return by

    def asks(call: Any, confidence: float | None) -> str | None:
        questions.append((call.name, confidence))
        return "Shall I count to three?"

    def answering(session: ScriptedSession) -> str:
        words = understood(session)
        return answer if words == WORDS[1.5] else words if words is not None else script(session)

    with Room(answering, tools=Tools(count, asks=asks), remembers=remembers) as room:
        room.ask(3.5)
        room.turns(1)
        assert [text for text, _ in room.voice.said] == ["Shall I count to three?"] and not room.kinds("result")
        room.state("awake")
        room.clock.say(speech(1.5))
        room.turns(2)
        assert room.voice.said[1][0] == reply
        assert room.kinds("result") == [{"name": "count", "result": 3}] * counted
        assert len(questions) == 1 and questions[0][0] == "count" and questions[0][1] is not None
        if counted:  # the model reads a conversation in which the call was made at once
            assert "Shall I" not in asked(room) and asked(room).count("Count on.") == 1 and "Yes" not in asked(room)


@pytest.mark.parametrize("language, said", [("en", "20 degrees Celsius"), ("de", "20 Grad Celsius"), ("ja", "20 °C")])
def test_signs_are_spoken_in_the_language_of_the_answer(language: str, said: str) -> None:
    def answering(session: ScriptedSession) -> str:
        return understood(session) or "**20 °C**. ---\n"

    with Room(answering, persona=Someone(language)) as room:
        room.ask()
        room.turns(1)
        assert room.voice.said[0] == (f"{said}.", language)


def several(*calls: str) -> Any:
    """A model that makes these calls at once when it is to count, and hears "Yes." in short speech."""

    def answering(session: ScriptedSession) -> str:
        words = understood(session)
        if words is not None:
            return "Yes." if words == WORDS[1.5] else "No." if words == WORDS[2.5] else words
        if "Count" in session.text.rpartition("<|turn>user\n")[2]:
            return "Done." if "<|tool_response>" in session.text else "".join(calls) + "<|tool_response>"
        return "What?"

    return answering


class Doors:
    """Tools, and what was done with them."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def count(self, by: int) -> int:
        """Counts on."""
        self.done.append(by)
        return by

    def open(self, door: str) -> str:
        """Opens a door."""
        self.done.append(door)
        if door == "jammed":
            raise ValueError("the door is jammed")
        return f"{door} is open"

    def tools(self) -> Tools:
        return Tools(self.count, self.open, asks=lambda call, confidence: self.question(call))

    @staticmethod
    def question(call: Any) -> str | None:
        return f"Open the {call.arguments['door']} door?" if call.name == "open" else None


COUNT, FRONT, BACK = (
    format_call("count", {"by": 3}),
    *(format_call("open", {"door": door}) for door in ("front", "back")),
)


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("calls", [(COUNT, FRONT), (FRONT, COUNT)])
@pytest.mark.parametrize(
    "seconds, done, reply", [(1.5, [3, "front"], "Done."), (2.5, [3], "All right, I will leave that.")]
)
def test_calls_beside_one_that_is_asked_back_are_made(
    seconds: float, done: list[Any], reply: str, calls: tuple[str, ...], remembers: bool
) -> None:
    doors = Doors()
    with Room(several(*calls), tools=doors.tools(), remembers=remembers) as room:
        room.ask(3.5)
        room.turns(1)
        assert doors.done == [3] and [text for text, _ in room.voice.said] == ["Open the front door?"]
        room.state("awake")
        room.clock.say(speech(seconds))
        room.turns(2)
        assert doors.done == done and room.voice.said[-1][0] == reply
        if reply == "Done.":  # the model reads a conversation in which all calls were made
            assert asked(room).count("<|tool_response>") == 2 and "front is open" in asked(room)
            assert "door?" not in asked(room) and "Yes" not in asked(room) and asked(room).count("Count on.") == 1


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("answers", [(True, True), (True, False), (False, True), (False, False)])
def test_each_of_several_calls_is_asked_back(answers: tuple[bool, ...], remembers: bool) -> None:
    """A no is for its own question. What was agreed to is done, and the model reads of nothing else."""
    doors, done = Doors(), []
    with Room(several(FRONT, BACK), tools=doors.tools(), remembers=remembers) as room:
        room.ask(3.5)
        for number, (door, agreed) in enumerate(zip(("front", "back"), answers, strict=True), start=1):
            room.turns(number)
            assert doors.done == done and room.voice.said[-1][0] == f"Open the {door} door?"
            room.state("awake")
            room.clock.say(speech(1.5 if agreed else 2.5))
            done += [door] * agreed
        room.turns(3)
        assert doors.done == done and len(room.voice.said) == 3
        if answers[-1]:
            assert room.voice.said[-1][0] == "Done."
            assert asked(room).count("<|tool_response>") == len(done) and "door?" not in asked(room)
        else:
            left = "All right, I will leave that." if done else "All right, I have done nothing."
            assert room.voice.said[-1][0] == left


def test_one_question_about_the_words_is_for_all_their_calls() -> None:
    doors = Doors()
    tools = Tools(doors.count, doors.open, asks=lambda call, confidence: "Did you say: count on?")
    with Room(several(COUNT, FRONT), tools=tools) as room:
        room.ask(3.5)
        room.turns(1)
        assert doors.done == [] and len(room.voice.said) == 1
        room.state("awake")
        room.clock.say(speech(1.5))
        room.turns(2)
        assert doors.done == [3, "front"] and room.voice.said[-1][0] == "Done."


def test_a_call_that_failed_beside_a_question_is_told() -> None:
    doors = Doors()
    asks = lambda call, confidence: "Open it?" if call.arguments.get("door") == "front" else None  # noqa: E731
    calls = (format_call("open", {"door": "jammed"}), FRONT)
    with Room(several(*calls), tools=Tools(doors.open, asks=asks)) as room:
        room.ask(3.5)
        room.turns(1)
        said = " ".join(text for text, _ in room.voice.said)
        assert doors.done == ["jammed"] and said == "That did not work: the door is jammed. Open it?"


def test_a_failure_is_told_where_the_model_says_nothing() -> None:
    def count(by: int) -> int:
        """Counts on."""
        raise ValueError("there is no number after nine")

    def silent(session: ScriptedSession) -> str:
        answer = script(session)
        return "" if answer == "Three." else answer

    with Room(silent, tools=Tools(count)) as room:
        room.ask(3.5)
        room.turns(1)
        assert " ".join(text for text, _ in room.voice.said) == "That did not work: there is no number after nine."


def test_a_function_that_hangs_is_told_and_the_next_turn_works() -> None:
    go_on = threading.Event()

    def count(by: int) -> int:
        """Counts on."""
        go_on.wait(60)
        return by

    def silent(session: ScriptedSession) -> str:
        answer = script(session)
        return "" if answer == "Three." else answer

    with Room(silent, tools=Toolbox([count], patience=0.2, ask_below=0)) as room:
        room.ask(3.5)
        room.turns(1)
        said = " ".join(text for text, _ in room.voice.said)
        assert said.startswith("That did not work: count has not answered within 0.2 seconds")
        room.state("awake")
        room.clock.say(speech(1.5))
        room.turns(2)
        assert "It is noon." in [text for text, _ in room.voice.said]
    go_on.set()


@pytest.mark.parametrize("how", ["speech", "wake", "key"])
def test_an_interruption_stops_sound_and_answer(how: str) -> None:
    settings = FREE if how == "speech" else Settings()
    with Room(script, settings=settings) as room:
        room.ask(2.5)
        room.state("speaking")
        soon = room.clock() + 2.0
        room.until(lambda: room.clock() > soon)
        began = room.clock()
        if how == "key":
            room.loop.press()
        else:
            room.clock.say(
                speech(1.5)
                if how == "speech"
                else np.concatenate([call(), np.zeros(RATE // 2, np.float32), speech(1.5)])
            )
        room.until(lambda: room.speaker.stops)
        # Speech counts after three blocks of 32 ms, the wake word when it has ended.
        limit = {"speech": 0.1, "wake": 0.5, "key": 0.0}[how] + 0.1
        # The clock of the test runs twenty times as fast as the threads: 10 ms of theirs are 0.2 s of it.
        assert room.speaker.stops[0] - began < limit + 0.4
        room.until(lambda: room.kinds("turn"))
        assert room.kinds("turn")[0]["interrupted"]
        if how == "key":
            room.clock.say(speech(1.5))
        room.turns(2)
        assert room.kinds("heard")[1]["text"] == "What time is it?"
        text = asked(room)
        assert 1 <= text.count("Once upon a time") <= 4  # what was not heard was not said
        assert "story" in text


def test_stop_needs_no_answer() -> None:
    with Room(script, settings=FREE) as room:
        room.ask(2.5)
        room.state("speaking")
        room.clock.say(speech(0.5))
        room.until(lambda: [values["text"] for values in room.kinds("heard")][1:] == ["Stop."])
        room.state("asleep")
        assert len(room.kinds("turn")) == 1


def test_the_wake_word_is_no_part_of_the_request() -> None:
    with Room(script) as room:
        room.ask(4.5)
        room.turns(1)
        assert room.kinds("heard")[0]["text"] == "hello."


def test_only_a_key() -> None:
    with Room(script, wake=None) as room:
        room.clock.say(speech(1.5))
        room.until(lambda: room.clock() > 103)
        assert room.loop.state == "asleep" and not room.kinds("heard")
        room.loop.press()
        room.state("awake")
        room.clock.say(speech(3.0))
        room.state("hearing")
        soon = room.clock() + 1.5
        room.until(lambda: room.clock() > soon)
        began = room.clock()
        room.loop.release()  # the request ends there, and no silence is waited for
        room.until(lambda: room.kinds("heard"))
        assert room.clock() - began < 0.6
        room.turns(1)


def test_without_a_wake_word() -> None:
    settings = Settings(needs_waking=False)
    with Room(script, wake=None, settings=settings) as room:
        for number in (1, 2):
            room.state("awake")
            room.clock.say(speech(1.5))
            room.turns(number)


def test_an_alarm_rings_and_is_stopped() -> None:
    with Room(script) as room:
        assert room.tools.announce
        room.tools.announce("Tea is ready.", np.full(RATE // 2, 500, np.int16))
        room.until(lambda: len(room.kinds("announcement")) == 3)
        assert [text for text, _ in room.voice.said][:2] == ["Tea is ready."] * 2
        room.until(lambda: room.speaker.pending == 0 and len(room.kinds("announcement")) == len(room.voice.said))
        room.clock.say(np.zeros(RATE // 2, np.float32), speech(0.5))
        room.state("asleep")
        count = len(room.kinds("announcement"))
        now = room.clock()
        room.until(lambda: room.clock() > now + 8)
        assert len(room.kinds("announcement")) == count


def test_a_voice_that_fails_is_told_once() -> None:
    voice = Speaking()
    voice.failing = True
    with Room(script, voice=voice) as room:
        for number in (1, 2):
            room.ask()
            room.turns(number)
            room.state("asleep")
        assert [values["text"] for values in room.kinds("problem")] == ["the voice has lost its breath."]
        assert room.kinds("reply")[-1]["text"] == "It is noon. Anything else?"
        voice.failing = False
        room.ask()
        room.turns(3)
        assert voice.said


def test_no_voice() -> None:
    with Room(script, voice=None) as room:
        room.ask()
        (turn,) = room.turns(1)
        assert turn["first_sound_s"] is None and turn["answer_s"] is not None


def test_devices_that_vanish_and_come_back() -> None:
    with Room(script) as room:
        room.ask(2.5)
        room.state("speaking")
        room.clock.unplugged = True
        room.until(lambda: room.kinds("devices")[-1]["text"])
        room.state("asleep")
        assert "stopped" in room.kinds("devices")[-1]["text"] and room.speaker.closed
        room.until(lambda: room.clock() > 110)
        room.clock.unplugged = False
        room.until(lambda: room.devices.ready)
        room.ask()
        room.turns(2)


def test_earcons_can_be_turned_off() -> None:
    lengths = {}
    for on in (True, False):
        with Room(script, earcons=on, voice=None) as room:
            room.ask()
            room.turns(1)
            lengths[on] = len(room.speaker.written)
    assert lengths[False] == 0 < lengths[True]


def test_the_end_of_the_sound_is_waited_for() -> None:
    """What fails where it listens is raised where it runs."""

    def failing(session: ScriptedSession) -> Any:
        return ValueError("no words") if "Transcribe" in session.text else "x"

    room = Room(failing)
    with pytest.raises(ValueError, match="no words"), room:
        room.ask()
        room.turns(1)


def test_many_turns_need_no_more_memory() -> None:
    """Sessions and threads are as many after many turns as after a few."""
    counts = []
    with Room(script, remembers=False) as room:
        for number in range(1, 13):
            room.ask()
            room.turns(number)
            room.state("asleep")
            room.until(lambda: len([session for session in room.model.sessions if not session.closed]) <= 6)
            counts.append((sum(not session.closed for session in room.model.sessions), threading.active_count()))
    assert counts[-1] == counts[2]
