"""Languages by code and by English name."""

from __future__ import annotations

import re

from ..errors import EdgeGemmaValueError

__all__ = ["LANGUAGES", "language_name"]

_TABLE = """
af Afrikaans, am Amharic, ar Arabic, az Azerbaijani, be Belarusian, bg Bulgarian, bn Bengali, bs Bosnian, ca Catalan,
cs Czech, cy Welsh, da Danish, de German, el Greek, en English, eo Esperanto, es Spanish, et Estonian, eu Basque,
fa Persian, fi Finnish, fil Filipino, fr French, ga Irish, gl Galician, gu Gujarati, ha Hausa, he Hebrew, hi Hindi,
hr Croatian, hu Hungarian, hy Armenian, id Indonesian, ig Igbo, is Icelandic, it Italian, ja Japanese, jv Javanese,
ka Georgian, kk Kazakh, km Khmer, kn Kannada, ko Korean, ku Kurdish, ky Kyrgyz, la Latin, lb Luxembourgish, lo Lao,
lt Lithuanian, lv Latvian, mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, ms Malay, mt Maltese, my Burmese,
nb Norwegian, ne Nepali, nl Dutch, no Norwegian, pa Punjabi, pl Polish, ps Pashto, pt Portuguese, ro Romanian,
ru Russian, sd Sindhi, si Sinhala, sk Slovak, sl Slovenian, so Somali, sq Albanian, sr Serbian, sv Swedish, sw Swahili,
ta Tamil, te Telugu, tg Tajik, th Thai, tk Turkmen, tl Tagalog, tr Turkish, uk Ukrainian, ur Urdu, uz Uzbek,
vi Vietnamese, xh Xhosa, yi Yiddish, yo Yoruba, yue Cantonese, zh Chinese, zu Zulu
"""
LANGUAGES: dict[str, str] = dict(entry.split() for entry in _TABLE.replace("\n", " ").split(","))
"""English names of common languages by their codes."""

_NAMES = {name.lower(): name for name in LANGUAGES.values()}


def language_name(language: str) -> str:
    """The English name of a language, from its code ("de", "de-AT") or name. An unknown language stays as it is given.

    Raises EdgeGemmaValueError "argument" for an empty one.
    """
    name = " ".join(language.split())
    if not name:
        raise EdgeGemmaValueError('The language is empty: give a name or a code, such as "German" or "de".', "argument")
    code = re.split("[-_]", name.lower())[0]
    return _NAMES.get(name.lower()) or LANGUAGES.get(code) or name
