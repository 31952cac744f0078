"""French."""

import re

from num2words import num2words

from server.text.readings import Reading

_MONTHS = [
    "janvier",
    "février",
    "mars",
    "avril",
    "mai",
    "juin",
    "juillet",
    "août",
    "septembre",
    "octobre",
    "novembre",
    "décembre",
]


def _words(number: int) -> str:
    words: str = num2words(number, lang="fr")
    return words


def _ordinal(written: str, before: str) -> str:
    number = int(re.match(r"\d+", written)[0])  # type: ignore[index]
    if number == 1:
        return "première" if written.endswith(("re", "ère")) else "premier"
    if number == 2 and written.endswith(("nd", "nde")):
        return "second" if written.endswith("nd") else "seconde"
    words: str = num2words(number, lang="fr", to="ordinal")
    return words


def _date(day: int, month: int, year: int | None, before: str) -> str:
    said = f"{'premier' if day == 1 else _words(day)} {_MONTHS[month - 1]}"
    return said if year is None else f"{said} {_words(year)}"


def _time(hour: int, minute: int, mark: str) -> str:
    hours = f"{_one(_words(hour), True)} heure{'s' if hour > 1 else ''}"
    return f"{hours} {_one(_words(minute), True)}" if minute else hours


def _ruler(name: str, number: int) -> str:
    if number == 1 and name not in ("Chapitre", "Tome", "Partie", "Acte", "chapitre", "tome"):
        return f"{name} premier"
    return f"{name} {_words(number)}"


def _one(words: str, feminine: bool) -> str:
    return words + "e" if feminine and re.search(r"\bun$", words) else words


READING = Reading(
    code="fr",
    decimal=",",
    point="virgule",
    thousands=r".\s",
    abbreviations={
        "M.": "Monsieur",
        "MM.": "Messieurs",
        "Mme": "Madame",
        "Mmes": "Mesdames",
        "Mlle": "Mademoiselle",
        "Mlles": "Mesdemoiselles",
        "Dr": "Docteur",
        "Dr.": "Docteur",
        "Pr": "Professeur",
        "Pr.": "Professeur",
        "Me": "Maître",
        "Mgr": "Monseigneur",
        "St": "Saint",
        "Ste": "Sainte",
        "av.": "avenue",
        "Av.": "Avenue",
        "bd": "boulevard",
        "Bd": "Boulevard",
        "boul.": "boulevard",
        "pl.": "place",
        "etc.": "et cetera",
        "p. ex.": "par exemple",
        "p.ex.": "par exemple",
        "c.-à-d.": "c'est-à-dire",
        "cf.": "confer",
        "env.": "environ",
        "n°": "numéro",
        "N°": "Numéro",
        "nº": "numéro",
        "no.": "numéro",
        "p.": "page",
        "pp.": "pages",
        "vol.": "volume",
        "chap.": "chapitre",
        "art.": "article",
        "tél.": "téléphone",
        "Tél.": "Téléphone",
        "max.": "maximum",
        "min.": "minimum",
        "av. J.-C.": "avant Jésus-Christ",
        "apr. J.-C.": "après Jésus-Christ",
        "ap. J.-C.": "après Jésus-Christ",
        "janv.": "janvier",
        "févr.": "février",
        "juil.": "juillet",
        "sept.": "septembre",
        "oct.": "octobre",
        "nov.": "novembre",
        "déc.": "décembre",
        "s.v.p.": "s'il vous plaît",
        "SVP": "s'il vous plaît",
        "R.-V.": "rendez-vous",
        "Cie": "compagnie",
        "éd.": "édition",
        "ext.": "extension",
        "hab.": "habitants",
    },
    signs={
        "%": "pour cent",
        "&": "et",
        "+": "plus",
        "=": "égale",
        "×": "fois",
        "÷": "divisé par",
        "±": "plus ou moins",
        "<": "inférieur à",
        ">": "supérieur à",
        "≤": "au plus",
        "≥": "au moins",
        "≈": "environ",
        "~": "environ",
        "°": "degrés",
        "§": "paragraphe",
        "©": "copyright",
        "®": "marque déposée",
        "™": "marque",
        "#": "numéro",
        "‰": "pour mille",
    },
    fractions={
        "1/2": "un demi",
        "1/3": "un tiers",
        "2/3": "deux tiers",
        "1/4": "un quart",
        "3/4": "trois quarts",
        "1/5": "un cinquième",
        "1/8": "un huitième",
        "3/8": "trois huitièmes",
        "1/10": "un dixième",
        "and": "et",
        "half": "demi",
    },
    range="à",
    minus="moins",
    number="numéro",
    at="arobase",
    dot="point",
    slash="barre oblique",
    currencies={
        "$": ("dollar", "dollars", "cent", "cents"),
        "USD": ("dollar", "dollars", "cent", "cents"),
        "€": ("euro", "euros", "centime", "centimes"),
        "EUR": ("euro", "euros", "centime", "centimes"),
        "£": ("livre", "livres", "penny", "pence"),
        "GBP": ("livre", "livres", "penny", "pence"),
        "¥": ("yen", "yens", "sen", "sens"),
        "₹": ("roupie", "roupies", "paisa", "paisas"),
        "CHF": ("franc suisse", "francs suisses", "centime", "centimes"),
    },
    money=" ",
    coins_named=False,
    ordinal=_ordinal,
    ordinal_form=r"\b\d{1,4}(?:er|re|ère|ème|nde?|e)\b",
    date=_date,
    time=_time,
    ruler=_ruler,
    feminine=("heure", "minute", "seconde", "tonne", "livre", "once", "roupie"),
    one=_one,
    digits_together=True,
    units={
        "Ko": ("kilooctet", "kilooctets"),
        "Mo": ("mégaoctet", "mégaoctets"),
        "Go": ("gigaoctet", "gigaoctets"),
        "To": ("téraoctet", "téraoctets"),
        "km/h": ("kilomètre à l'heure", "kilomètres à l'heure"),
        "min": ("minute", "minutes"),
    },
)
