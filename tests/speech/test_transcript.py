"""Transcripts as text, subtitles, tables and JSON."""

from __future__ import annotations

import itertools
import json

import pytest

from edge_gemma.errors import EdgeGemmaError
from edge_gemma.speech.transcript import FORMATS, Segment, Transcript, TranscriptWriter

SEGMENTS = [
    Segment(0.0, 1.5, "Fish & <chips> --> please.", language="English"),
    Segment(1.5, 2.0, ""),
    Segment(3661.2346, 3672.0, "one two three four five six seven " * 6 + "end", language="English"),
]
TRANSLATED = [Segment(1.0, 2.0, "Hello", "Hallo"), Segment(2.0, 3.0, "And?", None)]


def cues(text: str) -> list[tuple[str, str]]:
    """Times and texts of subtitles."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        if "-->" in block:
            at = next(number for number, line in enumerate(lines) if "-->" in line)
            found.append((lines[at], "\n".join(lines[at + 1 :])))
    return found


def test_text() -> None:
    transcript = Transcript(SEGMENTS)
    assert transcript.render("txt").splitlines() == [SEGMENTS[0].text, SEGMENTS[2].text]
    assert str(transcript) == transcript.text == f"{SEGMENTS[0].text} {SEGMENTS[2].text}"
    assert len(transcript) == 3 and transcript[2] is SEGMENTS[2] and list(transcript) == SEGMENTS
    assert transcript.translation is None and "3 segments" in repr(transcript)
    assert Transcript(TRANSLATED).render("txt") == "Hallo\nAnd?\n"
    assert Transcript(TRANSLATED).render("txt", bilingual=True) == "Hello\nHallo\nAnd?\n"
    assert Transcript(TRANSLATED).translation == "Hallo"


def test_subtitles() -> None:
    srt = Transcript(SEGMENTS).render("srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:01,500\nFish & <chips> → please.\n\n2\n01:01:01,235 --> ")
    long = cues(srt)[1:]
    assert " ".join(" ".join(text.split()) for _, text in long) == SEGMENTS[2].text
    assert all(len(line) <= 42 for _, text in long for line in text.split("\n"))
    assert all(text.count("\n") <= 1 for _, text in long)
    times = [time.split(" --> ") for time, _ in long]
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(times))  # no gaps
    assert times[-1][1] == "01:01:12,000"
    vtt = Transcript(SEGMENTS).render("vtt")
    assert cues(vtt)[0] == ("00:00:00.000 --> 00:00:01.500", "Fish &amp; &lt;chips&gt; → please.")
    assert vtt.startswith("WEBVTT\n\n00:")
    assert [text for _, text in cues(Transcript(TRANSLATED).render("vtt", bilingual=True))] == ["Hello\nHallo", "And?"]


def test_json_is_whole_at_any_end() -> None:
    content = json.loads(Transcript(SEGMENTS, file="x.wav").render("json"))
    assert content["file"] == "x.wav" and content["complete"] is True
    assert [s["text"] for s in content["segments"]] == [SEGMENTS[0].text, SEGMENTS[2].text]
    assert content["segments"][1]["start"] == 3661.235 and "translation" not in content
    for count in range(3):
        writer = TranscriptWriter("json")
        text = writer.head() + "".join(map(writer.segment, TRANSLATED[:count])) + writer.tail(complete=False)
        content = json.loads(text)
        assert len(content["segments"]) == count and content["complete"] is False
    assert content["translation"] == "Hallo" and content["text"] == "Hello And?"


def test_forms_without_segments() -> None:
    assert {form: Transcript([]).render(form) for form in ("txt", "srt", "vtt")} == {
        "txt": "",
        "srt": "",
        "vtt": "WEBVTT\n\n",
    }
    assert json.loads(Transcript([]).render("json"))["segments"] == []
    with pytest.raises(EdgeGemmaError, match="txt, srt, vtt, json"):
        Transcript([]).render("pdf")
    assert set(FORMATS) == {"txt", "srt", "vtt", "json"}
