"""Figures, signs and abbreviations written out as they are read aloud: "$3.50" becomes words.

What a language writes how stands in `readings/`; here is what is to be found in a text, one step after the
other, from what is most particular (dates) to what is least (a lone figure). Each step leaves words.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache

from server.text import readings
from server.text.readings import Reading

_LONGEST_NUMBER = 15
"""Digits above which a number is read digit by digit."""

_UNITS = {
    "km": "length-kilometer",
    "m": "length-meter",
    "cm": "length-centimeter",
    "mm": "length-millimeter",
    "µm": "length-micrometer",
    "nm": "length-nanometer",
    "mi": "length-mile",
    "ft": "length-foot",
    "yd": "length-yard",
    "km²": "area-square-kilometer",
    "m²": "area-square-meter",
    "m³": "volume-cubic-meter",
    "ha": "area-hectare",
    "kg": "mass-kilogram",
    "g": "mass-gram",
    "mg": "mass-milligram",
    "t": "mass-tonne",
    "lb": "mass-pound",
    "lbs": "mass-pound",
    "oz": "mass-ounce",
    "l": "volume-liter",
    "L": "volume-liter",
    "ml": "volume-milliliter",
    "cl": "volume-centiliter",
    "°C": "temperature-celsius",
    "°F": "temperature-fahrenheit",
    "km/h": "speed-kilometer-per-hour",
    "m/s": "speed-meter-per-second",
    "mph": "speed-mile-per-hour",
    "kWh": "energy-kilowatt-hour",
    "kW": "power-kilowatt",
    "MW": "power-megawatt",
    "GW": "power-gigawatt",
    "W": "power-watt",
    "V": "electric-volt",
    "A": "electric-ampere",
    "Hz": "frequency-hertz",
    "kHz": "frequency-kilohertz",
    "MHz": "frequency-megahertz",
    "GHz": "frequency-gigahertz",
    "kB": "digital-kilobyte",
    "KB": "digital-kilobyte",
    "MB": "digital-megabyte",
    "GB": "digital-gigabyte",
    "TB": "digital-terabyte",
    "h": "duration-hour",
    "min": "duration-minute",
    "s": "duration-second",
    "ms": "duration-millisecond",
    "kcal": "energy-kilocalorie",
    "hPa": "pressure-hectopascal",
    "Std": "duration-hour",
}
"""CLDR's names of units, by their signs."""

_BEFORE_FIGURES = frozenset(
    [
        "no.",
        "nos.",
        "p.",
        "pp.",
        "fig.",
        "vol.",
        "abs.",
        "art.",
        "kap.",
        "bd.",
        "abb.",
        "min.",
        "max.",
        "mín.",
        "máx.",
        "est.",
        "cap.",
        "chap.",
        "núm.",
        "nº",
        "n.º",
        "n°",
        "env.",
        "jan.",
        "feb.",
        "aug.",
        "sept.",
        "oct.",
        "nov.",
        "dec.",
        "okt.",
        "dez.",
        "ene.",
        "ago.",
        "dic.",
        "janv.",
        "févr.",
        "juil.",
        "déc.",
        "nr.",
        "nrn.",
    ]
)
"""Abbreviations that are words of their own, or ends of sentences, except beside a figure."""

_BEFORE_NAMES = frozenset(
    [
        "st",
        "ste",
        "me",
        "dr",
        "pr",
        "d.",
        "s.",
        "hon.",
        "col.",
        "gen.",
        "sr.",
        "jr.",
        "fr.",
        "pl.",
        "rev.",
        "sen.",
        "gov.",
        "st.",
        "mt.",
        "ft.",
    ]
)
"""Abbreviations that need a name behind them."""

_MAY_END = frozenset(
    ["etc.", "usw.", "a.m.", "p.m.", "inc.", "ltd.", "u.s.a.", "co.", "corp.", "ph.d.", "jr.", "o.ä.", "s.a."]
)
"""Abbreviations whose dot may be a sentence's too, if a capital follows."""

