"""How the test run distributes tests to its processes."""

from __future__ import annotations

import pytest

from tests.conftest import group_of


@pytest.mark.parametrize(
    ("test", "group"),
    [
        (
            "tests/functional/test_doctor.py::test_missing_schema_is_found",
            "tests/functional/test_doctor.py",
        ),  # has a module's fleet
        ("tests/unit/test_conftest.py::test_a[x::y]", "tests/unit/test_conftest.py::test_a[x::y]"),
    ],
)
def test_tests_that_share_the_servers_of_a_module_run_in_one_process(test: str, group: str) -> None:
    assert group_of(test) == group
