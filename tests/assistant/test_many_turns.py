"""Many turns in a row with the embedded model: the memory of the process stays as it is."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from edge_gemma.assistant.toolbox import Toolbox
from edge_gemma.audio.source import load_audio
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.demo.utterances import bundled
from edge_gemma.engine.memory import resident
from edge_gemma.engine.opening import opened_model
from edge_gemma.engine.sampling import Sampling
from support.assistants import Room, Someone, call
from support.scripted import RATE

pytestmark = pytest.mark.slow

TURNS, WARM = 24, 8


class HomeVoice(Someone):
    """The persona that the embedded model knows."""

    def system_prompt(self, now: datetime.datetime) -> str:
        return INSTRUCTIONS


@pytest.mark.filterwarnings("ignore:no model was named")
def test_the_memory_of_many_turns_is_flat() -> None:
    """Requests, calls and replies as in use. What is measured is the process, so the engine's memory is in it."""
    if resident() is None:
        pytest.skip("the system does not tell the memory of a process")
    home, sounds = Home(), [load_audio(utterance.path) for utterance in bundled("en")]
    sizes = []
    with opened_model(None, None, None) as model:
        room = Room(
            model,
            tools=Toolbox(home.tools, ask_below=0),
            persona=HomeVoice(None),
            detector_kind="energy",
            sampling=Sampling(temperature=0.0),
            remembers=False,
            speed=8.0,
        )
        with room:
            for number in range(1, TURNS + 1):
                room.state("asleep", "awake")
                room.clock.say(call(), np.zeros(RATE // 2, np.float32), sounds[number % len(sounds)])
                room.until(lambda count=number: len(room.kinds("turn")) >= count, 60.0)
                sizes.append(resident() or 0)
                room.speaker.written.clear()
                room.voice.said.clear()
            calls = len(room.kinds("call"))
    assert max(sizes[WARM:]) < sizes[WARM - 1] + 6 * 2**20, sizes
    assert calls > TURNS / 2  # the turns were what they are meant to be
