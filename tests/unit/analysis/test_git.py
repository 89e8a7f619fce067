import pytest

from app.analysis import git

CAUSE = "remote: fatal: unable to read 0cfbf088"
CONSEQUENCE = "error: git upload-pack: git-pack-objects died with error."


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([CAUSE, CONSEQUENCE], "fatal: unable to read 0cfbf088"),
        ([CONSEQUENCE, "remote: Counting objects:  11% (1/9)        ", CAUSE], "fatal: unable to read 0cfbf088"),
        (["Cloning into 'x'...", "fatal: first", "fatal: second"], "fatal: first"),
        (["warning: odd"], "warning: odd"),
        ([], ""),
    ],
)
def test_reason_is_the_cause_in_whatever_order_the_two_sides_report(lines: list[str], expected: str) -> None:
    assert git.reason("\n".join(lines)) == expected
