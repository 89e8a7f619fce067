"""Obvious personal data: what must not be stored, told by what a property is called and by what a text looks like.

Each pattern is bounded or anchored, so that a text of 200 hostile characters costs no more than any other.
"""

from __future__ import annotations

import functools
import itertools
import re
import string
from collections.abc import Callable

# What a key ends with, without separators: `userEmail` and `user_e-mail` are about an e-mail address, `email_count` is not.
_NAMED = {
    "an e-mail address": "email emails mail emailaddress",
    "a phone number": "phone phones phonenumber telephone tel mobile mobilenumber cellphone msisdn fax",
    "a postal address": "address addresses street streetname housenumber addressline city zipcode postcode postalcode",
    "a place": "lat latitude lng lon longitude latlng coordinates geolocation gps",
    "an address on the network": "ip ips ipaddress ipaddr ipv remoteaddr forwardedfor",
    "a password or another secret": "password passwords passwd pwd passphrase secret secrets token apikey accesskey secretkey"
    " privatekey authkey authorization bearer credential credentials jwt otp cvv cvc",
    "a session": "cookie setcookie sessionid sessid sid sessionkey",
    "a number of a person": "ssn socialsecurity socialsecuritynumber taxid passport passportnumber",
    "an account at a bank": "iban accountnumber creditcard debitcard bankcard cardnumber ccnumber",
    "a day of birth": "birthday birthdate dateofbirth dob",
    "somebody's name": "firstname lastname fullname givenname familyname middlename maidenname surname realname nickname"
    " personname customername contactname",
    "an account": "username usernames userid accountid customerid visitorid deviceid",
    "a browser": "useragent useragents",
}
_NAMED_ENTIRELY = {"an account at a bank": "card", "a postal address": "zip"}  # a `help_card` and a `download_zip` are none
_WRITTEN_TOGETHER = (
    "email",
    "emailaddress",
    "password",
    "username",
    "useragent",
    "ipaddress",
    "phonenumber",
    "firstname",
    "lastname",
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # figures are left out: `address2` is an address
_VEILED = {"hash", "hashed", "encoded", "value", "text", "raw", "string", "md", "sha"}  # what of a mail address is still one
_MOST_WORDS = 3
_LEAST_CARD = 10**12


def _by_name(named: dict[str, str]) -> dict[str, str]:
    return {name: what for what, names in named.items() for name in names.split()}


_WHAT, _WHAT_ENTIRELY = _by_name(_NAMED), _by_name(_NAMED_ENTIRELY)


def in_property(key: str, value: str | int | float | bool) -> str | None:
    """Why it must not be stored, or None. What is only true or false tells nothing: `is_mobile`, `has_email`."""
    if isinstance(value, bool):
        return None
    return in_key(key) or (in_text(value) if isinstance(value, str) else in_number(value))


@functools.lru_cache(1024)
def in_key(key: str) -> str | None:
    """Why a property must not be called that, or None."""
    words = [word.lower() for word in _WORD.findall(key)]
    while words and words[-1] in _VEILED:
        words.pop()
    endings = ("".join(words[-number:]) for number in range(1, _MOST_WORDS + 1))
    entire = "".join(words)
    together = next((ending for ending in _WRITTEN_TOGETHER if entire.endswith(ending)), "")
    what = next((_WHAT[ending] for ending in (*endings, together) if ending in _WHAT), _WHAT_ENTIRELY.get(entire))
    return f"This is called like {what}, and nothing personal is stored." if what else None


def in_text(text: str) -> str | None:
    """Why a text must not be stored, or None."""
    return _first(_SHAPES, text)


@functools.lru_cache(1024)
def in_label(text: str) -> str | None:
    """The same for the name or the category of an event, which may well be long and odd."""
    return _first(_SHAPES_OF_LABELS, text)


def in_number(number: float) -> str | None:
    """The same for a number."""
    return in_text(str(number)) if number >= _LEAST_CARD else None


def in_id(text: str) -> str | None:
    """The same for an id, which is random or counts something: few shapes mean anything there."""
    return _first(_SHAPES_OF_IDS, text)


_SUSPECT = re.compile("[0-9@=]")  # one of these is in everything below
_EMAIL = re.compile(r"(?<=[\w.+%'-])@(?:[\w-]+\.)+[^\W\d_]{2}")
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?<![\w.]){_BYTE}(?:\.{_BYTE}){{3}}(?!\.?\w)")
_GROUP = "[0-9A-Fa-f]{1,4}"
_GROUPS = f"(?:{_GROUP}(?::{_GROUP}){{0,6}})?"
_IPV6 = re.compile(rf"(?<![\w:.])(?=[0-9A-Fa-f:]{{7}})(?:{_GROUP}(?::{_GROUP}){{7}}|{_GROUPS}::{_GROUPS})(?![\w:])")
_ENOUGH_FIGURES = re.compile("(?:[^0-9]*[0-9]){8}")  # for the three kinds of numbers below
_PHONE = re.compile(
    r"(?<![\w.+-])(?<![0-9] )(?:"
    r"\+[1-9](?:[ ()./-]{0,3}[0-9]){7,14}(?![0-9])"  # +49 170 1234567
    r"|(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}(?![\w-])"  # (555) 234-5678
    r"|0(?:[1-9][0-9]{1,3}[ /-]{1,3}[0-9](?:[ -]?[0-9]){5,8}(?![\w-])"  # 0170 / 1234567
    r"|[1-9](?:[ .-][0-9]{2}){4}(?![\w-])"  # 01 23 45 67 89
    r"|(?:[1-9]|0[1-9][0-9]{0,2})[0-9]{8,10}(?![\w.-])))"  # 01701234567, 00491701234567
)
_DIGITS = re.compile(r"(?<![\w-])(?<![0-9] )[2-6](?:[ -]?[0-9]){12,18}(?![\w-])")
# Visa; Mastercard, Discover, UnionPay, Maestro; Mastercard's newer ones, JCB; American Express; Diners Club.
_CARD = re.compile(
    r"4[0-9]{12}(?:[0-9]{3}){0,2}|[56][0-9]{15}"
    r"|(?=.{16}$)(?:2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|35(?:2[89]|[3-8]))[0-9]*"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}"
)
_IBAN = re.compile(r"(?<![\w-])[A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?(?![\w-])")
_SHORTEST_IBAN = 15
_LETTERS = {ord(letter): str(number) for number, letter in enumerate(string.ascii_uppercase, 10)}
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8}")
_RUN = re.compile(r"(?<![\w-])[A-Za-z0-9_-]{32,}")
_MIN_PART = 10  # characters between two separators of a token, on average; words and the parts of a UUID are shorter
_USER_IN_URL = re.compile(r"://[^\s/?#@]*@")
_PARAMETER = re.compile(r"[?&#;]([\w.-]{1,40})=")
_MOST_PARAMETERS = 5


