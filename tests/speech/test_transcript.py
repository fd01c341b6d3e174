"""Transcripts as text, subtitles, tables and JSON."""

from __future__ import annotations

import itertools
import json
import unicodedata

import pytest

from edge_gemma.errors import EdgeGemmaError
from edge_gemma.speech.line_breaking import width, wrap
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
    with pytest.raises(EdgeGemmaError, match="txt, srt, vtt, tsv, json, jsonl"):
        Transcript([]).render("pdf")
    assert set(FORMATS) == {"txt", "srt", "vtt", "tsv", "json", "jsonl"}


def test_tables() -> None:
    table = Transcript([*SEGMENTS[:2], Segment(2.0004, 3.5, "a\tb")]).render("tsv")
    assert table == "start\tend\ttext\n0\t1500\tFish & <chips> --> please.\n2000\t3500\ta b\n"
    assert Transcript(TRANSLATED).render("tsv").splitlines()[1:] == ["1000\t2000\tHallo", "2000\t3000\tAnd?"]
    bilingual = Transcript(TRANSLATED).render("tsv", bilingual=True).splitlines()
    assert bilingual == ["start\tend\ttext\ttranslation", "1000\t2000\tHello\tHallo", "2000\t3000\tAnd?\t"]


def test_json_has_no_more_digits_than_it_knows() -> None:
    assert json.loads(Transcript([], duration=12.32249433106576, rate=16000).render("json"))["duration"] == 12.322


# ---- lines ------------------------------------------------------------------------------------------------------

SCRIPTS = {
    "Chinese": "因为天气不好，所以我们今天没有去公园。我们在家里看了一部电影，然后一起做了晚饭，味道非常好。",
    "Japanese": "昨日は雨がとても強かったので、「明日にしよう」と言って、みんなで帰りました。そして、コーヒーを飲んだ。",
    "Korean": "오늘은 날씨가 좋지 않아서 우리는 공원에 가지 않았습니다. 대신 집에서 영화를 보고 저녁을 함께 만들었습니다.",
    "Thai": "วันนี้อากาศไม่ดีเราจึงไม่ได้ไปสวนสาธารณะเราดูหนังที่บ้านแล้วทำอาหารเย็นด้วยกันอร่อยมากจริงๆ",
    "Khmer": "ថ្ងៃនេះអាកាសធាតុមិនល្អដូច្នេះយើងមិនបានទៅសួនច្បារទេយើងមើលកុននៅផ្ទះហើយធ្វើអាហារពេលល្ងាចជាមួយគ្នា",
    "Hindi": "आज मौसम अच्छा नहीं था इसलिए हम पार्क नहीं गए और घर पर फिल्म देखी फिर साथ में खाना बनाया",
    "German": "Die Donaudampfschifffahrtsgesellschaft hat heute wegen des Wetters alle Fahrten auf dem Fluss abgesagt.",
    "emoji": "👩‍👩‍👧‍👦🎉🇩🇪👍🏽" * 12,
    "address": "See https://example.org/" + "a-very-long-name/" * 6 + " for all of it.",
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("columns", [16, 42])
def test_lines_are_as_wide_as_they_may_be(script: str, columns: int) -> None:
    text = SCRIPTS[script]
    lines = wrap(text, columns)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")  # nothing is lost
    assert len(lines) > 1 and all(0 < width(line) <= columns for line in lines)
    assert len(lines) <= 2 * width(text) / columns + 1  # and no line is much too short
    for line in lines:
        assert not unicodedata.category(line[0]).startswith("M")
        assert line[0] not in "、。，」ー.็่้\u200d" and line[-1] not in "「\u200d្"


def test_words_of_scripts_with_spaces_are_not_cut() -> None:
    for script, columns in (("Korean", 16), ("Hindi", 16), ("German", 40), ("Korean", 42), ("Hindi", 42)):
        words = SCRIPTS[script].split()
        assert [word for line in wrap(SCRIPTS[script], columns) for word in line.split()] == words


@pytest.mark.parametrize(
    ("text", "columns", "lines"),
    [
        ("one two three", 7, ["one two", "three"]),
        ("one  two\nthree", 3, ["one", "two", "thr", "ee"]),
        ("a well-known thing", 8, ["a well-", "known", "thing"]),
        ("5-3 is 2", 4, ["5-3", "is 2"]),
        (
            "今天天气好。我们去公园",
            14,
            ["今天天气好。", "我们去公园"],
        ),  # behind punctuation rather than at the very end
        ("今天天气很好。", 12, ["今天天气很", "好。"]),  # no line begins with a full stop
        ("彼は「はい」と", 6, ["彼は", "「は", "い」と"]),  # nor ends with a bracket that opens
        ("コーヒーショップ", 6, ["コー", "ヒー", "ショッ", "プ"]),  # nor begins with a small kana or a long mark
        ("ｶﾞｷﾞｸﾞ｡ｹﾞ", 4, ["ｶﾞｷﾞ", "ｸﾞ｡", "ｹﾞ"]),
        ("版本Windows很好", 10, ["版本", "Windows很", "好"]),
        ("10\u00a0000 km", 4, ["10\u00a00", "00", "km"]),
        ("5 10\u00a0000 km", 6, ["5", "10\u00a0000", "km"]),
        ("Tu viens ? Oui", 8, ["Tu", "viens ?", "Oui"]),
        ("cafe\u0301 cre\u0300me", 5, ["cafe\u0301", "cre\u0300me"]),
        ("🇩🇪🇫🇷🇪🇸", 4, ["🇩🇪🇫🇷", "🇪🇸"]),
        ("👩‍🚀👩‍🚀👩‍🚀", 4, ["👩‍🚀👩‍🚀", "👩‍🚀"]),
        ("", 5, []),
    ],
)
def test_where_lines_end(text: str, columns: int, lines: list[str]) -> None:
    assert wrap(text, columns) == lines


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("abc", 3),
        ("日本", 4),
        ("ｱｲｳ", 3),
        ("한국", 4),
        ("e\u0301", 1),
        ("👍🏽", 2),
        ("👩‍👩‍👧‍👦", 2),
        ("🇩🇪", 2),
        ("❤️", 2),
        ("ที่นี่", 2),
        ("हिन्दी", 2),
    ],
)
def test_width(text: str, columns: int) -> None:
    assert width(text) == columns


def test_subtitles_are_no_wider_than_42_columns() -> None:
    for text in SCRIPTS.values():
        for form in ("srt", "vtt"):
            found = cues(Transcript([Segment(0.0, 20.0, text)]).render(form))
            assert all(width(line) <= 42 for _, piece in found for line in piece.split("\n"))
            assert all(piece.count("\n") <= 1 for _, piece in found)
