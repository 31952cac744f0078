"""English."""

from num2words import num2words

from server.text.readings import Reading

_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


_YEAR_WORDS = (
    "in since of year until from to by before after around circa early late mid summer winter spring autumn "
    "fall during between and"
)


def _year(year: int) -> str:
    if 2000 <= year < 2010:
        return _words(year).replace(" and ", " ")
    words: str = num2words(year, lang="en", to="year")
    return words.replace(" and ", " ")


def _words(number: int) -> str:
    words: str = num2words(number, lang="en")
    return words


def _ordinal(written: str, before: str) -> str:
    words: str = num2words(int(written.rstrip("stndrh").replace(",", "")), lang="en", to="ordinal")
    return words


def _date(day: int, month: int, year: int | None, before: str) -> str:
    nth = num2words(day, lang="en", to="ordinal")
    month_name = _MONTHS[month - 1]
    said = f"{nth} of {month_name}" if before.lower() == "the" else f"{month_name} {nth}"
    return said if year is None else f"{said}, {_year(year)}"


def _time(hour: int, minute: int, mark: str) -> str:
    half = {"a": " a m", "p": " p m"}.get(mark.strip().lower()[:1], "")
    if minute:
        return f"{_words(hour)} {'oh ' if minute < 10 else ''}{_words(minute)}{half}"
    if half:
        return f"{_words(hour)}{half}"
    return f"{_words(hour)} o'clock" if 1 <= hour <= 12 else f"{_words(hour)} hundred"


def _ruler(name: str, number: int) -> str:
    counted = (
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
        "Title",
    )
    if name in counted:
        return f"{name} {_words(number)}"
    return f"{name} the {num2words(number, lang='en', to='ordinal')}"


READING = Reading(
    code="en",
    decimal=".",
    point="point",
    thousands=",",
    abbreviations={
        "Mr.": "Mister",
        "Mrs.": "Missis",
        "Ms.": "Miz",
        "Dr.": "Doctor",
        "Prof.": "Professor",
        "Sr.": "Senior",
        "Jr.": "Junior",
        "Gen.": "General",
        "Col.": "Colonel",
        "Capt.": "Captain",
        "Lt.": "Lieutenant",
        "Sgt.": "Sergeant",
        "Gov.": "Governor",
        "Sen.": "Senator",
        "Rev.": "Reverend",
        "Hon.": "Honorable",
        "St.": "Saint",
        "Mt.": "Mount",
        "Ave.": "Avenue",
        "Blvd.": "Boulevard",
        "Rd.": "Road",
        "Ft.": "Fort",
        "e.g.": "for example",
        "i.e.": "that is",
        "etc.": "et cetera",
        "vs.": "versus",
        "approx.": "approximately",
        "dept.": "department",
        "Dept.": "Department",
        "est.": "established",
        "Inc.": "Incorporated",
        "Ltd.": "Limited",
        "Co.": "Company",
        "Corp.": "Corporation",
        "no.": "number",
        "No.": "number",
        "Nos.": "numbers",
        "vol.": "volume",
        "Vol.": "Volume",
        "Fig.": "Figure",
        "fig.": "figure",
        "pp.": "pages",
        "p.": "page",
        "a.m.": "a m",
        "p.m.": "p m",
        "Jan.": "January",
        "Feb.": "February",
        "Aug.": "August",
        "Sept.": "September",
        "Oct.": "October",
        "Nov.": "November",
        "Dec.": "December",
        "U.S.": "U S",
        "U.S.A.": "U S A",
        "U.K.": "U K",
        "Ph.D.": "P H D",
        "w/": "with",
        "w/o": "without",
    },
    signs={
        "%": "percent",
        "&": "and",
        "+": "plus",
        "=": "equals",
        "×": "times",
        "÷": "divided by",
        "±": "plus or minus",
        "<": "less than",
        ">": "greater than",
        "≤": "at most",
        "≥": "at least",
        "≈": "about",
        "~": "about",
        "°": "degrees",
        "§": "section",
        "©": "copyright",
        "®": "registered",
        "™": "trademark",
        "#": "number",
        "‰": "per mille",
    },
    fractions={
        "1/2": "one half",
        "1/3": "one third",
        "2/3": "two thirds",
        "1/4": "one quarter",
        "3/4": "three quarters",
        "1/5": "one fifth",
        "1/8": "one eighth",
        "3/8": "three eighths",
        "1/10": "one tenth",
        "and": "and",
        "half": "a half",
    },
    range="to",
    minus="minus",
    number="number",
    at="at",
    dot="dot",
    slash="slash",
    currencies={
        "$": ("dollar", "dollars", "cent", "cents"),
        "USD": ("US dollar", "US dollars", "cent", "cents"),
        "€": ("euro", "euros", "cent", "cents"),
        "EUR": ("euro", "euros", "cent", "cents"),
        "£": ("pound", "pounds", "penny", "pence"),
        "GBP": ("pound", "pounds", "penny", "pence"),
        "¥": ("yen", "yen", "sen", "sen"),
        "₹": ("rupee", "rupees", "paisa", "paise"),
        "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"),
    },
    money=" and ",
    coins_named=True,
    ordinal=_ordinal,
    ordinal_form=r"\b\d[\d,]*(?:st|nd|rd|th)\b",
    date=_date,
    time=_time,
    year=_year,
    year_words=(*_YEAR_WORDS.split(), *_MONTHS),
    month_first=True,
    ruler=_ruler,
    units={
        "mph": ("mile per hour", "miles per hour"),
        "km/h": ("kilometer per hour", "kilometers per hour"),
    },
)
