from __future__ import annotations

import pytest
from flask.testing import FlaskClient

ACCOUNT = {"email": "ada@example.org", "password": "correct horse battery"}
OWN, FOREIGN = "http://localhost", "https://evil.example"


@pytest.mark.parametrize(
    ("origin", "status"),
    [(OWN, 201), (f"{OWN},{OWN}", 201), (f"{OWN}, {OWN}", 201), (f"{OWN}, {FOREIGN}", 403), (f"{FOREIGN},{FOREIGN}", 403)],
)
def test_equal_origins_count_as_one(client: FlaskClient, origin: str, status: int) -> None:
    assert client.post("/api/auth/register", json=ACCOUNT, headers={"Origin": origin}).status_code == status


@pytest.mark.parametrize(("site", "status"), [("same-origin,same-origin", 201), ("same-origin,cross-site", 403)])
def test_equal_fetch_sites_count_as_one(client: FlaskClient, site: str, status: int) -> None:
    assert client.post("/api/auth/register", json=ACCOUNT, headers={"Sec-Fetch-Site": site}).status_code == status


@pytest.mark.parametrize(("value", "opted_out"), [("1", True), ("1,1", True), ("1, 1", True), ("0", False), ("11", False)])
def test_repeated_gpc_is_an_opt_out(client: FlaskClient, value: str, opted_out: bool) -> None:
    assert client.get("/api/analytics/opt-out", headers={"Sec-GPC": value}).json["opted_out"] is opted_out  # type: ignore[index]
