"""What was said, and when: `Word`, `Segment`, `Transcript`, and their formats: text, subtitles, tables and JSON.

Owns how the formats are written, as a whole or segment by segment. Knows neither models nor sound.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from ..errors import EdgeGemmaValueError
from .line_breaking import wrap

__all__ = ["DOUBTFUL", "FORMATS", "Segment", "Transcript", "TranscriptWriter", "Word", "joined"]

DOUBTFUL = 0.9
"""A word of a lower probability is doubtful. docs/benchmarks.md tells how many errors are below."""


@dataclasses.dataclass(frozen=True)
class Word:
    """A word of a transcript, or a character or syllable of a script that writes no spaces.

    Attributes:
        word: as in the text, with the punctuation beside it.
        start, end: seconds since the recording began; None unless they were asked for.
        probability: how sure the model was of it: exp of the mean log-probability of its tokens; None when that was not
            measured.
    """

    word: str
    start: float | None = None
    end: float | None = None
    probability: float | None = None

    @property
    def timed(self) -> bool:
        """Whether it has times."""
        return self.start is not None and self.end is not None

    @property
    def doubtful(self) -> bool:
        """Whether its probability is below `DOUBTFUL`."""
        return self.probability is not None and self.probability < DOUBTFUL


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of speech.

    Attributes:
        start, end: seconds since the recording began.
        text: what was said, on one line.
        translation: its translation; None when none was requested, or none was found in the answer.
        language: English name of the language that was named in the request, or else was detected for this segment; None when
            neither is the case.
        language_probability: of a detected language, as the model tells it.
        avg_logprob: how sure the model was: the mean natural logarithm of the probabilities of the tokens of `text` and of
            the one that ended it, 0 at most; None when that was not measured.
        no_speech_prob: the probability that nobody speaks here, as the model tells it; None unless it was asked for.
        words: the words of `text`, in order; empty when nothing is known about them.
        retried: of a guarded transcription, why the segment was heard once more, with other boundaries: "loop", "speed" or
            "unsure"; None when it was not.
        problem: of a guarded transcription, why the text cannot be right all the same: "loop" (it repeated itself, and was
            cut), "speed" (more words than anybody says), "unsure" (none of it is probable), "silence" (nobody speaks, and what
            the model said, if anything, was dropped); None when it can be.
        speaker: who speaks, such as "1" for the first channel of a call; None when that is not known. Texts and subtitles have
            it before the words.
    """

    start: float
    end: float
    text: str
    translation: str | None = None
    language: str | None = None
    language_probability: float | None = None
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    words: tuple[Word, ...] = ()
    retried: str | None = None
    problem: str | None = None
    speaker: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is known, as JSON has it. A doubtful word says so."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        values["words"] = [
            {key: value for key, value in dataclasses.asdict(word).items() if value is not None}
            | ({"doubtful": True} if word.doubtful else {})
            for word in self.words
        ]
        if not self.words:
            del values["words"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Segment:
        """The segment of which `as_dict` has made this."""
        words = (Word(**{k: v for k, v in word.items() if k != "doubtful"}) for word in values.get("words", ()))
        return cls(**{**values, "words": tuple(words)})


def joined(parts: Sequence[Segment], start: float, end: float, language: str | None) -> Segment:
    """One segment from `start` to `end` of parts that follow each other; without parts one without words."""
    if len(parts) == 1:
        return parts[0]
    translations = [part.translation for part in parts if part.translation is not None]
    sure = [(part.avg_logprob, max(len(part.words), 1)) for part in parts if part.avg_logprob is not None]
    return Segment(
        start,
        end,
        " ".join(part.text for part in parts if part.text),
        " ".join(filter(None, translations)) if translations else None,
        language,
        avg_logprob=sum(logprob * n for logprob, n in sure) / sum(n for _, n in sure) if sure else None,
        words=tuple(word for part in parts for word in part.words),
    )


class Transcript(Sequence[Segment]):
    """The segments of a recording, in order.

    Attributes:
        segments: all of them, a tuple. A segment without words has an empty text.
        info: what else is known, for the JSON format: file, duration, language, to, ...
    """

    def __init__(self, segments: Iterable[Segment], **info: Any) -> None:
        """`info`: see the attribute."""
        self.segments = tuple(segments)
        self.info = info

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Segment, ...]: ...
    def __getitem__(self, index: int | slice) -> Segment | tuple[Segment, ...]:
        """A segment, or several."""
        return self.segments[index]

    def __len__(self) -> int:
        """How many segments there are."""
        return len(self.segments)

    @property
    def text(self) -> str:
        """Everything that was said."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, as far as anything is known about them."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def language(self) -> str | None:
        """English name of the language: the one that was given, or else detected; None when it is not known."""
        language = self.info.get("language")
        return None if language is None else str(language)

    @property
    def translation(self) -> str | None:
        """The translation of all segments; None when no segment has one."""
        return " ".join(s.translation for s in self.segments if s.translation) or None

    def __str__(self) -> str:
        """The text."""
        return self.text

    def __repr__(self) -> str:
        """Tells the number of segments and the beginning of the text."""
        return f"<Transcript of {len(self)} segments: {textwrap.shorten(self.text, 60, placeholder='...')!r}>"

    def render(self, format: str, bilingual: bool = False) -> str:
        """The transcript as "txt" (a line for each segment), "srt", "vtt" (subtitles), "tsv", "json" or
        "jsonl".

        "tsv" is a table with tabs, and a line of names at the top: start and end in milliseconds, and the text. "jsonl" is the
        document of "json" on one line.

        Text, tables and subtitles show the translation instead of the original where there is one; `bilingual` shows both.
        Subtitles are cut into pieces of two lines of 42 columns (an East Asian character takes two); times within a segment
        are estimated from the length of the text. Where the words have times, "vtt" has the time before each word, and "srt"
        has a cue for each, in which it is underlined.

        Raises EdgeGemmaValueError "argument" for another format.
        """
        writer = TranscriptWriter(format, bilingual, **self.info)
        return writer.head() + "".join(map(writer.segment, self.segments)) + writer.tail()


class TranscriptWriter:
    """Writes a transcript piece by piece: `head`, `segment` for each segment, `tail`.

    Raises EdgeGemmaValueError "argument" for an unknown format.
    """

    def __init__(self, format: str, bilingual: bool = False, **info: Any) -> None:
        """`format` and `bilingual` as in `Transcript.render`; `info` goes into the JSON format."""
        if format not in FORMATS:
            raise EdgeGemmaValueError(f"format is {format!r}; choose {', '.join(FORMATS)}.", "argument")
        self._format = FORMATS[format](bilingual, info)

    def head(self) -> str:
        """The text before the first segment."""
        return self._format.head()

    def segment(self, segment: Segment) -> str:
        """The text of one segment; "" for a segment without words."""
        return "".join(self._format.segment(segment)) if segment.text or segment.translation else ""

    def tail(self, complete: bool = True, **info: Any) -> str:
        """The text after the last segment; `complete`: the recording was transcribed to its end."""
        return self._format.tail({**info, "complete": complete})


class _Text:
    def __init__(self, bilingual: bool, info: dict[str, Any]) -> None:
        self.bilingual, self.info, self.count = bilingual, info, 0

    def head(self) -> str:
        return ""

    def segment(self, segment: Segment) -> Iterator[str]:
        yield "".join(f"{line}\n" for line in self.lines(segment))

    def tail(self, _: dict[str, Any]) -> str:
        return ""

    def lines(self, segment: Segment) -> list[str]:
        """The lines that are shown of a segment."""
        if segment.speaker:
            first, *rest = self.lines(dataclasses.replace(segment, speaker=None))
            return [f"{segment.speaker}: {first}", *rest]
        if not segment.translation:
            return [segment.text]
        return [segment.text, segment.translation] if self.bilingual and segment.text else [segment.translation]


# Viewers can read two lines of this many columns while they watch.
_LINE, _LINES = 42, 2


@dataclasses.dataclass
class _Span:
    """A word, or the part of one, in the lines of a subtitle, with the white space behind it, and when it is said."""

    text: str
    start: float
    end: float


def _is_solid(letter: str) -> bool:
    """Whether a character is in the lines of a subtitle wherever these end."""
    return not letter.isspace() and letter != "\u200b"


def _spans(lines: str, letters: Iterator[Word]) -> list[_Span]:
    """The words in the lines of a subtitle. `letters`: the word of each of the next characters, which are taken."""
    spans: list[_Span] = []
    last: Word | None = None
    for letter in lines:
        word = next(letters) if _is_solid(letter) else last
        if word is not last and word is not None:
            assert word.start is not None and word.end is not None
            spans.append(_Span("", word.start, word.end))
            last = word
        spans[-1].text += letter
    return spans


class _Subtitles(_Text):
    comma = ","

    def segment(self, segment: Segment) -> Iterator[str]:
        if segment.words and self.lines(segment) == [segment.text] and all(word.timed for word in segment.words):
            yield from self.timed(segment)
            return
        wrapped = [wrap(text, _LINE) for text in self.lines(segment)]
        # Two languages stay together in one piece: their words do not come in the same order.
        lines = [line for text in wrapped for line in text]
        step = _LINES if len(wrapped) == 1 else len(lines)
        pieces = ["\n".join(lines[at : at + step]) for at in range(0, len(lines), step)]
        whole, at = sum(map(len, pieces)), 0
        for piece in pieces:
            start, at = at, at + len(piece)
            begin, end = (segment.start + (segment.end - segment.start) * x / whole for x in (start, at))
            yield self.cue(begin, end, self.escape(piece))

    def timed(self, segment: Segment) -> Iterator[str]:
        """The cues of a segment whose words have times."""
        lines, shown = wrap(segment.text, _LINE), segment.start
        letters = iter([word for word in segment.words for letter in word.word if _is_solid(letter)])
        for at in range(0, len(lines), _LINES):
            spans = _spans("\n".join(lines[at : at + _LINES]), letters)
            end = max(shown, spans[-1].end)
            yield from self.word_cues(spans, min(max(shown, spans[0].start), end), end)
            shown = end

    def word_cues(self, spans: Sequence[_Span], start: float, end: float) -> Iterator[str]:
        """A piece of up to two lines, once for each of its words, which is underlined while it is said."""
        begins = [start, *(min(max(start, span.start), end) for span in spans[1:]), end]
        for number, (begin, over) in enumerate(itertools.pairwise(begins)):
            texts = [self.escape(span.text) for span in spans]
            text = texts[number].rstrip()
            texts[number] = f"<u>{text}</u>{texts[number][len(text) :]}"
            if over > begin:
                yield self.cue(begin, over, "".join(texts))

    def cue(self, start: float, end: float, text: str) -> str:
        self.count += 1
        return f"{self.label()}{self.clock(start)} --> {self.clock(end)}\n{text}\n\n"

    def label(self) -> str:
        return f"{self.count}\n"

    def clock(self, seconds: float) -> str:
        whole, thousandths = divmod(round(seconds * 1000), 1000)
        return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{self.comma}{thousandths:03}"

    def escape(self, text: str) -> str:
        return text.replace("-->", "→")


class _WebVTT(_Subtitles):
    comma = "."

    def head(self) -> str:
        return "WEBVTT\n\n"

    def label(self) -> str:
        return ""

    def word_cues(self, spans: Sequence[_Span], start: float, end: float) -> Iterator[str]:
        """A piece of up to two lines in one cue, with the time at which each word begins."""
        text, last = self.escape(spans[0].text), self.clock(start)
        for span in spans[1:]:
            clock = self.clock(span.start)
            if last < clock < self.clock(end):  # times in a cue rise, and lie within it
                text, last = f"{text}<{clock}>", clock
            text += self.escape(span.text)
        yield self.cue(start, end, text)

    def escape(self, text: str) -> str:
        return html.escape(super().escape(text), quote=False)


class _Table(_Text):
    """Tab-separated values, as the command of Whisper writes them."""

    def head(self) -> str:
        return "\t".join(["start", "end", "text", *["translation"] * self.bilingual]) + "\n"

    def segment(self, segment: Segment) -> Iterator[str]:
        texts = [segment.text, segment.translation or ""] if self.bilingual else [segment.translation or segment.text]
        times = (str(round(seconds * 1000)) for seconds in (segment.start, segment.end))
        yield "\t".join([*times, *(" ".join(text.split()) for text in texts)]) + "\n"


class _JSON(_Text):
    """One document. It is written while the segments come, and is valid JSON also when they end early."""

    def __init__(self, bilingual: bool, info: dict[str, Any]) -> None:
        super().__init__(bilingual, info)
        self.text: list[str] = []
        self.translation: list[str] = []

    def head(self) -> str:
        return "{\n" + "".join(f"  {self.pair(item)},\n" for item in self.info.items()) + '  "segments": ['

    def segment(self, segment: Segment) -> Iterator[str]:
        comma = "," if self.text else ""
        self.text.append(segment.text)
        self.translation.append(segment.translation or "")
        yield f"{comma}\n    {json.dumps(_rounded(segment.as_dict()), ensure_ascii=False)}"

    def tail(self, info: dict[str, Any]) -> str:
        whole = {"text": self.join(self.text)}
        if any(self.translation):
            whole["translation"] = self.join(self.translation)
        end = "\n  ]" if self.text else "]"
        return end + "".join(f",\n  {self.pair(item)}" for item in {**whole, **info}.items()) + "\n}\n"

    @staticmethod
    def join(texts: list[str]) -> str:
        return " ".join(filter(None, texts))

    @staticmethod
    def pair(item: tuple[str, Any]) -> str:
        name, value = item
        return f"{json.dumps(name)}: {json.dumps(_rounded(value), ensure_ascii=False)}"


def _rounded(value: Any) -> Any:
    """A value of JSON with no more digits than are known: milliseconds, thousandths."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


class _JSONLine(_JSON):
    """The same document on one line, as JSON Lines has it: one document for each recording."""

    def head(self) -> str:
        return _on_one_line(super().head())

    def segment(self, segment: Segment) -> Iterator[str]:
        yield from map(_on_one_line, super().segment(segment))

    def tail(self, info: dict[str, Any]) -> str:
        return _on_one_line(super().tail(info)) + "\n"


def _on_one_line(text: str) -> str:
    """A piece of a document without its line breaks and indents; there are none inside the strings of JSON."""
    return "".join(line.strip() + (" " if line.endswith(",") else "") for line in text.split("\n"))


FORMATS: dict[str, type[_Text]] = {
    "txt": _Text,
    "srt": _Subtitles,
    "vtt": _WebVTT,
    "tsv": _Table,
    "json": _JSON,
    "jsonl": _JSONLine,
}
"""The formats of a transcript, and what writes them."""
