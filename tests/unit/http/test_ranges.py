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
