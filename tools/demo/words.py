"""Words with values: numbers, times of day, and the names of rooms, things and goods in three languages.

Every value has two spellings: as it is written in a transcript (digits), and as it is spoken (words). The second makes all
speech synthesizers say the same.
"""

from __future__ import annotations

from typing import NamedTuple

LANGUAGES = ("en", "es", "de")


class Word(NamedTuple):
    """A word in its written and its spoken spelling."""

    text: str
    spoken: str


def same(text: str) -> Word:
    """A word that is spoken as it is written."""
    return Word(text, text)


_EN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
)
_EN_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ES = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete dieciocho "
    "diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete veintiocho veintinueve"
)
_ES_TENS = "treinta cuarenta cincuenta sesenta setenta ochenta noventa"
_DE = (
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn "
    "neunzehn"
)
_DE_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig"


def number(language: str, value: int, form: str = "") -> str:
    """0 to 100 in words. `form` is "m" or "f" before a noun of that gender, "" without a noun."""
    if language == "en":
        if value == 100:
            return "one hundred"
        if value < 20:
            return _EN.split()[value]
        tens, ones = _EN_TENS.split()[value // 10 - 2], value % 10
        return f"{tens} {_EN.split()[ones]}" if ones else tens
    if language == "es":
        if value == 100:
            return "cien"
        words = _ES.split()
        if value < 30:
            word = words[value]
        else:
            tens, ones = _ES_TENS.split()[value // 10 - 3], value % 10
            word = f"{tens} y {words[ones]}" if ones else tens
        if value % 10 == 1 and value != 11:
            if form == "m":
                word = "veintiún" if value == 21 else word[:-1]
            elif form == "f":
                word = word[:-1] + "a"
        return word
    if value == 100:
        return "hundert"
    words = _DE.split()
    if value == 1:
        return {"m": "ein", "f": "eine", "": "eins"}[form]
    if value < 20:
        return words[value]
    tens, ones = _DE_TENS.split()[value // 10 - 2], value % 10
    return f"{'ein' if ones == 1 else words[ones]}und{tens}" if ones else tens


def clock(language: str, hour: int, minute: int, sharp: bool = False) -> Word:
    """A time of day as in "wake me up at ...", in Spanish with its article. With `sharp`, a full hour is "7 o'clock"."""
    if language == "en":
        if not minute:
            end = " o'clock" if sharp else ""
            return Word(f"{hour}{end}", f"{number('en', hour)}{end}")
        return Word(
            f"{hour}:{minute:02d}", f"{number('en', hour)} {'oh ' if minute < 10 else ''}{number('en', minute)}"
        )
    if language == "es":
        article = "la" if hour == 1 else "las"
        spoken = f"{article} {number('es', hour, 'f')}"
        if not minute:
            end = " en punto" if sharp else ""
            return Word(f"{article} {hour}{end}", f"{spoken}{end}")
        return Word(f"{article} {hour}:{minute:02d}", f"{spoken} y {number('es', minute)}")
    spoken = f"{number('de', hour, 'm')} Uhr"
    if not minute:
        begin = "Punkt " if sharp else ""
        return Word(f"{begin}{hour} Uhr", f"{begin}{spoken}")
    return Word(f"{hour}:{minute:02d} Uhr", f"{spoken} {number('de', minute)}")


# Name in the home's tools (English): its forms in Spanish with "of" and with "in", in German with "in".
ROOMS = {
    "kitchen": ("de la cocina", "en la cocina", "in der Küche"),
    "bedroom": ("del dormitorio", "en el dormitorio", "im Schlafzimmer"),
    "living room": ("del salón", "en el salón", "im Wohnzimmer"),
    "bathroom": ("del baño", "en el baño", "im Bad"),
    "hallway": ("del pasillo", "en el pasillo", "im Flur"),
    "office": ("de la oficina", "en la oficina", "im Büro"),
    "garage": ("del garaje", "en el garaje", "in der Garage"),
    "garden": ("del jardín", "en el jardín", "im Garten"),
}

# Name in the tools: words for it in English, Spanish and German (accusative).
THINGS = {
    "light": [("light", "la luz", "das Licht"), ("lights", "las luces", "die Lichter")],
    "fan": [("fan", "el ventilador", "den Ventilator")],
    "heater": [("heater", "la calefacción", "die Heizung")],
    "blinds": [("blinds", "las persianas", "die Jalousien")],
    "television": [("television", "la televisión", "den Fernseher")],
}

COLORS = {
    "red": ("rojo", "rot"),
    "green": ("verde", "grün"),
    "blue": ("azul", "blau"),
    "yellow": ("amarillo", "gelb"),
    "white": ("blanco", "weiß"),
    "warm white": ("blanco cálido", "warmweiß"),
}

CITIES = {
    "Zurich": ("Zúrich", "Zürich"),
    "London": ("Londres", "London"),
    "Paris": ("París", "Paris"),
    "Tokyo": ("Tokio", "Tokio"),
    "Berlin": ("Berlín", "Berlin"),
    "Madrid": ("Madrid", "Madrid"),
    "Rome": ("Roma", "Rom"),
    "Oslo": ("Oslo", "Oslo"),
}

DAYS = {"today": ("hoy", "heute"), "tomorrow": ("mañana", "morgen")}

ITEMS = {
    "milk": ("leche", "Milch"),
    "eggs": ("huevos", "Eier"),
    "bread": ("pan", "Brot"),
    "butter": ("mantequilla", "Butter"),
    "apples": ("manzanas", "Äpfel"),
    "bananas": ("plátanos", "Bananen"),
    "cheese": ("queso", "Käse"),
    "coffee": ("café", "Kaffee"),
    "rice": ("arroz", "Reis"),
    "tomatoes": ("tomates", "Tomaten"),
}

GENRES = {
    "jazz": ("jazz", "Jazz"),
    "rock": ("rock", "Rock"),
    "classical": ("música clásica", "Klassik"),
    "pop": ("pop", "Pop"),
}

SKIES = {
    "sunny": ("soleado", "sonnig"),
    "cloudy": ("nublado", "bewölkt"),
    "rainy": ("lluvioso", "regnerisch"),
    "windy": ("ventoso", "windig"),
}

# Singular and plural; in Spanish with the gender of its numbers, in German with the gender of "one".
UNITS = {
    "seconds": (("second", "seconds"), ("segundo", "segundos", "m"), ("Sekunde", "Sekunden", "f")),
    "minutes": (("minute", "minutes"), ("minuto", "minutos", "m"), ("Minute", "Minuten", "f")),
    "hours": (("hour", "hours"), ("hora", "horas", "f"), ("Stunde", "Stunden", "f")),
}


def amount(language: str, value: int, unit: str) -> Word:
    """A duration such as "5 minutes"."""
    en, es, de = UNITS[unit]
    if language == "en":
        noun, spoken = en[value != 1], number("en", value)
    elif language == "es":
        noun, spoken = es[value != 1], number("es", value, es[2])
    else:
        noun, spoken = de[value != 1], number("de", value, de[2] if value == 1 else "")
    return Word(f"{value} {noun}", f"{spoken} {noun}")


def counted(language: str, value: int, nouns: tuple[str, str, str, str]) -> Word:
    """A number of percent or degrees. `nouns` are English singular and plural, Spanish singular and plural; German has one."""
    german = {"percent": "Prozent", "degree": "Grad"}[nouns[0]]
    if language == "en":
        noun, spoken = nouns[value != 1], number("en", value)
    elif language == "es":
        noun = nouns[2 + (value != 1)]
        spoken = number("es", value, "m" if noun.startswith("grado") else "")
    else:
        noun, spoken = german, number("de", value, "m")
    return Word(f"{value} {noun}", f"{spoken} {noun}")


PERCENT = ("percent", "percent", "por ciento", "por ciento")
DEGREES = ("degree", "degrees", "grado", "grados")
