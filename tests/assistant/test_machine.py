"""What the assistant does next: all transitions, without hardware, on a clock of the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_gemma.assistant.machine import Announcement, Machine, Settings, State

RING = Announcement("The timer has ended.", np.ones(160, np.int16))
NOTE = Announcement("You have mail.")


class Recorder:
    """Notes what is to be done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.ears, self.watching = False, False
        self.states: list[State] = []

    def listen(self, since: int | None) -> None:
        if since is not None:
            self.done.append(f"listen since {since}")
        self.ears = True

    def ignore(self) -> None:
        self.ears = False

    def finish_utterance(self) -> None:
        self.done.append("finish")

    def watch(self, watching: bool) -> None:
        self.watching = watching

    def earcon(self, name: str) -> None:
        self.done.append(f"*{name}*")

    def begin(self, text: str) -> None:
        self.done.append(f"begin {text}")

    def drop(self) -> None:
        self.done.append("drop")

    def answer(self, text: str) -> None:
        self.done.append(f"answer {text}")

    def interrupt(self) -> None:
        self.done.append("interrupt")

    def announce(self, announcement: Announcement) -> None:
        self.done.append(f"announce {announcement.text}")

    def hush(self) -> None:
        self.done.append("hush")

    def forget(self) -> None:
        self.done.append("forget")

    def changed(self, state: State) -> None:
        self.states.append(state)


