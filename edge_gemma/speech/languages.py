"""Languages by code, by English name and by their own name, as requests name them.

Owns the table of languages, the variants that a request distinguishes (Brazilian Portuguese, Traditional Chinese), and the
error for a language that nobody knows.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import EdgeGemmaValueError
from ..hub.resolve import is_embedded

if TYPE_CHECKING:
    from ..engine.interface import ModelLike

__all__ = [
    "LANGUAGES",
    "LanguageName",
    "base_language",
    "language_name",
    "language_names",
    "leaves_open",
]

# Codes (ISO 639-1, else 639-3; then 639-2 and outdated ones), the English name, "|" and other names.
_TABLE = """
aa aar Afar; ab abk Abkhazian | Abkhaz; ae ave Avestan; af afr Afrikaans; ak aka Akan; am amh Amharic | አማርኛ
an arg Aragonese; ar ara Arabic | العربية, عربي, Modern Standard Arabic; as asm Assamese | অসমীয়া
av ava Avaric | Avar; ay aym Aymara; az aze Azerbaijani | Azeri, Azərbaycan dili, Azərbaycanca
ba bak Bashkir | Башҡортса; be bel Belarusian | Belorussian, Беларуская; bg bul Bulgarian | Български; bi bis Bislama
bm bam Bambara; bn ben Bengali | Bangla, বাংলা; bo bod tib Tibetan | བོད་སྐད; br bre Breton | Brezhoneg
bs bos Bosnian | Bosanski; ca cat Catalan | Català; ce che Chechen | Нохчийн; ch cha Chamorro; co cos Corsican | Corsu
cr cre Cree; cs ces cze Czech | Čeština, Česky; cu chu Church Slavonic | Old Church Slavonic; cv chv Chuvash
cy cym wel Welsh | Cymraeg; da dan Danish | Dansk; de deu ger German | Deutsch, High German
dv div Divehi | Dhivehi, Maldivian; dz dzo Dzongkha; ee ewe Ewe; el ell gre Greek | Ελληνικά, Modern Greek
en eng English; eo epo Esperanto; es spa Spanish | Español, Castilian, Castellano; et est Estonian | Eesti
eu eus baq Basque | Euskara; fa fas per pes Persian | Farsi, فارسی; ff ful Fula | Fulah, Fulani
fi fin Finnish | Suomi; fj fij Fijian; fo fao Faroese | Føroyskt; fr fra fre French | Français
fy fry Western Frisian | Frisian, Frysk; ga gle Irish | Gaeilge, Irish Gaelic
gd gla Scottish Gaelic | Gaelic, Scots Gaelic, Gàidhlig; gl glg Galician | Galego; gn grn Guarani
gu guj Gujarati | ગુજરાતી; gv glv Manx; ha hau Hausa; he heb iw Hebrew | עברית; hi hin Hindi | हिन्दी, हिंदी
ho hmo Hiri Motu; hr hrv Croatian | Hrvatski; ht hat Haitian Creole | Haitian, Kreyòl ayisyen
hu hun Hungarian | Magyar; hy hye arm Armenian | Հայերեն; hz her Herero; ia ina Interlingua
id ind in Indonesian | Bahasa Indonesia, Bahasa; ie ile Interlingue; ig ibo Igbo; ii iii Nuosu | Sichuan Yi; ik ipk Inupiaq
io ido Ido; is isl ice Icelandic | Íslenska; it ita Italian | Italiano; iu iku Inuktitut
ja jpn Japanese | 日本語, Nihongo; jv jav jw Javanese | Basa Jawa; ka kat geo Georgian | ქართული; kg kon Kongo
ki kik Kikuyu | Gikuyu; kj kua Kuanyama; kk kaz Kazakh | Қазақша, Қазақ тілі; kl kal Greenlandic | Kalaallisut
km khm Khmer | Cambodian, ខ្មែរ; kn kan Kannada | ಕನ್ನಡ; ko kor Korean | 한국어; kr kau Kanuri; ks kas Kashmiri
ku kur kmr Kurdish | Kurmanji, Kurdish Kurmanji, Kurdî; kv kom Komi; kw cor Cornish; ky kir Kyrgyz | Kirghiz, Кыргызча
la lat Latin | Latina; lb ltz Luxembourgish | Lëtzebuergesch, Letzeburgesch; lg lug Ganda | Luganda; li lim Limburgish
ln lin Lingala; lo lao Lao | Laotian, ລາວ; lt lit Lithuanian | Lietuvių; lu lub Luba-Katanga
lv lav Latvian | Latviešu; mg mlg Malagasy; mh mah Marshallese; mi mri mao Maori | Māori
mk mkd mac Macedonian | Македонски; ml mal Malayalam | മലയാളം; mn mon Mongolian | Монгол; mr mar Marathi | मराठी
ms msa may zsm Malay | Bahasa Melayu; mt mlt Maltese | Malti; my mya bur Burmese | Myanmar, Myanmar Burmese, မြန်မာ
na nau Nauru; nb nob Norwegian Bokmål | Bokmål; nd nde North Ndebele | Northern Ndebele; ne nep Nepali | नेपाली
ng ndo Ndonga; nl nld dut Dutch | Nederlands, Flemish, Vlaams; nn nno Norwegian Nynorsk | Nynorsk
no nor Norwegian | Norsk; nr nbl South Ndebele | Southern Ndebele; nv nav Navajo; ny nya Chichewa | Chewa, Nyanja
oc oci Occitan; oj oji Ojibwe | Ojibwa; om orm Oromo | Afaan Oromoo; or ori ory Odia | Oriya, Odia Oriya, ଓଡ଼ିଆ
os oss Ossetian | Ossetic; pa pan Punjabi | Panjabi, ਪੰਜਾਬੀ; pi pli Pali; pl pol Polish | Polski
ps pus Pashto | Pushto, پښتو; pt por Portuguese | Português; qu que Quechua | Runasimi; rm roh Romansh
rn run Rundi | Kirundi; ro ron rum mo Romanian | Română, Moldovan, Moldavian; ru rus Russian | Русский
rw kin Kinyarwanda; sa san Sanskrit | संस्कृतम्; sc srd Sardinian; sd snd Sindhi | سنڌي; se sme Northern Sami | Sami
sg sag Sango; sh hbs Serbo-Croatian; si sin Sinhala | Sinhalese, සිංහල; sk slk slo Slovak | Slovenčina
sl slv Slovenian | Slovene, Slovenščina; sm smo Samoan; sn sna Shona; so som Somali | Soomaali
sq sqi alb Albanian | Shqip; sr srp Serbian | Српски, Srpski; ss ssw Swati; st sot Southern Sotho | Sesotho
su sun Sundanese; sv swe Swedish | Svenska; sw swa swh Swahili | Kiswahili; ta tam Tamil | தமிழ்
te tel Telugu | తెలుగు; tg tgk Tajik | Тоҷикӣ; th tha Thai | ไทย, ภาษาไทย; ti tir Tigrinya | ትግርኛ
tk tuk Turkmen | Türkmençe; tl tgl Tagalog; tn tsn Tswana | Setswana; to ton Tongan | Tonga; tr tur Turkish | Türkçe
ts tso Tsonga; tt tat Tatar | Татарча; tw twi Twi; ty tah Tahitian; ug uig Uyghur | Uighur, ئۇيغۇرچە
uk ukr Ukrainian | Українська; ur urd Urdu | اردو; uz uzb uzn Uzbek | Oʻzbek, Oʻzbekcha; ve ven Venda
vi vie Vietnamese | Tiếng Việt; vo vol Volapük; wa wln Walloon; wo wol Wolof; xh xho Xhosa | isiXhosa
yi yid ji Yiddish | ייִדיש; yo yor Yoruba | Yorùbá; za zha Zhuang
zh zho chi cmn Chinese | Mandarin, Mandarin Chinese, 中文, 汉语, 漢語, 普通话, 國語, Putonghua; zu zul Zulu | isiZulu
ast Asturian | Asturianu; awa Awadhi; bal Balochi | Baluchi; ban Balinese; bho Bhojpuri | भोजपुरी; bik Bikol; brx Bodo
ceb Cebuano | Bisaya; ckb Central Kurdish | Sorani, Kurdish Sorani; crh Crimean Tatar; doi Dogri
fil Filipino | Pilipino, Filipino Tagalog; gom kok Konkani; grc Ancient Greek
gsw Swiss German | Schweizerdeutsch, Schwyzerdütsch, Schwiizertüütsch; haw Hawaiian; hil Hiligaynon; hmn Hmong
ilo Iloko | Ilocano, Ilokano; kab Kabyle; kam Kamba; kea Kabuverdianu | Cape Verdean Creole; lij Ligurian; lmo Lombard
luo Luo | Dholuo; mai Maithili | मैथिली; mni Manipuri | Meitei; nap Neapolitan; nds Low German | Low Saxon
nso Northern Sotho | Sepedi; pag Pangasinan; pam Kapampangan; pap Papiamento; prs Dari; sat Santali; scn Sicilian
sco Scots; shn Shan; szl Silesian; tpi Tok Pisin; tzm Tamazight; umb Umbundu; vec Venetian; war Waray
wuu Wu Chinese | Wu, Shanghainese; yue zh-yue Cantonese | Cantonese Chinese, Yue, 粵語, 粤语, 廣東話, 广东话
nan Min Nan Chinese | Hokkien, Taiwanese Hokkien; hak Hakka Chinese | Hakka; arz Egyptian Arabic; apc Levantine Arabic
ary Moroccan Arabic | Darija; arb Standard Arabic; pnb Western Punjabi
"""

# Variants that are written differently, so that a request is worth naming them: tags, the name, "|" and other names. Any
# other region or script of a language means the language.
_VARIANTS = """
ar-eg Egyptian Arabic; ar-ma Moroccan Arabic; ca-valencia Valencian | Valencià; en-au Australian English
en-ca Canadian English; en-gb en-uk British English | UK English, English UK, English United Kingdom
en-in Indian English; en-us American English | US English, English US, English United States
es-419 Latin American Spanish | Spanish Latin America; es-ar Argentinian Spanish | Argentine Spanish
es-es European Spanish | Spanish Spain, Castilian Spanish, Peninsular Spanish; es-mx Mexican Spanish | Spanish Mexico
fr-ca Canadian French | French Canada, Québécois; nl-be Belgian Dutch
pt-br Brazilian Portuguese | Portuguese Brazil, Brazilian, Português brasileiro, Português do Brasil
pt-pt European Portuguese | Portuguese Portugal, Português europeu, Português de Portugal
sr-cyrl Serbian in Cyrillic script | Serbian Cyrillic; sr-latn Serbian in Latin script | Serbian Latin
uz-cyrl Uzbek in Cyrillic script; uz-latn Uzbek in Latin script; az-cyrl Azerbaijani in Cyrillic script
zh-hans zh-cn zh-sg Simplified Chinese | Chinese Simplified, 简体中文, 简体
zh-hant zh-tw zh-hk zh-mo Traditional Chinese | Chinese Traditional, 繁體中文, 繁體
"""

# Codes of countries that are taken for codes of languages.
_COUNTRIES = {
    "at": "de", "cn": "zh", "cz": "cs", "dk": "da", "gb": "en", "gr": "el", "il": "he", "ir": "fa", "jp": "ja", "ke": "sw",
    "kr": "ko", "mx": "es", "ph": "fil", "rs": "sr", "ua": "uk", "us": "en", "vn": "vi",
}  # fmt: skip

_OWN = "name:"  # before a name that is in no table


class LanguageName(str):
    """The name of a language as requests write it, an English one. `language_name` makes it, and takes it as it is."""

    __slots__ = ()


def _entries(table: str) -> Iterator[tuple[list[str], str, list[str]]]:
    """(codes, name, other names) of each entry: the name begins with the first capital letter."""
    for entry in re.split("[;\n]", table.strip()):
        names, _, others = entry.partition("|")
        found = re.fullmatch(r"([a-z0-9 -]+) ([A-Z].*)", names.strip())
        assert found, entry
        yield found[1].split(), found[2], [other.strip() for other in others.split(",") if other.strip()]


def _key(name: str) -> str:
    """A name as it is compared: without regard to capitals, accents, brackets and white space."""
    letters = unicodedata.normalize("NFKD", " ".join(re.sub(r"[()]", " ", name).split()).casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


_CODES: dict[str, str] = {}  # code or tag -> name
_NAMES: dict[str, str] = {}  # `_key` of a name -> name
_BASES: dict[str, str] = {}  # name of a variant -> name of the language
_FIRST: dict[str, str] = {}  # name -> its first code
for _codes, _name, _others in (*_entries(_TABLE), *_entries(_VARIANTS)):
    for _code in _codes:
        _CODES[_code] = _name
        _FIRST.setdefault(_name, _code)
        if "-" in _code and (_base := _CODES[_code.partition("-")[0]]) != _name:
            _BASES[_name] = _base
    for _other in (_name, *_others):
        _NAMES.setdefault(_key(_other), _name)

LANGUAGES: Mapping[str, str] = MappingProxyType({codes[0]: name for codes, name, _ in _entries(_TABLE)})
"""English names of languages by their codes: ISO 639-1, or ISO 639-3 for languages that have no shorter one."""

_TAG = re.compile(r"([a-z]{2,3})(-[a-z]{4})?(-(?:[a-z]{2}|\d{3}))?")
_MODIFIERS = re.compile(r"[.@].*")  # of a locale: de_DE.UTF-8


def language_name(language: str) -> LanguageName:
    """The name by which requests call a language.

    Args:
        language: a code ("de", "deu"), a tag with a script or region ("pt-BR", "zh-Hant", "de_AT"), an English name
            ("German", "Farsi", "Chinese (Traditional)"), or the language's own name ("Deutsch"). Capitals and accents do
            not matter. A language that is in no table is given as "name:Klingon".

    Returns:
        The English name. Scripts and regions that are written differently keep a name of their own ("Brazilian
        Portuguese", "Traditional Chinese"); others become the language ("de-AT" is German).

    Raises:
        EdgeGemmaValueError: "argument" for an empty or unknown language, with the most similar ones.
    """
    if isinstance(language, LanguageName):
        return language
    name = " ".join(language.split())
    own = name[: len(_OWN)].lower() == _OWN
    if own:
        name = name[len(_OWN) :].strip()
    if not name:
        raise EdgeGemmaValueError('The language is empty: give a name or a code, such as "German" or "de".', "argument")
    found = name if own else _NAMES.get(_key(name)) or _by_tag(_MODIFIERS.sub("", name).lower().replace("_", "-"))
    if found is None:
        raise EdgeGemmaValueError(
            f"The language {name!r} is not known.{_suggestion(name)} Give a code or an English name, such as "
            f'"de" or "German"; a language that is in no list is given as "{_OWN}{name}".',
            "argument",
        )
    return LanguageName(found)


def _by_tag(tag: str) -> str | None:
    """The name of a code or tag in lower case."""
    if tag in _CODES:
        return _CODES[tag]
    parts = _TAG.fullmatch(tag)
    if not parts or parts[1] not in _CODES:
        return None
    name, script, region = _CODES[parts[1]], parts[2] or "", parts[3] or ""
    code = _FIRST[name]  # "zho-Hans" is "zh-Hans"
    return _CODES.get(code + script) or _CODES.get(code + region) or name


def _suggestion(name: str) -> str:
    """ " Did you mean ...?" with the most similar names, or ""."""
    code = name.lower().replace("_", "-").partition("-")[0]
    close = [_CODES[_COUNTRIES[code]]] if code in _COUNTRIES else []
    close += filter(None, (_NAMES.get(_key(part)) for part in re.split(r"[(/,;]", name)))  # "German (Austria)"
    if len(name) > 3:
        similar = [_NAMES[key] for key in difflib.get_close_matches(_key(name), _NAMES, n=3, cutoff=0.72)]
        close += [other for other in similar if _BASES.get(other) not in similar]
    return f" Did you mean {' or '.join(dict.fromkeys(close))}?" if close else ""


def base_language(language: str) -> str:
    """The language that a variant belongs to: "Portuguese" for "Brazilian Portuguese". Others stay as they are."""
    return _BASES.get(language, language)


# ---- what a model knows ---------------------------------------------------------------------------------------------

_AUTO = ("auto", "any", "detect")  # names of no language in particular
_TOY_KNOWS = ("English", "Spanish", "German")


def leaves_open(language: str) -> bool:
    """Whether this leaves the spoken language to the model: "auto"."""
    return language.strip().lower() in _AUTO


def _known_languages(model: ModelLike) -> tuple[LanguageName, ...] | None:
    """The languages that a model was trained on, as far as that is certain: those of the embedded toy; None for others."""
    return tuple(map(language_name, _TOY_KNOWS)) if is_embedded(model.path) else None


def language_names(
    model: ModelLike, language: str | None, to: str | None
) -> tuple[LanguageName | None, LanguageName | None]:
    """The names of the spoken language and of the one to translate into, as the model's requests call them.

    Args:
        language: as in `language_name`; None and "auto" leave it to the model, and become None.
        to: as in `language_name`; None stays None.

    Raises EdgeGemmaValueError: "argument" as `language_name`, "unsupported" for a language that the embedded toy model was
    not trained on. No file tells which languages other models know.
    """
    if language is not None and leaves_open(language):
        language = None
    names = [None if given is None else language_name(given) for given in (language, to)]
    if known := _known_languages(model):
        names = [name and LanguageName(base_language(name)) for name in names]
        for name in names:
            if name and name not in known:
                raise EdgeGemmaValueError(
                    f"The embedded toy model does not know {name}: it was trained on {', '.join(_TOY_KNOWS[:-1])} and "
                    f"{_TOY_KNOWS[-1]} alone. Take a real model, such as the one that `edge-gemma pull e2b` downloads.",
                    "unsupported",
                )
    return names[0], names[1]