def _has_email(text: str) -> bool:
    return "@" in text and bool(_EMAIL.search(text))


def _has_encoded_email(text: str) -> bool:
    return "%40" in text and _has_email(text.replace("%40", "@"))


def _has_ip_address(text: str) -> bool:
    return (text.count(".") >= 3 and bool(_IPV4.search(text))) or (text.count(":") >= 2 and bool(_IPV6.search(text)))


def _has_phone_number(text: str) -> bool:
    return bool(_ENOUGH_FIGURES.match(text) and _PHONE.search(text))


def _has_card_number(text: str) -> bool:
    return bool(_ENOUGH_FIGURES.match(text)) and any(_is_card(re.sub("[ -]", "", found)) for found in _DIGITS.findall(text))


def _is_card(number: str) -> bool:
    """By its issuer and by the checksum of ISO/IEC 7812."""
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return bool(_CARD.fullmatch(number)) and (doubled + sum(map(int, number[::-2]))) % 10 == 0


def _has_iban(text: str) -> bool:
    """With the next word or without it, when one comes right after it."""
    found = _IBAN.findall(text) if _ENOUGH_FIGURES.match(text) else []
    return any(_is_iban(whole) or _is_iban(whole.rpartition(" ")[0]) for whole in found)


def _is_iban(text: str) -> bool:
    """By the checksum of ISO 7064."""
    compact = text.replace(" ", "")
    return len(compact) >= _SHORTEST_IBAN and int((compact[4:] + compact[:4]).upper().translate(_LETTERS)) % 97 == 1


def _has_jwt(text: str) -> bool:
    return "eyJ" in text and bool(_JWT.search(text))


def _has_token(text: str) -> bool:
    return any(_is_random(run) for run in _RUN.findall(text))


def _is_random(run: str) -> bool:
    separators = run.count("-") + run.count("_")
    figures = sum(map(run.count, "0123456789"))
    letters = len(run) - figures - separators
    return len(run) >= (separators + 1) * _MIN_PART and figures >= 2 and letters >= 2


def _names_a_user(text: str) -> bool:
    return "://" in text and bool(_USER_IN_URL.search(text))


def _has_personal_parameter(text: str) -> bool:
    if "=" not in text:
        return False
    return any(in_key(found[1]) for found in itertools.islice(_PARAMETER.finditer(text), _MOST_PARAMETERS))


def _is_user_agent(text: str) -> bool:
    return "Mozilla/" in text


_Shapes = dict[str, Callable[[str], bool]]

_SHAPES_OF_IDS: _Shapes = {"an address on the network": _has_ip_address, "a token": _has_jwt}
_SHAPES_OF_LABELS: _Shapes = _SHAPES_OF_IDS | {
    "a phone number": _has_phone_number,
    "the number of a credit card": _has_card_number,
    "an account at a bank": _has_iban,
}
_SHAPES: _Shapes = (
    {"an e-mail address": _has_email, "an encoded e-mail address": _has_encoded_email}
    | _SHAPES_OF_LABELS
    | {
        "a secret or a long random token": _has_token,
        "a link with a user's name in it": _names_a_user,
        "a link with something personal in it": _has_personal_parameter,
        "what a browser says of itself": _is_user_agent,
    }
)


def _first(shapes: _Shapes, text: str) -> str | None:
    if not _SUSPECT.search(text):
        return None
    what = next((what for what, is_in in shapes.items() if is_in(text)), None)
    return f"This looks like {what}, and nothing personal is stored." if what else None