class World:
    """A machine, what it does, and a clock."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.actions = Recorder()
        self.machine = Machine(self.actions, Settings(names=("Nabu",), **settings), lambda: self.now)
        self.machine.start()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.machine.tick()

    def done(self) -> list[str]:
        """What was done since the last call."""
        done, self.actions.done = self.actions.done, []
        return done

    def to(self, state: State) -> World:
        """Brings the machine there on the usual way."""
        machine = self.machine
        steps: dict[State, Any] = {
            "asleep": lambda: None,
            "awake": lambda: machine.woken(5),
            "hearing": machine.speech_began,
            "thinking": lambda: machine.heard("What time is it?"),
            "speaking": machine.sound_began,
            "announcing": lambda: machine.announced(RING),
        }
        order: list[State] = ["asleep", "awake", "hearing", "thinking", "speaking"]
        for step in ["announcing"] if state == "announcing" else order[: order.index(state) + 1]:
            steps[step]()  # type: ignore[index]
        assert machine.state == state
        self.done()
        return self


def test_a_turn_from_the_wake_word_to_sleep() -> None:
    world = World()
    machine, actions = world.machine, world.actions
    assert machine.state == "asleep" and not actions.ears
    machine.woken(5)
    assert world.done() == ["*wake*", "listen since 5"] and actions.ears
    machine.speech_began()
    machine.paused("What time")
    machine.resumed()
    machine.paused("What time is it?")
    machine.heard("What time is it?")
    assert world.done() == ["begin What time", "drop", "begin What time is it?", "*heard*", "answer What time is it?"]
    assert not actions.ears  # the microphone would hear the answer
    machine.sound_began()
    machine.answer_ended()
    machine.sound_ended()
    assert actions.ears
    assert actions.states == ["awake", "hearing", "thinking", "speaking", "awake"]
    world.wait(5.9)
    assert machine.state == "awake"
    world.wait(0.2)
    assert (
        machine.state == "asleep" and not actions.ears and world.done() == []
    )  # quietly: nobody has asked for anything
    world.wait(200)
    assert world.done() == ["forget"]
    world.wait(200)
    assert world.done() == []


def test_a_follow_up_needs_no_wake_word() -> None:
    world = World().to("speaking")
    world.machine.answer_ended()
    world.machine.sound_ended()
    world.wait(3)
    world.machine.speech_began()
    world.machine.heard("And in Rome?")
    assert world.done()[-1] == "answer And in Rome?"


def test_no_follow_up() -> None:
    world = World(follow_up=0.0).to("speaking")
    world.machine.answer_ended()
    world.machine.sound_ended()
    assert world.machine.state == "asleep" and not world.actions.ears


def test_nobody_speaks_after_the_wake_word() -> None:
    world = World().to("awake")
    world.wait(5)
    world.machine.woken(9)  # said again: the time begins anew
    world.wait(5)
    assert world.machine.state == "awake"
    world.done()
    world.wait(1.5)
    assert world.machine.state == "asleep" and world.done() == ["*sleep*"]


def test_speech_without_words_is_waited_over() -> None:
    world = World().to("hearing")
    world.machine.heard("")
    assert world.machine.state == "awake" and world.done() == ["drop"]


def test_a_reply_without_sound_ends_the_turn() -> None:
    world = World().to("thinking")
    world.machine.answer_ended()
    world.machine.sound_ended()
    assert world.machine.state == "awake"


def test_the_sound_may_end_before_the_answer_does() -> None:
    world = World().to("speaking")
    world.machine.sound_ended()
    assert world.machine.state == "speaking"
    world.machine.sound_began()
    world.machine.answer_ended()
    world.machine.sound_ended()
    assert world.machine.state == "awake"


@pytest.mark.parametrize("state", ["thinking", "speaking"])
def test_the_wake_word_interrupts(state: State) -> None:
    world = World().to(state)
    world.machine.woken(7)
    assert world.machine.state == "awake" and world.done() == ["interrupt", "*wake*", "listen since 7"]


@pytest.mark.parametrize("state", ["thinking", "speaking"])
def test_speech_interrupts_where_there_is_no_echo(state: State) -> None:
    world = World(interruption="speech", hears_itself=False).to(state)
    assert world.actions.ears and world.actions.watching
    world.machine.interrupted()
    assert world.done() == ["interrupt"] and world.machine.state == "awake" and not world.actions.watching
    world.machine.speech_began()
    world.machine.heard("No, in Rome.")
    assert world.done()[-1] == "answer No, in Rome."


def test_speech_interrupts_before_the_ears_have_noticed() -> None:
    world = World(interruption="speech", hears_itself=False).to("speaking")
    world.machine.speech_began()
    assert world.done() == ["interrupt"] and world.machine.state == "hearing"


def test_an_interruption_without_words_ends_in_sleep() -> None:
    world = World(interruption="speech", hears_itself=False).to("speaking")
    world.machine.interrupted()
    world.wait(6.1)
    assert world.machine.state == "asleep"


@pytest.mark.parametrize("interruption", ["wake", "none"])
def test_speech_does_not_interrupt(interruption: Any) -> None:
    world = World(interruption=interruption, hears_itself=False).to("speaking")
    assert not world.actions.ears and not world.actions.watching


def test_an_assistant_that_hears_itself_listens_until_it_speaks() -> None:
    world = World(interruption="speech").to("thinking")
    assert world.actions.ears
    world.machine.sound_began()
    assert not world.actions.ears and not world.actions.watching


@pytest.mark.parametrize("state", ["awake", "hearing", "thinking", "speaking", "announcing"])
def test_the_key_to_stop_always_works(state: State) -> None:
    world = World().to(state)
    world.machine.stopped()
    assert world.machine.state == "asleep" and not world.actions.ears
    wanted = {"hearing": "drop", "thinking": "interrupt", "speaking": "interrupt", "announcing": "hush"}
    assert world.done()[:1] == [wanted.get(state, "*sleep*")]


@pytest.mark.parametrize("text", ["Stop.", "Nabu, stop!", "Sei still"])
def test_the_word_stop_is_no_request(text: str) -> None:
    world = World(interruption="speech", hears_itself=False).to("speaking")
    world.machine.interrupted()
    world.machine.speech_began()
    world.machine.paused(text)
    world.machine.heard(text)
    assert world.done() == ["interrupt", "drop", "*sleep*"] and world.machine.state == "asleep"


def test_the_key_to_talk() -> None:
    world = World()
    machine = world.machine
    machine.pressed()
    assert machine.state == "awake" and world.done() == ["*wake*"]
    machine.pressed()
    assert machine.state == "asleep" and world.done() == ["*sleep*"]
    world.to("hearing")
    machine.released()
    machine.pressed()
    assert world.done() == ["finish", "finish"]
    machine.heard("Hello.")
    machine.sound_began()
    machine.pressed()
    assert machine.state == "awake" and world.done()[-2:] == ["interrupt", "*wake*"]
    World().machine.released()  # nothing was said: nothing happens


def test_without_a_wake_word_it_is_always_awake() -> None:
    world = World(needs_waking=False)
    assert world.machine.state == "awake" and world.actions.ears
    world.wait(1000)
    assert world.machine.state == "awake"
    world.machine.speech_began()
    world.machine.heard("Hello.")
    world.machine.answer_ended()
    world.machine.sound_ended()
    world.wait(100)
    assert world.machine.state == "awake" and world.actions.ears
    world.machine.speech_began()
    world.machine.heard("stop")
    assert world.machine.state == "awake"


def test_an_announcement_is_made_between_turns() -> None:
    world = World().to("speaking")
    world.machine.announced(NOTE)
    assert world.done() == []
    world.machine.answer_ended()
    world.machine.sound_ended()
    assert world.done() == ["announce You have mail."] and world.machine.state == "announcing"
    world.machine.sound_began()
    world.machine.sound_ended()
    assert world.machine.state == "asleep"


def test_an_announcement_waits_for_who_was_about_to_speak() -> None:
    world = World().to("awake")
    world.machine.announced(NOTE)
    assert world.done() == []
    world.wait(7)
    assert world.done() == ["*sleep*", "announce You have mail."]


def rings(world: World) -> int:
    return sum("announce" in item for item in world.done())


def test_an_alarm_rings_until_it_is_stopped() -> None:
    world = World()
    world.machine.announced(RING)
    world.machine.announced(NOTE)
    assert rings(world) == 1
    for _ in range(5):
        world.machine.sound_began()
        assert not world.actions.ears  # it would hear itself
        world.machine.sound_ended()
        assert world.actions.ears
        world.wait(1.0)
        assert rings(world) == 0
        world.wait(1.1)
        assert rings(world) == 1
    world.machine.sound_began()
    world.machine.sound_ended()
    world.machine.speech_began()
    world.wait(5)
    assert rings(world) == 0  # somebody speaks
    world.machine.heard("What is that?")
    world.wait(2.1)
    assert rings(world) == 1
    world.machine.sound_ended()
    world.machine.speech_began()
    world.machine.heard("Stop!")
    assert world.machine.state == "asleep"
    world.wait(0.1)
    assert world.done()[-1] == "announce You have mail."


def test_the_wake_word_and_the_key_stop_an_alarm() -> None:
    world = World().to("announcing")
    world.machine.woken(3)
    assert world.done() == ["hush", "*wake*", "listen since 3"] and world.machine.state == "awake"
    world.wait(60)
    assert world.machine.state == "asleep" and rings(world) == 0
    world.to("announcing")
    world.machine.pressed()
    assert world.done() == ["hush"] and world.machine.state == "asleep"


def test_speech_hushes_a_ring_where_there_is_no_echo() -> None:
    world = World(interruption="speech", hears_itself=False).to("announcing")
    world.machine.sound_began()
    world.machine.interrupted()
    assert world.done() == ["hush"]
    world.machine.speech_began()
    world.machine.sound_ended()
    world.machine.heard("stop")
    assert world.machine.state == "asleep"


def test_an_alarm_gives_up_at_last() -> None:
    world = World(ring_for=60.0).to("announcing")
    world.machine.sound_began()
    world.machine.sound_ended()
    world.wait(61)
    assert world.machine.state == "asleep"


@pytest.mark.parametrize("state", ["awake", "hearing", "thinking", "speaking"])
def test_devices_that_vanish_end_the_turn(state: State) -> None:
    world = World().to(state)
    world.machine.devices_changed(False)
    assert world.machine.state == "asleep"
    world.machine.devices_changed(True)
    world.machine.woken(1)
    assert world.machine.state == "awake"


def test_what_comes_too_late_changes_nothing() -> None:
    world = World()
    machine = world.machine
    for late in (
        machine.speech_began,
        machine.resumed,
        machine.interrupted,
        machine.sound_ended,
        machine.answer_ended,
        machine.released,
        lambda: machine.paused("x"),
        lambda: machine.heard("x"),
    ):
        late()
        assert machine.state == "asleep" and world.done() == []
