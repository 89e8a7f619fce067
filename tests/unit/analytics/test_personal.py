import re
import time
from uuid import uuid4

import pytest

from app.analytics import personal
from app.analytics.personal import in_id, in_key, in_label, in_property, in_text

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
TOKEN = "q3ZPpYt7C0x8Yd2mVf6Rk1LhWs9BnUa4"
SLOW_S = 0.02  # of one text; the slowest below takes a hundredth of that, and one that is tried again and again takes seconds


@pytest.mark.parametrize(
    "key",
    [
        *("email", "Email", "EMAIL", "e_mail", "e-mail", "eMail", "mail", "user_email", "userEmail", "user.email", "useremail"),
        *("email_address", "emailAddress", "email2", "email_hash", "emailSHA256", "emails"),
        *("phone", "phone_number", "phoneNumber", "tel", "telephone", "mobile", "fax"),
        *("address", "addressLine1", "billing_address", "street", "city", "zip", "zip_code", "zipCode", "postcode"),
        *("ip", "IP", "ip_address", "ipAddress", "IPAddress", "client_ip", "clientIP", "ipv4", "remote_addr", "x_forwarded_for"),
        *("password", "passwd", "newPassword", "secret", "client_secret", "token", "accessToken", "api_key", "apiKey", "APIKey"),
        *("authorization", "cookie", "session_id", "sessionId", "sid", "user_agent", "userAgent", "useragent"),
        *("ssn", "iban", "IBAN", "card", "card_number", "creditCard", "birthday", "dob", "date_of_birth"),
        *("first_name", "firstName", "last_name", "full_name", "username", "user_name", "userName", "surname"),
        *("user_id", "userId", "account_id", "latitude", "lat", "lng", "longitude", "geo_coordinates"),
    ],
)
def test_keys_of_personal_data(key: str) -> None:
    assert in_key(key)
    assert in_property(key, "x")
    assert in_property(key, 7)


@pytest.mark.parametrize(
    "key",
    [
        *(
            "path",
            "seconds",
            "page_name",
            "button_name",
            "buttonName",
            "name",
            "file_name",
            "token_count",
            "tokenCount",
            "tokens",
        ),
        *("description", "title", "email_count", "emails_sent", "password_strength", "ip_version", "card_title", "help_card"),
        *("download_zip", "capacity", "tooltip", "chip", "equip", "phone_layout", "address_bar", "repository_id", "analysis_id"),
        *("plate", "flat", "latency", "long", "translation", "hotel", "motel", "secretary", "cookie_banner", "mailing_list"),
        *("session_count", "session_seconds", "velocity", "discard", "a", "x1", "A", "http2", "sha", "value", "md5", "text"),
    ],
)
def test_keys_of_other_things(key: str) -> None:
    assert in_key(key) is None
    assert in_property(key, "x") is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ada@example.org", "an e-mail address"),
        ("Ada.Lovelace+news@mail.example.co.uk", "an e-mail address"),
        ("mail to <ada@example.org>, please", "an e-mail address"),
        ("https://ada:secret@example.org/", "an e-mail address"),
        ("ada@пример.рф", "an e-mail address"),
        ("/search?q=ada%40example.org", "an encoded e-mail address"),
        ("192.0.2.17", "an address on the network"),
        ("from 10.0.0.1:443", "an address on the network"),
        ("198.51.100.0/24", "an address on the network"),
        ("2001:db8::8a2e:370:7334", "an address on the network"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "an address on the network"),
        ("[fe80::1ff:fe23]:443", "an address on the network"),
        ("::ffff:192.0.2.1", "an address on the network"),
        ("+49 170 1234567", "a phone number"),
        ("+49 (0) 170 / 12 34 567", "a phone number"),
        ("+491701234567", "a phone number"),
        ("+1 (555) 234-5678", "a phone number"),
        ("call 555-234-5678 now", "a phone number"),
        ("(555) 234-5678", "a phone number"),
        ("0170 / 1234567", "a phone number"),
        ("0170 12 34 567", "a phone number"),
        ("020 7946 0958", "a phone number"),
        ("01 23 45 67 89", "a phone number"),
        ("01701234567", "a phone number"),
        ("00491701234567", "a phone number"),
        ("4111 1111 1111 1111", "the number of a credit card"),
        ("4111111111111111", "the number of a credit card"),
        ("paid with 5500-0000-0000-0004", "the number of a credit card"),
        ("2223003122003222", "the number of a credit card"),
        ("378282246310005", "the number of a credit card"),
        ("30569309025904", "the number of a credit card"),
        ("3530111333300000", "the number of a credit card"),
        ("DE89 3704 0044 0532 0130 00", "an account at a bank"),
        ("DE89370400440532013000", "an account at a bank"),
        ("de89370400440532013000", "an account at a bank"),
        ("my IBAN is GB82 WEST 1234 5698 7654 32, thanks", "an account at a bank"),
        ("BE68 5390 0754 7034 is mine", "an account at a bank"),
        ("NO9386011117947", "an account at a bank"),
        (JWT, "a token"),
        (f"Bearer {JWT}", "a token"),
        (TOKEN, "a secret or a long random token"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "a secret or a long random token"),
        ("fc2369ae3c804f7c82cc51e2b44cd33b", "a secret or a long random token"),
        ("zvK3-Yq2bXo0m9vT8h_5uQwL1sDfGjKl4PzXcVbN6M0", "a secret or a long random token"),
        ("https://ada:secret@[::1]/", "a link with a user's name in it"),
        ("https://ada@localhost/", "a link with a user's name in it"),
        ("/reset?token=abc", "a link with something personal in it"),
        ("/#access_token=abc&x=1", "a link with something personal in it"),
        ("https://example.org/?page=1&userEmail=x", "a link with something personal in it"),
        ("Mozilla/5.0 (X11; Linux x86_64)", "what a browser says of itself"),
    ],
)
def test_texts_that_look_like_personal_data(text: str, what: str) -> None:
    assert in_text(text) == f"This looks like {what}, and nothing personal is stored."
    assert in_property("note", text) == in_text(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a",
            "Analyse",
            "/",
            "/repositories/12",
            "/repositories/<id>",
            "/compare?ids=1,2",
            "/?done=password",
            "page=2&sort=name",
        ),
        *("1.2.3", "v1.2.3", "v1.2.3.4", "1.2.3-beta.4", "120.0.6099.109", "256.1.1.1", "1.2.3.4.5", "Python 3.11.7", "1:2.3-4"),
        *(
            "2026-11-26",
            "26.11.2026",
            "11/26/2026",
            "01/02/2026",
            "2026-11-26T10:30:00.123+01:00",
            "2026-11-26 10:30",
            "10:30:45",
        ),
        *("05/06/2026 10:30", "05.06.2026 10:30:00", "20261126", "20261126103000", "1732592543", "1732592543000", "0800-1830"),
        *(
            "1a2b3c4",
            "deadbeef",
            "1a2b3c4d5e6f",
            "172cc26",
            "12",
            "1000000",
            "1234567890",
            "3.14159265358979",
            "-12.5",
            "1,234,567.89",
        ),
        *(
            "4111111111111112",
            "1234567812345670",
            "9007199254740991",
            "+10",
            "+5 %",
            "100-200",
            "10 000 000",
            "5-4-3",
            "0.000001",
        ),
        *(
            "std::vector",
            "a::b",
            "::before",
            "::1",
            "App::Model",
            "12:30",
            "00:00:00",
            "react@18.2.0",
            "@types/node",
            "me @ home",
            "a@b",
        ),
        *(
            "how-to-keep-an-analysis-of-a-repository-up-to-date-in-2026",
            "app_analytics_catalogue_and_test_2_of_it",
            "c2d3ae05-a8d2-436b-9503-e4ced32170f7",
        ),
        *("DE89 3704 0044 0532 0130 01", "AB12 code word test", "https://example.org/a/b?c=d#e", "x=1", "a=b&token_count=3"),
        *("Largely unreadable but 100 % harmless, is it not?", "Zürich – 日本語 1", "a" * 200, "-" * 200, "1" * 200),
    ],
)
def test_texts_that_do_not(text: str) -> None:
    assert in_text(text) is None


