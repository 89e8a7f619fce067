import pytest

from app.analytics.pii import find_in_name, find_in_property


@pytest.mark.parametrize(
    "name",
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
def test_name_of_personal_data_is_found(name: str) -> None:
    assert find_in_name(name)
    assert find_in_property(name, "x")
    assert find_in_property(name, 7)


@pytest.mark.parametrize(
    "name",
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
def test_other_name_is_accepted(name: str) -> None:
    assert find_in_name(name) is None
    assert find_in_property(name, "x") is None


@pytest.mark.parametrize("name", ["is_mobile", "has_email", "mobile", "cookie"])
def test_boolean_is_accepted_under_any_name(name: str) -> None:
    assert find_in_property(name, True) is None


def test_values_are_not_judged() -> None:
    assert find_in_property("note", "ada@example.org") is None


def test_reason_names_the_kind_of_data() -> None:
    reason = "This name stands for an e-mail address. Personal data is not accepted: remove the property."
    assert find_in_name("userEmail") == reason
