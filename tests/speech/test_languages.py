"""Languages by code and by name: which are known, what the embedded toy model knows, and what is said of all others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import edge_gemma as eg
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.hub.resolve import EMBEDDED
from edge_gemma.speech.languages import LANGUAGES, language_name, language_names
from edge_gemma.speech.listener import Listener
from edge_gemma.speech.transcriber import Transcriber
from support.scripted import ScriptedModel


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("de", "German"),
        (" german ", "German"),
        ("DEU", "German"),
        ("Deutsch", "German"),
        ("de-AT", "German"),
        ("de_DE.UTF-8", "German"),
        ("ZH", "Chinese"),
        ("mandarin", "Chinese"),
        ("Farsi", "Persian"),
        ("espanol", "Spanish"),
        ("日本語", "Japanese"),
        ("Norwegian  Bokmal", "Norwegian Bokmål"),
        ("iw", "Hebrew"),
        ("pt_BR", "Brazilian Portuguese"),
        ("Brazilian portuguese", "Brazilian Portuguese"),
        ("zh-TW", "Traditional Chinese"),
        ("zh-Hant-HK", "Traditional Chinese"),
        ("zh-Hans", "Simplified Chinese"),
        ("sr-Latn-RS", "Serbian in Latin script"),
        ("en-GB", "British English"),
        ("yue", "Cantonese"),
        ("zho_Hans", "Simplified Chinese"),
        ("eng_Latn", "English"),
        ("zh-yue", "Cantonese"),
        ("Portuguese (Brazil)", "Brazilian Portuguese"),
        ("Chinese (Traditional)", "Traditional Chinese"),
        ("english (uk)", "British English"),
        ("letzeburgesch", "Luxembourgish"),
        ("name: Klingon", "Klingon"),
    ],
)
def test_languages_by_code_and_name(given: str, name: str) -> None:
    assert language_name(given) == name == language_name(language_name(given))


def test_every_language_of_the_table_is_found() -> None:
    assert len(LANGUAGES) > 200 and LANGUAGES["de"] == "German"
    for code, name in LANGUAGES.items():
        assert code == code.lower() and name[0].isupper()
        assert language_name(code) == language_name(name) == language_name(name.upper()) == name


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("Englisch", "Did you mean English?"),
        ("Portugese", "Did you mean Portuguese?"),
        ("jp", "Did you mean Japanese?"),
        ("German (Austria)", "Did you mean German?"),
        ("Hindi/Urdu", "Did you mean Hindi or Urdu?"),
        ("klingon", '"name:klingon"'),
        ("xx", "'xx' is not known. Give a code"),
        ("de-klingon", "is not known"),
        ("<turn|>", "is not known"),
        (" ", "language is empty"),
        ("name:", "language is empty"),
    ],
)
def test_unknown_languages_are_refused(given: str, suggested: str) -> None:
    with pytest.raises(EdgeGemmaError, match=re.escape(suggested)) as caught:
        language_name(given)
    assert caught.value.code == "argument"
    assert given != "xx" or "Did you mean" not in str(caught.value)


def test_languages_are_checked_for_the_model() -> None:
    outside = ScriptedModel()
    assert language_names(outside, "fr-CA", "de") == ("Canadian French", "German")
    assert language_names(outside, "auto", None) == language_names(outside, None, None) == (None, None)
    toy = ScriptedModel()
    toy.path = Path(EMBEDDED)
    assert language_names(toy, "en-US", "es") == ("English", "Spanish")
    for spoken, to in (("en", "fr"), ("French", None)):
        with pytest.raises(
            EdgeGemmaError, match="toy model does not know French: it was trained on English, Span"
        ) as e:
            language_names(toy, spoken, to)
        assert e.value.code == "unsupported"
    for make in (lambda: Transcriber(toy, "fr"), lambda: Listener(toy, to="fr"), lambda: eg.Translator(toy, "fr")):
        with pytest.raises(EdgeGemmaError, match="toy model"):
            make()
