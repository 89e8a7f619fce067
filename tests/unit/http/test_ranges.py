from __future__ import annotations

import pytest
from flask.testing import FlaskClient

PATH = "/static/live.js"


def get(client: FlaskClient, header: str | None = None) -> tuple[int, bytes]:
    with client.get(PATH, environ_overrides={"HTTP_RANGE": header} if header else {}) as response:
        return response.status_code, response.data


@pytest.mark.parametrize(
    "header", ["lines=1-2", "bytes=0-1,5-6", "bytes=5-2", "bytes=a-b", "bytes=", "bytes", "bytes=-", "bytes=1-2-3", "bytes=\xb2-"]
)
def test_unsupported_range_is_ignored(client: FlaskClient, header: str) -> None:
    assert get(client, header) == get(client)
    assert get(client)[0] == 200


@pytest.mark.parametrize(
    ("header", "part"), [("bytes=0-1", slice(0, 2)), ("Bytes=5-", slice(5, None)), ("bytes=-3", slice(-3, None))]
)
def test_single_range_is_answered(client: FlaskClient, header: str, part: slice) -> None:
    assert get(client, header) == (206, get(client)[1][part])


def test_range_beyond_the_end_is_416(client: FlaskClient) -> None:
    assert get(client, "bytes=99999999-")[0] == 416


@pytest.mark.parametrize("header", ["HTTP_IF_MODIFIED_SINCE", "HTTP_IF_RANGE"])
@pytest.mark.parametrize("year", ["99999999999", "9" * 5000, "0", "-1"])
def test_impossible_date_is_ignored(client: FlaskClient, header: str, year: str) -> None:
    environ = {"HTTP_RANGE": "bytes=0-1", header: f"Mon, 01 Jan {year} 00:00:00 GMT"}
    with client.get(PATH, environ_overrides=environ) as response:
        assert response.status_code in (200, 206)