_ROMAN = re.compile(
    r"\b([A-ZÀ-Ý][\w'-]+|siglo|capítulo|chapitre|tome) "
    r"((?=[IVXLC])(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))(e|er)?\b(\.?)"
)
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
_ALONE = frozenset({"I", "C", "L", "V", "X"})
"""Single letters, which are figures only after few words."""
_COUNTED = frozenset(
    [
        "Chapter",
        "Part",
        "Volume",
        "Book",
        "Act",
        "Section",
        "War",
        "Phase",
        "Type",
        "Appendix",
        "Kapitel",
        "Teil",
        "Band",
        "Akt",
        "Weltkrieg",
        "Abschnitt",
        "Capítulo",
        "Tomo",
        "Parte",
        "Siglo",
        "siglo",
        "capítulo",
        "Chapitre",
        "chapitre",
        "Tome",
        "tome",
        "Partie",
        "Acte",
        "Title",
    ]
)

_CENTURY = 70
"""The first of two-figure years that is of the last century."""

_YEAR = r"1[1-9]\d\d|20\d\d"

_VULGAR = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅕": "1/5",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅒": "1/10",
}

_MILLIONS = (
    r"million|billion|trillion|Million|Millionen|Milliarde|Milliarden|mil millones|millones|millón|"
    r"millions|milliards?"
)


def write_out(text: str, language: str) -> str:
    """The text as it is read in a language; as it is where the language has no reading of its own."""
    reading = readings.find(language)
    if reading is None:
        return text
    for step in _steps(reading):
        text = step(text)
    return re.sub(r" +([,.;:!?])", r"\1", re.sub(r" {2,}", " ", text)).strip(" ")


def say_as(text: str, kind: str, language: str) -> str:
    """The text read as SSML's `say-as` wants it."""
    reading = readings.find(language)
    kind = kind.lower()
    if kind in ("characters", "spell-out", "verbatim"):
        return " ".join(
            _digits(char, reading) if char.isdecimal() and reading else char
            for char in text
            if not char.isspace()
        )
    if reading is None:
        return text
    if kind in ("digits", "telephone"):
        groups = re.findall(r"\d+", text)
        return ", ".join(_digits(group, reading) for group in groups) or text
    figures = re.sub(r"\D", "", text)
    if kind == "ordinal" and figures:
        return reading.ordinal(
            {"en": f"{figures}th", "fr": f"{figures}e", "es": f"{figures}º"}.get(reading.code, figures + "."),
            "der",
        )
    if kind in ("cardinal", "number") and figures:
        return _number(text.strip(), reading)
    return write_out(text, language)


@cache
def _steps(reading: Reading) -> tuple[Callable[[str], str], ...]:
    def bound(step: Callable[[str, Reading], str]) -> Callable[[str], str]:
        return lambda text: step(text, reading)

    return tuple(
        bound(step)
        for step in (
            _vulgar,
            _addresses,
            _street,
            _abbreviations,
            _dates,
            _times,
            _decades,
            _money,
            _measures,
            _fractions,
            _ordinals,
            _roman,
            _telephones,
            _apart,
            _versions,
            _years,
            _ranges,
            _numbers,
            _signs,
        )
    )


# Numbers ----------------------------------------------------------------------------------------------


@cache
def _figure(reading: Reading) -> str:
    """A regular expression of a number as the language writes it."""
    part = rf"(?:{re.escape(reading.decimal)}\d+)?"
    return rf"\d{{1,3}}(?:[{reading.thousands}]\d{{3}})+(?!\s?\d){part}|\d+{part}"


