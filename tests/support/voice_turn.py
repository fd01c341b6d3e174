"""What programs of every language are given for one voice turn, and what they are to print of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import edge_gemma as eg
from edge_gemma.audio.source import open_audio
from edge_gemma.chat.template import BUILTIN_TEMPLATE
from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.hub.resolve import EMBEDDED, EMBEDDED_MMPROJ
from support.paths import ROOT

UTTERANCE = ROOT / "edge_gemma" / "demo" / "data" / "utterances" / "1-en.wav"


def voice_arguments(folder: Path) -> list[str]:
    """The embedded model, its encoders, the tools of its home, instructions, and an utterance between faint noise."""
    (folder / "tools.json").write_text(json.dumps(Toolbox(Home().tools).schemas))
    noise = np.random.default_rng(1).normal(0, 1e-3, 27200).astype(np.float32)
    sound = np.concatenate([noise[:8000], *open_audio(UTTERANCE), noise[8000:]])
    sound.astype(np.float32).tofile(folder / "samples")
    return [str(EMBEDDED), str(EMBEDDED_MMPROJ), str(folder / "tools.json"), INSTRUCTIONS, str(folder / "samples")]


def check_voice_turn(lines: list[str], stop: str) -> None:
    """Both turns heard the same words, and the tokens of the first are those of the package. stop: of a turn that the model
    has ended."""
    words = [line.partition(" ")[2] for line in lines if line.startswith("words ")]
    assert len(words) == 2 and words[0] == words[1] != ""
    kinds = [line.partition(" ")[0] for line in lines]
    end = kinds.index("tokens")
    assert kinds[0] == "speech" and kinds[1] == "partial" and "pause" in kinds[:end]
    calls = [json.loads(line.split(" ", 2)[2]) for line in lines[:end] if line.startswith("call ")]
    with eg.Model.load(EMBEDDED, mmproj=EMBEDDED_MMPROJ, threads=2) as model:
        chat = model.chat(
            INSTRUCTIONS,
            Toolbox(Home().tools).schemas,
            context=2048,
            template=BUILTIN_TEMPLATE,
            sampling=eg.Sampling(temperature=0),
            constrain=False,
        )
        (call,) = [event.call for event in chat.send(words[0]) if event.kind == "tool_call"]
        assert call and calls == [call.arguments]
        chat.history.append({"role": "tool", "name": call.name, "content": "done"})
        reply = list(chat.send())[-1].reply
        assert reply and f"done {stop} {reply.content}" in lines[:end]
        assert lines[end] == "tokens " + " ".join(map(str, chat.session.tokens))
        chat.close()
