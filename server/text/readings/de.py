"""German."""

from num2words import num2words

from server.text.readings import Reading

_MONTHS = [
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
]

_WEAK = frozenset(
    [
        "am",
        "vom",
        "zum",
        "beim",
        "im",
        "dem",
        "den",
        "des",
        "bis",
        "seit",
        "ab",
        "nach",
        "vor",
        "der",
        "die",
        "das",
        "zur",
    ]
)
"""Words after which an ordinal has the weak ending; of these, after `_PLAIN` it is -e."""
_PLAIN = frozenset(["der", "die", "das"])


def _words(number: int) -> str:
    words: str = num2words(number, lang="de")
    return words


def _year(year: int) -> str:
    if 1100 <= year < 2000:
        hundred, rest = divmod(year, 100)
        return f"{_words(hundred)}hundert{_words(rest) if rest else ''}"
    return _words(year)


def _nth(number: int, before: str) -> str:
    stem: str = num2words(number, lang="de", to="ordinal")
    if before in _PLAIN:
        return stem
    return stem + ("n" if before in _WEAK else "r")


def _ordinal(written: str, before: str) -> str:
    return _nth(int(written.rstrip(". ")), before.lower())


def _date(day: int, month: int, year: int | None, before: str) -> str:
    said = f"{_nth(day, before.lower())} {_MONTHS[month - 1]}"
    return said if year is None else f"{said} {_year(year)}"


def _time(hour: int, minute: int, mark: str) -> str:
    hours = "ein" if hour == 1 else _words(hour)
    return f"{hours} Uhr" + (f" {_words(minute)}" if minute else "")


def _ruler(name: str, number: int) -> str:
    if name in ("Kapitel", "Teil", "Band", "Akt", "Weltkrieg", "Abschnitt", "Phase", "Typ"):
        return f"{name} {_words(number)}"
    return f"{name} der {_nth(number, 'der').capitalize()}"


def _one(words: str, feminine: bool) -> str:
    return words[:-4] + ("eine" if feminine else "ein") if words.endswith("eins") else words


READING = Reading(
    code="de",
    decimal=",",
    point="Komma",
    thousands=r".\s",
    abbreviations={
        "Dr.": "Doktor",
        "Prof.": "Professor",
        "Hr.": "Herr",
        "Hrn.": "Herrn",
        "Fr.": "Frau",
        "Str.": "Straße",
        "str.": "straße",
        "Nr.": "Nummer",
        "Nrn.": "Nummern",
        "z.B.": "zum Beispiel",
        "z. B.": "zum Beispiel",
        "d.h.": "das heißt",
        "d. h.": "das heißt",
        "u.a.": "unter anderem",
        "u. a.": "unter anderem",
        "usw.": "und so weiter",
        "bzw.": "beziehungsweise",
        "ca.": "circa",
        "etc.": "et cetera",
        "evtl.": "eventuell",
        "ggf.": "gegebenenfalls",
        "inkl.": "inklusive",
        "max.": "maximal",
        "min.": "mindestens",
        "Mio.": "Millionen",
        "Mrd.": "Milliarden",
        "Tsd.": "Tausend",
        "o.ä.": "oder ähnliches",
        "o. ä.": "oder ähnliches",
        "s.o.": "siehe oben",
        "s.u.": "siehe unten",
        "St.": "Sankt",
        "Tel.": "Telefon",
        "vgl.": "vergleiche",
        "v.Chr.": "vor Christus",
        "v. Chr.": "vor Christus",
        "n.Chr.": "nach Christus",
        "n. Chr.": "nach Christus",
        "Abb.": "Abbildung",
        "Abs.": "Absatz",
        "Art.": "Artikel",
        "Bd.": "Band",
        "geb.": "geboren",
        "gest.": "gestorben",
        "Jh.": "Jahrhundert",
        "Kap.": "Kapitel",
        "S.": "Seite",
        "Jan.": "Januar",
        "Feb.": "Februar",
        "Aug.": "August",
        "Sept.": "September",
        "Okt.": "Oktober",
        "Nov.": "November",
        "Dez.": "Dezember",
        "Std.": "Stunden",
        "MwSt.": "Mehrwertsteuer",
        "zzgl.": "zuzüglich",
        "u.U.": "unter Umständen",
    },
    signs={
        "%": "Prozent",
        "&": "und",
        "+": "plus",
        "=": "gleich",
        "×": "mal",
        "÷": "geteilt durch",
        "±": "plus minus",
        "<": "kleiner als",
        ">": "größer als",
        "≤": "höchstens",
        "≥": "mindestens",
        "≈": "ungefähr",
        "~": "ungefähr",
        "°": "Grad",
        "§": "Paragraf",
        "©": "Copyright",
        "®": "eingetragene Marke",
        "™": "Marke",
        "#": "Nummer",
        "‰": "Promille",
    },
    fractions={
        "1/2": "einhalb",
        "1/3": "ein Drittel",
        "2/3": "zwei Drittel",
        "1/4": "ein Viertel",
        "3/4": "drei Viertel",
        "1/5": "ein Fünftel",
        "1/8": "ein Achtel",
        "3/8": "drei Achtel",
        "1/10": "ein Zehntel",
        "and": "",
        "half": "einhalb",
    },
    range="bis",
    minus="minus",
    number="Nummer",
    at="at",
    dot="Punkt",
    slash="Schrägstrich",
    currencies={
        "$": ("Dollar", "Dollar", "Cent", "Cent"),
        "USD": ("US-Dollar", "US-Dollar", "Cent", "Cent"),
        "€": ("Euro", "Euro", "Cent", "Cent"),
        "EUR": ("Euro", "Euro", "Cent", "Cent"),
        "£": ("Pfund", "Pfund", "Pence", "Pence"),
        "GBP": ("Pfund", "Pfund", "Pence", "Pence"),
        "¥": ("Yen", "Yen", "Sen", "Sen"),
        "₹": ("Rupie", "Rupien", "Paise", "Paise"),
        "CHF": ("Franken", "Franken", "Rappen", "Rappen"),
    },
    money=" ",
    coins_named=False,
    ordinal=_ordinal,
    ordinal_form=(
        r"(?<=\b(?i:der|die|das|dem|den|des|zum|vom|zur) )\d{1,4}\.(?=\s)|(?<=\b(?i:am|im) )\d{1,4}\.(?=\s)"
        r"|(?<=\b(?i:beim) )\d{1,4}\.(?=\s)"
    ),
    date=_date,
    time=_time,
    year=_year,
    year_words=(
        *[
            "in",
            "im",
            "seit",
            "von",
            "bis",
            "um",
            "ab",
            "vor",
            "nach",
            "jahr",
            "jahre",
            "jahres",
            "anno",
            "sommer",
            "winter",
            "herbst",
        ],
        *_MONTHS,
    ),
    ruler=_ruler,
    feminine=("Stunde", "Minute", "Sekunde", "Meile", "Tonne", "Unze", "Rupie", "Milliarde", "Million"),
    one=_one,
    units={"km/h": ("Kilometer pro Stunde", "Kilometer pro Stunde"), "Std": ("Stunde", "Stunden")},
)