def _number(figure: str, reading: Reading, before_noun: bool = False, feminine: bool = False) -> str:
    """A number in words; `before_noun` in the form that it has there."""
    from num2words import num2words

    sign = ""
    if figure[:1] in "-−+" and figure[1:]:
        sign = (reading.minus if figure[0] in "-−" else reading.signs["+"]) + " "
        figure = figure[1:]
    whole, _, part = figure.partition(reading.decimal)
    whole = re.sub(r"\D", "", whole) or "0"
    if len(whole) > _LONGEST_NUMBER or (len(whole) > 1 and whole[0] == "0"):
        return sign + _digits(whole, reading) + (f" {reading.point} {_digits(part, reading)}" if part else "")
    words: str = num2words(int(whole), lang=reading.code)
    if reading.code == "en":
        words = words.replace(",", "")
    if not part:
        return sign + (reading.one(words, feminine) if before_noun else words)
    together = reading.digits_together and len(part) <= 2 and part[0] != "0"
    said = num2words(int(part), lang=reading.code) if together else _digits(part, reading)
    return f"{sign}{words} {reading.point} {said}"


def _digits(figures: str, reading: Reading) -> str:
    from num2words import num2words

    return " ".join(num2words(int(digit), lang=reading.code) for digit in figures if digit.isdecimal())


def _is_one(figure: str) -> bool:
    return figure.strip("+-−") == "1"


# Steps ------------------------------------------------------------------------------------------------


def _vulgar(text: str, reading: Reading) -> str:
    return re.sub("|".join(_VULGAR), lambda found: " " + _VULGAR[found[0]], text)


