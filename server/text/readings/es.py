"""Spanish."""

import re

from num2words import num2words

from server.text.readings import Reading

_MONTHS = [
    "enero",
    "febrero",
    "marzo",
    "abril",
    "mayo",
    "junio",
    "julio",
    "agosto",
    "septiembre",
    "octubre",
    "noviembre",
    "diciembre",
]
_SHORT = re.compile(r"[.\s]*(?:er|[ºª])$")


def _words(number: int) -> str:
    words: str = num2words(number, lang="es")
    return words


def _ordinal(written: str, before: str) -> str:
    number = int(re.match(r"\d+", written)[0])  # type: ignore[index]
    words: str = num2words(number, lang="es", to="ordinal")
    if written.endswith("er"):
        return words[:-1] if words.endswith(("primero", "tercero")) else words
    return words[:-1] + "a" if written.endswith(("ª", "a")) and words.endswith("o") else words


def _date(day: int, month: int, year: int | None, before: str) -> str:
    said = f"{_words(day)} de {_MONTHS[month - 1]}"
    return said if year is None else f"{said} de {_words(year)}"


def _time(hour: int, minute: int, mark: str) -> str:
    half = {"a": " a m", "p": " p m"}.get(mark.strip().lower()[:1], "")
    hours = _one(_words(hour), True)
    if mark.strip().lower().startswith("h"):
        hours += " hora" if hour == 1 else " horas"
        return hours if not minute else f"{hours} {_words(minute)}"
    if not minute:
        return f"{hours}{half}" if half else f"{hours} en punto"
    return f"{hours} {'cero ' if minute < 10 else ''}{_words(minute)}{half}"


def _ruler(name: str, number: int) -> str:
    first = number <= 10 and name not in ("Capítulo", "Tomo", "Parte", "Siglo", "siglo", "capítulo", "tomo")
    if not first:
        return f"{name} {_words(number)}"
    return f"{name} {num2words(number, lang='es', to='ordinal')}"


def _one(words: str, feminine: bool) -> str:
    if feminine:
        words = re.sub(r"cientos\b", "cientas", words)
        return re.sub(r"(veinti|\b)uno$", r"\1una", words)
    return re.sub(r"\buno$", "un", re.sub(r"veintiuno$", "veintiún", words))


READING = Reading(
    code="es",
    decimal=",",
    point="coma",
    thousands=r".\s",
    abbreviations={
        "Sr.": "señor",
        "Sra.": "señora",
        "Srta.": "señorita",
        "Sres.": "señores",
        "Dr.": "doctor",
        "Dra.": "doctora",
        "D.": "don",
        "Dña.": "doña",
        "Prof.": "profesor",
        "Profa.": "profesora",
        "Ud.": "usted",
        "Uds.": "ustedes",
        "Vd.": "usted",
        "Lic.": "licenciado",
        "Ing.": "ingeniero",
        "Gral.": "general",
        "Av.": "avenida",
        "Avda.": "avenida",
        "C/": "calle",
        "Pza.": "plaza",
        "Pl.": "plaza",
        "Ctra.": "carretera",
        "Sto.": "santo",
        "Sta.": "santa",
        "S.": "san",
        "etc.": "etcétera",
        "p.ej.": "por ejemplo",
        "p. ej.": "por ejemplo",
        "pág.": "página",
        "págs.": "páginas",
        "núm.": "número",
        "Núm.": "Número",
        "n.º": "número",
        "N.º": "Número",
        "nº": "número",
        "Nº": "Número",
        "tel.": "teléfono",
        "Tel.": "Teléfono",
        "aprox.": "aproximadamente",
        "máx.": "máximo",
        "mín.": "mínimo",
        "cap.": "capítulo",
        "vol.": "volumen",
        "art.": "artículo",
        "depto.": "departamento",
        "dpto.": "departamento",
        "Cía.": "compañía",
        "S.A.": "ese a",
        "a.C.": "antes de Cristo",
        "a. C.": "antes de Cristo",
        "d.C.": "después de Cristo",
        "d. C.": "después de Cristo",
        "EE.UU.": "Estados Unidos",
        "EE. UU.": "Estados Unidos",
        "ene.": "enero",
        "feb.": "febrero",
        "ago.": "agosto",
        "sept.": "septiembre",
        "oct.": "octubre",
        "nov.": "noviembre",
        "dic.": "diciembre",
        "izq.": "izquierda",
        "dcha.": "derecha",
        "km.": "kilómetros",
    },
    signs={
        "%": "por ciento",
        "&": "y",
        "+": "más",
        "=": "igual a",
        "×": "por",
        "÷": "entre",
        "±": "más menos",
        "<": "menor que",
        ">": "mayor que",
        "≤": "como máximo",
        "≥": "como mínimo",
        "≈": "aproximadamente",
        "~": "aproximadamente",
        "°": "grados",
        "§": "párrafo",
        "©": "copyright",
        "®": "marca registrada",
        "™": "marca",
        "#": "número",
        "‰": "por mil",
    },
    fractions={
        "1/2": "un medio",
        "1/3": "un tercio",
        "2/3": "dos tercios",
        "1/4": "un cuarto",
        "3/4": "tres cuartos",
        "1/5": "un quinto",
        "1/8": "un octavo",
        "3/8": "tres octavos",
        "1/10": "un décimo",
        "and": "y",
        "half": "medio",
    },
    range="a",
    minus="menos",
    number="número",
    at="arroba",
    dot="punto",
    slash="barra",
    currencies={
        "$": ("dólar", "dólares", "centavo", "centavos"),
        "USD": ("dólar", "dólares", "centavo", "centavos"),
        "€": ("euro", "euros", "céntimo", "céntimos"),
        "EUR": ("euro", "euros", "céntimo", "céntimos"),
        "£": ("libra", "libras", "penique", "peniques"),
        "GBP": ("libra", "libras", "penique", "peniques"),
        "¥": ("yen", "yenes", "sen", "sen"),
        "₹": ("rupia", "rupias", "paisa", "paisas"),
        "CHF": ("franco suizo", "francos suizos", "céntimo", "céntimos"),
    },
    money=" con ",
    coins_named=True,
    ordinal=_ordinal,
    ordinal_form=r"\b\d{1,4}(?:\.?[ºª°](?!\w)|\.?er\b)",
    date=_date,
    time=_time,
    ruler=_ruler,
    feminine=("hora", "tonelada", "milla", "libra", "onza", "rupia", "pulgada", "yarda"),
    one=_one,
    digits_together=True,
    units={"km/h": ("kilómetro por hora", "kilómetros por hora"), "min": ("minuto", "minutos")},
)