def test_numbers() -> None:
    assert in_property("amount", 4111111111111111)
    assert in_property("amount", 4111111111111111.0)
    assert in_property("at", 1732592543000) is None
    assert in_property("at", -4111111111111111) is None
    assert in_property("ratio", 0.25) is None
    assert in_property("phone", 491701234567)


@pytest.mark.parametrize("key", ["is_mobile", "has_email", "mobile", "cookie"])
def test_true_and_false_tell_nothing(key: str) -> None:
    assert in_property(key, True) is None


def test_names_and_categories() -> None:
    assert in_label("visit of 192.0.2.17")
    assert in_label("call 555-234-5678")
    assert in_label("paid 4111 1111 1111 1111")
    assert in_label("page_viewed") is None
    assert in_label(f"probe-{uuid4().hex}") is None


def test_ids() -> None:
    assert in_id("192.0.2.17")
    assert in_id("2001:db8::8a2e:370:7334")
    assert in_id(JWT[:64])
    for harmless in (str(uuid4()), uuid4().hex, "01JDKX5Q9Z", "4111111111111111", "01701234567", "run-1:instance-2:17", "1.2.3"):
        assert in_id(harmless) is None


HOSTILE = [
    *(
        "a",
        "1",
        "0",
        "4",
        ".",
        ":",
        "@",
        "=",
        "-",
        " ",
        "+",
        "(",
        "%40",
        "a@",
        "@a.",
        "a.a@",
        "x@a-",
        "1 ",
        "0 ",
        "4 ",
        "+1",
        "1.1.",
        "1.",
        "::",
    ),
    *(
        "a:",
        "1:",
        "1::1 ",
        "eyJ",
        "eyJ-",
        "eyJa.",
        "?a=",
        "&a1=1",
        "?a_a-a.",
        "://@",
        "://a",
        "DE89 ",
        "DE89AAAA",
        "a1",
        "a1-",
        "a1_",
    ),
    *("4111-", "4111 ", "(2", "(222) ", "222-222-", "0170 ", "01 ", "+1 (", "00", "12345678", "AB12 AAAA ", "Mozilla", "\u0660"),
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_texts_take_no_longer_than_others(piece: str) -> None:
    for text in ((piece * 200)[:200], "1" + (piece * 200)[:198] + "@", "+" + (piece * 200)[:198] + "!"):
        assert fastest(text) < SLOW_S


def test_a_pattern_that_tries_again_and_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal, "_EMAIL", re.compile(r"(\w+)+@\w+\.\w"))
    assert fastest("a" * 20 + "!@") > SLOW_S


def fastest(text: str) -> float:
    def once() -> float:
        start = time.process_time()
        in_text(text)
        return time.process_time() - start

    return min(once() for _ in range(3))