def _addresses(text: str, reading: Reading) -> str:
    """Addresses of the web and of mail."""

    def said(found: re.Match[str]) -> str:
        address = re.sub(r"^https?://", "", found[0])
        end = re.search(r"[.,;:!?)]*$", address)
        tail = end[0] if end else ""
        address = address[: len(address) - len(tail)].rstrip("/")
        for sign, word in (("@", reading.at), (".", reading.dot), ("/", reading.slash)):
            address = address.replace(sign, f" {word} ")
        return address.replace("-", " ").replace("_", " ") + tail

    text = re.sub(r"\bhttps?://[^\s<>\"]+", said, text)
    text = re.sub(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+", said, text)
    return re.sub(
        r"\b(?:www\.)?[a-zA-Z][\w-]*(?:\.[a-z][\w-]*)*\.(?:com|org|net|edu|gov|io|de|es|fr|eu|uk|info)\b(?:/[\w/.-]*\w)?",
        said,
        text,
    )


def _street(text: str, reading: Reading) -> str:
    """ "Main St." is a street, "St. John" a saint."""
    if reading.code != "en":
        return text
    return re.sub(r"\b([A-Z][a-z]+|\d+th) St\.(?=\s[a-z]|\s*$|,)", r"\1 Street", text)


def _abbreviations(text: str, reading: Reading) -> str:
    ordered = sorted(reading.abbreviations, key=len, reverse=True)
    expression = _one_of(tuple(ordered))

    def said(found: re.Match[str]) -> str:
        short, rest, before = found[0], text[found.end() :], text[: found.start()]
        key = short.lower()
        has_figure = bool(re.match(r"\s*\d", rest)) or bool(re.search(r"\d\.?\s?(?:de )?$", before))
        has_name = bool(re.match(r"\s*[A-ZÀ-Ý]", rest))
        is_name = key in _BEFORE_NAMES and not (reading.code == "de" and short == "S.")
        is_title_behind = reading.code == "en" and key in ("jr.", "sr.")
        alone = (key in _BEFORE_FIGURES and not has_figure) or (is_name and not has_name)
        if alone and not is_title_behind:
            return short
        if reading.code == "de" and short == "S." and not has_figure:
            return short
        ends = (
            not rest.strip(" \"')")
            or rest.startswith("\n")
            or (key in _MAY_END and re.match(r"\s[A-ZÀ-Ý]", rest))
        )
        return reading.abbreviations[short] + ("." if ends and short.endswith(".") else "")

    return expression.sub(said, text)


@cache
def _one_of(words: tuple[str, ...]) -> re.Pattern[str]:
    # "Hauptstr.", with its word before it.
    parts = "|".join(re.escape(word) for word in words if word != "str.")
    joined = r"|(?<=[a-zäöü])str\." if "str." in words else ""
    return re.compile(rf"(?<![\w.])(?:{parts})(?!\w){joined}")


def _months(reading: Reading) -> dict[str, int]:
    from babel.dates import get_month_names

    names = get_month_names("wide", locale=reading.code)
    return {names[number].lower(): number for number in range(1, 13)}


def _dates(text: str, reading: Reading) -> str:
    months = _months(reading)
    name = "|".join(months)

    def written(day: str, month: int, year: str | None, found: re.Match[str]) -> str:
        number = int(re.sub(r"\D", "", day))
        if not 1 <= number <= 31 or not 1 <= month <= 12:
            return found[0]
        full = int(year) if year else None
        if year and len(year) == 2:
            full = int(year) + (1900 if int(year) >= _CENTURY else 2000)
        return reading.date(number, month, full, _last_word(found))

    def numeric(found: re.Match[str]) -> str:
        first, second, year = found["a"], int(found["b"]), found["y"]
        if reading.month_first and int(first) <= 12:
            return written(str(second), int(first), year, found)
        return written(first, second, year, found)

    text = re.sub(
        r"\b(?P<y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)\b",
        lambda found: written(found["d"], int(found["m"]), found["y"], found),
        text,
    )
    text = re.sub(r"\b(?P<a>\d{1,2})/(?P<b>\d{1,2})/(?P<y>\d{4}|\d{2})\b", numeric, text)
    text = re.sub(
        r"\b(?P<d>\d{1,2})\.\s?(?P<m>\d{1,2})\.\s?(?P<y>\d{4})\b",
        lambda found: written(found["d"], int(found["m"]), found["y"], found),
        text,
    )
    if reading.code == "de":
        text = re.sub(
            r"\b(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?=\s|$)",
            lambda found: written(found["d"], int(found["m"]), None, found),
            text,
        )
    if reading.month_first:
        text = re.sub(
            rf"\b(?P<m>{name}) (?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:,? (?P<y>\d{{4}}))?\b(?!:)",
            lambda found: written(found["d"], months[found["m"].lower()], found["y"], found),
            text,
            flags=re.IGNORECASE,
        )
    return re.sub(
        rf"\b(?P<d>\d{{1,2}})(?:\.|er|st|nd|rd|th|º)?(?: de| of)? (?P<m>{name})"
        r"(?:,?(?: de| del)? (?P<y>\d{4}))?\b",
        lambda found: written(found["d"], months[found["m"].lower()], found["y"], found),
        text,
        flags=re.IGNORECASE,
    )


def _last_word(found: re.Match[str]) -> str:
    words = found.string[: found.start()].split()
    return words[-1] if words else ""


def _times(text: str, reading: Reading) -> str:
    def said(found: re.Match[str]) -> str:
        hour, minute, mark = int(found["h"]), int(found["m"] or 0), found["mark"] or ""
        if hour > 24 or minute > 59:
            return found[0]
        if reading.code == "de" and not mark:
            mark = "Uhr"
        end = "." if mark.endswith(".") and not found.string[found.end() :].strip() else ""
        return reading.time(hour, minute, mark) + end

    mark = {
        "en": r"\s?(?P<mark>[ap]\.?\s?m\b\.?|AM|PM)",
        "de": r"\s?(?P<mark>Uhr)",
        "es": r"\s?(?P<mark>[ap]\.?\s?m\b\.?|horas|hs?\b)",
        "fr": r"\s?(?P<mark>heures?\b)",
    }[reading.code]
    clock = r"(?<![\d:.,/])(?P<h>\d{1,2})"
    if reading.code == "fr":
        text = re.sub(clock + r"\s?h\s?(?P<m>\d\d)(?P<mark>)?\b", said, text)
    if reading.code == "de":
        text = re.sub(clock + r"[:.](?P<m>\d\d)\s?(?P<mark>Uhr)\b", said, text)
    text = re.sub(clock + rf":(?P<m>\d\d)(?::\d\d)?(?:{mark})?(?![\d:])", said, text, flags=re.IGNORECASE)
    return re.sub(
        clock + rf"(?P<m>)?{mark}(?!\w)", said, text, flags=0 if reading.code in "de" else re.IGNORECASE
    )


def _money(text: str, reading: Reading) -> str:
    signs = "|".join(re.escape(sign) for sign in sorted(reading.currencies, key=len, reverse=True))
    figure = _figure(reading)
    if reading.decimal == ",":
        figure = rf"\d+\.\d\d(?!\d)|{figure}"

    def said(found: re.Match[str]) -> str:
        amount = found["amount"]
        one, several, small_one, small = reading.currencies[found["sign"]]
        minus = f"{reading.minus} " if found.groupdict().get("minus") else ""
        if found["scale"]:
            of = {"es": " de", "fr": " de"}.get(reading.code, "")
            scale = {"M": "million", "B": "billion", "k": "thousand", "K": "thousand"}.get(
                found["scale"], found["scale"]
            )
            return f"{minus}{_number(amount, reading)} {scale}{of} {several}"
        whole, part = _parted(amount, reading)
        feminine = one.startswith(reading.feminine) if reading.feminine else False
        coins = f"{_number(str(int(part)), reading, small_one != '', False)}" if part and int(part) else ""
        if coins and (reading.coins_named or int(whole) == 0):
            coins += f" {small_one if int(part) == 1 else small}"
        if int(whole) == 0 and coins:
            return minus + coins
        said = f"{_number(whole, reading, True, feminine)} {one if int(whole) == 1 else several}"
        return minus + (f"{said}{reading.money}{coins}" if coins else said)

    scale = rf"(?:\s?(?P<scale>{_MILLIONS}|[MBkK])\b)?"
    text = re.sub(rf"(?P<minus>[-−])?(?P<sign>{signs})\s?(?P<amount>{figure}){scale}", said, text)
    return re.sub(
        rf"(?<![\w])(?P<minus>[-−])?(?P<amount>{figure}){scale}\s?(?P<sign>{signs})(?!\w)", said, text
    )


def _parted(amount: str, reading: Reading) -> tuple[str, str]:
    """Whole units, and hundredths as two digits."""
    if reading.decimal == "," and re.fullmatch(r"\d+\.\d\d", amount):
        amount = amount.replace(".", ",")
    whole, _, part = amount.partition(reading.decimal)
    return re.sub(r"\D", "", whole) or "0", (part + "0")[:2] if part else ""


def _measures(text: str, reading: Reading) -> str:
    units = "|".join(re.escape(unit) for unit in sorted({*_UNITS, *reading.units}, key=len, reverse=True))

    def said(found: re.Match[str]) -> str:
        figure, unit = found["figure"], found["unit"].replace(" ", "")
        one, several = _unit(unit, reading)
        feminine = one.startswith(reading.feminine) if reading.feminine else False
        alone = _is_one(figure)
        range_, sign = found["range"], found["minus"] or ""
        words = _number(sign + figure, reading, True, feminine)
        if range_:
            words = f"{words} {reading.range} {_number(range_, reading, True, feminine)}"
        return f"{words} {one if alone and not range_ else several}"

    figure = _figure(reading)
    text = re.sub(
        rf"(?<![\w.,])(?P<minus>[-−+])?(?P<figure>{figure})(?:\s?[-–]\s?(?P<range>{figure}))?"
        rf"\s?(?P<unit>° ?[CF]|{units})(?![\w²³/])",
        said,
        text,
    )
    return re.sub(
        rf"(?<![\w.,])(?P<minus>[-−+])?(?P<figure>{figure})\s?(?P<sign>[%‰°])",
        lambda found: (
            f"{_number((found['minus'] or '') + found['figure'], reading, True)} "
            + (
                reading.signs[found["sign"]]
                if not (_is_one(found["figure"]) and reading.code == "en" and found["sign"] == "°")
                else "degree"
            )
        ),
        text,
    )


@cache
def _unit(unit: str, reading: Reading) -> tuple[str, str]:
    """A unit's name, for one and for several."""
    from babel.units import format_unit

    if unit in reading.units:
        return reading.units[unit]
    one, several = (
        re.sub(r"^[\d\s]+|[\d\s]+$", "", format_unit(count, _UNITS[unit], length="long", locale=reading.code))
        for count in (1, 5)
    )
    return one, several


def _fractions(text: str, reading: Reading) -> str:
    simple = "|".join(re.escape(name) for name in reading.fractions if "/" in name)

    def mixed(found: re.Match[str]) -> str:
        half = found["part"] == "1/2"
        whole = _number(found["whole"], reading)
        if half and reading.code == "de":
            return f"{reading.one(whole, False)}einhalb"
        joint = f" {reading.fractions['and']} " if reading.fractions["and"] else " "
        return whole + joint + (reading.fractions["half"] if half else reading.fractions[found["part"]])

    text = re.sub(rf"\b(?P<whole>\d+) (?P<part>{simple})(?![\d/])", mixed, text)
    return re.sub(rf"(?<![\d/.,])(?:{simple})(?![\d/])", lambda found: reading.fractions[found[0]], text)


def _ordinals(text: str, reading: Reading) -> str:
    return re.sub(reading.ordinal_form, lambda found: reading.ordinal(found[0], _last_word(found)), text)


def _roman(text: str, reading: Reading) -> str:
    def said(found: re.Match[str]) -> str:
        name, figures, ending, dot = found[1], found[2], found[3], found[4]
        if not figures or (figures in _ALONE and name not in _COUNTED and not ending):
            return found[0]
        value = _roman_value(figures)
        if ending:
            return f"{name} {reading.ordinal(f'{value}{ending}', '')}" + dot
        rest = found.string[found.end() :]
        keep = (
            dot if dot and (not rest.strip() or re.match(r"\s[A-Z]", rest)) and reading.code != "de" else ""
        )
        if reading.code == "de" and dot and not rest.strip():
            keep = dot
        return (
            reading.ruler(name, value) if reading.ruler else f"{name} {_number(str(value), reading)}"
        ) + keep

    text = _ROMAN.sub(said, text)
    if reading.code == "fr":
        text = re.sub(
            r"\b([IVX]+)(er|e|ème)\b(?=\s)",
            lambda found: reading.ordinal(f"{_roman_value(found[1])}{found[2]}", ""),
            text,
        )
    return text


def _roman_value(figures: str) -> int:
    values = [_ROMAN_VALUES[figure] for figure in figures]
    return sum(
        -value if any(later > value for later in values[i + 1 :]) else value for i, value in enumerate(values)
    )


def _telephones(text: str, reading: Reading) -> str:
    def said(found: re.Match[str]) -> str:
        plus = f"{reading.signs['+']} " if found[0].startswith("+") else ""
        return plus + ", ".join(_digits(group, reading) for group in re.findall(r"\d+", found[0]))

    text = re.sub(r"\+\d{1,3}(?:[ -]?\(?\d{1,5}\)?){2,5}", said, text)
    text = re.sub(r"\(\d{3}\) ?\d{3}-\d{4}\b|\b\d{3}-\d{3}-\d{4}\b|\b\d{3}-\d{4}\b", said, text)
    return re.sub(r"(?<![\d.,:])(?<!\d )0\d+(?:[ /-]\d{2,})*(?![\d.,:]\d)", said, text)


def _apart(text: str, reading: Reading) -> str:
    """Between a letter and a figure there is a pause: "R2D2", "4K"."""
    return re.sub(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " ", text)


def _versions(text: str, reading: Reading) -> str:
    point = reading.point if reading.decimal == "." else reading.dot

    def said(found: re.Match[str]) -> str:
        return f" {point} ".join(_number(part, reading) for part in found[0].split("."))

    text = re.sub(
        r"\b\d+(?:\.\d+){2,}\b" if reading.decimal == "." else r"\b\d{1,2}(?:\.\d{1,2}){2,}\b", said, text
    )
    return text if reading.decimal == "." else re.sub(r"(?<![\d.,])\d+\.\d{1,2}(?!\d|\.\d)", said, text)


def _years(text: str, reading: Reading) -> str:
    read = reading.year
    if read is None:
        return text
    words = "|".join(reading.year_words)
    text = re.sub(
        rf"(?<![\w$€£])(?P<before>(?:{words}),? )(?P<y>{_YEAR})(?P<to>[-–](?:{_YEAR}))?(?![\d%]|[.,]\d)",
        lambda found: (
            found["before"]
            + read(int(found["y"]))
            + (f" {reading.range} {read(int(found['to'][1:]))}" if found["to"] else "")
        ),
        text,
        flags=re.IGNORECASE,
    )
    text = re.sub(
        r"(?<=\()(1[1-9]\d\d|20\d\d)(?:[-–](1[1-9]\d\d|20\d\d))?(?=\))",
        lambda found: read(int(found[1])) + (f" {reading.range} {read(int(found[2]))}" if found[2] else ""),
        text,
    )
    return re.sub(
        r"\b(1[1-9]\d\d|20\d\d)\s?[-–]\s?(1[1-9]\d\d|20\d\d)\b",
        lambda found: f"{read(int(found[1]))} {reading.range} {read(int(found[2]))}",
        text,
    )


def _decades(text: str, reading: Reading) -> str:
    if reading.code != "en":
        return text
    return re.sub(r"\b(?P<c>1[1-9]|20)(?P<d>\d0)s\b", lambda found: _decade(found, reading), text)


def _decade(found: re.Match[str], reading: Reading) -> str:
    from num2words import num2words

    if found["d"] == "00":
        hundreds = (
            _number("2000", reading) if found["c"] == "20" else f"{_number(found['c'], reading)} hundred"
        )
        return f"{hundreds}s"
    tens: str = num2words(int(found["d"]), lang="en")
    return f"{_number(found['c'], reading)} {tens[:-1]}{'ies' if tens.endswith('y') else 's'}"


def _ranges(text: str, reading: Reading) -> str:
    figure = _figure(reading)
    return re.sub(
        rf"(?<![\w.,–-])({figure})\s?[-–]\s?({figure})(?![\w–-])",
        lambda found: f"{_number(found[1], reading)} {reading.range} {_number(found[2], reading)}",
        text,
    )


def _numbers(text: str, reading: Reading) -> str:
    figure = _figure(reading)
    text = re.sub(
        rf"(?:(?<=^)|(?<=[\s(]))[-−+](?=\d)({figure})",
        lambda found: _number(found[0], reading),
        text,
        flags=re.MULTILINE,
    )
    return re.sub(figure, lambda found: _number(found[0], reading), text)


def _signs(text: str, reading: Reading) -> str:
    coins = "|".join(re.escape(sign) for sign in reading.currencies if not sign.isalpha())
    text = re.sub(coins, lambda found: reading.currencies[found[0]][1], text)
    signs = "|".join(re.escape(sign) for sign in reading.signs)
    text = re.sub(rf"\s?(?:{signs})\s?", lambda found: f" {reading.signs[found[0].strip()]} ", text)
    text = re.sub(r"(?<=\w)@(?=\w)|(?<=\s)@(?=\s)", f" {reading.at} ", text)
    text = re.sub(r"(?<=[^\W\d_])/(?=[^\W\d_])", " ", text)
    return re.sub(r"[*_|\\^{}\[\]<>`]+", " ", text)


def words_of(text: str) -> Iterator[str]:
    """The words of a text, in small letters."""
    return (found[0].lower() for found in re.finditer(r"[^\W_]+", text))
