"""Property names that stand for personal data. Only names are checked: values cannot be judged reliably."""

import functools
import re

# The last words of a name, without separators: `userEmail` and `user_e-mail` mean an e-mail address, `email_count` does not.
_ENDINGS = {
    "an e-mail address": "email emails mail emailaddress",
    "a phone number": "phone phones phonenumber telephone tel mobile mobilenumber cellphone msisdn fax",
    "a postal address": "address addresses street streetname housenumber addressline city zipcode postcode postalcode",
    "a location": "lat latitude lng lon longitude latlng coordinates geolocation gps",
    "an IP address": "ip ips ipaddress ipaddr ipv remoteaddr forwardedfor",
    "a secret": "password passwords passwd pwd passphrase secret secrets token apikey accesskey secretkey"
    " privatekey authkey authorization bearer credential credentials jwt otp cvv cvc",
    "a session": "cookie setcookie sessionid sessid sid sessionkey",
    "an identity number": "ssn socialsecurity socialsecuritynumber taxid passport passportnumber",
    "a bank account": "iban accountnumber creditcard debitcard bankcard cardnumber ccnumber",
    "a date of birth": "birthday birthdate dateofbirth dob",
    "a person's name": "firstname lastname fullname givenname familyname middlename maidenname surname realname nickname"
    " personname customername contactname",
    "an account": "username usernames userid accountid customerid visitorid deviceid",
    "a browser": "useragent useragents",
}
_WHOLE_NAMES = {"card": "a bank account", "zip": "a postal address"}  # `help_card` and `download_zip` are harmless
_UNSEPARATED = (  # recognised without a word boundary, as in `useremail`
    *("email", "emailaddress", "password", "username", "useragent"),
    *("ipaddress", "phonenumber", "firstname", "lastname"),
)
_MEANINGS = {ending: meaning for meaning, endings in _ENDINGS.items() for ending in endings.split()}

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # ignores digits: `address2` is an address
_ENCODINGS = {"hash", "hashed", "encoded", "value", "text", "raw", "string", "md", "sha"}  # an `email_hash` is personal data, too
_MAX_WORDS = 3


def find_in_property(name: str, value: object) -> str | None:
    """Return why the property must not be stored, or None. Booleans are harmless: `is_mobile`, `has_email`."""
    return None if isinstance(value, bool) else find_in_name(name)


@functools.lru_cache(1024)
def find_in_name(name: str) -> str | None:
    words = [word.lower() for word in _WORD.findall(name)]
    while words and words[-1] in _ENCODINGS:
        words.pop()
    endings = ["".join(words[-count:]) for count in range(1, _MAX_WORDS + 1)]
    whole = "".join(words)
    endings += [ending for ending in _UNSEPARATED if whole.endswith(ending)]
    meaning = next((_MEANINGS[ending] for ending in endings if ending in _MEANINGS), _WHOLE_NAMES.get(whole))
    return f"This name stands for {meaning}. Personal data is not accepted: remove the property." if meaning else None
