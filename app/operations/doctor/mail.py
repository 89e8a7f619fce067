"""The mail server: whether it can be reached and accepts the user and the password of SMTP_URL."""

from collections.abc import Iterator

from app.core.config import Config
from app.core.mail import MailError, create_mailer
from app.operations.doctor.findings import Finding, fail, ok


def examine(config: Config) -> Iterator[Finding]:
    mailer = create_mailer(config)
    if mailer is None:
        return
    try:
        mailer.check()
    except MailError as error:
        yield fail(f"mail: {error}: {mailer.server}", "Correct SMTP_URL, or allow this machine to connect to the mail server")
    else:
        yield ok(f"mail: the mail server accepts connections: {mailer.server}")
