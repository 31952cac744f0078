"""Sentences that the demo model can know, in its four languages: see models/ggml-demo.md.

Items of one list stand in the same order in all languages.
"""

import re
from collections.abc import Iterator
from random import Random

from bench import sound

LANGUAGES = ("en", "de", "es", "fr")

LISTS: dict[str, dict[str, str]] = {
    "de": {
        "num": "zwei, drei, vier, fünf, sechs, sieben, acht, neun, zehn, elf, zwölf, dreizehn, vierzehn, "
        "fünfzehn, sechzehn, siebzehn, achtzehn, neunzehn, zwanzig",
        "day": "Montag, Dienstag, Mittwoch, Donnerstag, Freitag, Samstag, Sonntag",
        "color": "rot, grün, blau, gelb, schwarz, weiß",
        "thing": "das Haus, das Auto, das Buch, der Tisch, die Tür, der Garten, der Zug, das Brot",
        "city": "Paris, Berlin, London, Madrid, Rom",
        "room": "in der Küche, im Schlafzimmer, im Büro, im Badezimmer",
        "weather": "kalt, warm, schön",
        "name": sound.LISTS["name"].replace(" ", ", "),
    },
    "es": {
        "num": "dos, tres, cuatro, cinco, seis, siete, ocho, nueve, diez, once, doce, trece, catorce, "
        "quince, dieciséis, diecisiete, dieciocho, diecinueve, veinte",
        "day": "lunes, martes, miércoles, jueves, viernes, sábado, domingo",
        "color": "rojo, verde, azul, amarillo, negro, blanco",
        "thing": "la casa, el coche, el libro, la mesa, la puerta, el jardín, el tren, el pan",
        "city": "París, Berlín, Londres, Madrid, Roma",
        "room": "en la cocina, en el dormitorio, en la oficina, en el baño",
        "weather": "frío, cálido, hermoso",
        "name": sound.LISTS["name"].replace(" ", ", "),
    },
    "fr": {
        "num": "deux, trois, quatre, cinq, six, sept, huit, neuf, dix, onze, douze, treize, quatorze, "
        "quinze, seize, dix-sept, dix-huit, dix-neuf, vingt",
        "day": "lundi, mardi, mercredi, jeudi, vendredi, samedi, dimanche",
        "color": "rouge, vert, bleu, jaune, noir, blanc",
        "thing": "la maison, la voiture, le livre, la table, la porte, le jardin, le train, le pain",
        "city": "Paris, Berlin, Londres, Madrid, Rome",
        "room": "dans la cuisine, dans la chambre, dans le bureau, dans la salle de bain",
        "weather": "froid, chaud, beau",
        "name": sound.LISTS["name"].replace(" ", ", "),
    },
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "de": (
        "Das Treffen ist am {day} um {num} Uhr.",
        "{name} wohnt in {city}.",
        "{thing} ist sehr schön.",
        "Meine Lieblingsfarbe ist {color}.",
        "Mach das Licht {room} an.",
        "Mach das Licht {room} aus.",
        "Ich habe {num} Äpfel und {num} Orangen.",
        "Guten Morgen, {name}, wie geht es dir?",
        "Das Wetter ist heute {weather}.",
        "Wo ist {thing}?",
        "Vielen Dank, {name}.",
        "Der Zug nach {city} fährt um {num} Uhr ab.",
    ),
    "es": (
        "La reunión es el {day} a las {num}.",
        "{name} vive en {city}.",
        "{thing} es muy bonito.",
        "Mi color favorito es el {color}.",
        "Enciende la luz {room}.",
        "Apaga la luz {room}.",
        "Tengo {num} manzanas y {num} naranjas.",
        "Buenos días, {name}, ¿cómo estás?",
        "Hoy el tiempo es {weather}.",
        "¿Dónde está {thing}?",
        "Muchas gracias, {name}.",
        "El tren a {city} sale a las {num}.",
    ),
    "fr": (
        "La réunion est {day} à {num} heures.",
        "{name} habite à {city}.",
        "{thing} est très beau.",
        "Ma couleur préférée est le {color}.",
        "Allume la lumière {room}.",
        "Éteins la lumière {room}.",
        "J'ai {num} pommes et {num} oranges.",
        "Bonjour, {name}, comment vas-tu ?",
        "Le temps est {weather} aujourd'hui.",
        "Où est {thing} ?",
        "Merci beaucoup, {name}.",
        "Le train pour {city} part à {num} heures.",
    ),
}


def sentences(language: str, random: Random) -> Iterator[str]:
    """Without end."""
    if language == "en":
        yield from sound.sentences(random)
    while True:
        text = re.sub(
            r"\{(\w+)\}",
            lambda place: random.choice(LISTS[language][place[1]].split(", ")),
            random.choice(TEMPLATES[language]),
        )
        yield text[0].upper() + text[1:]
