"""The application, for gunicorn (`wsgi:app`) and for `flask --app wsgi`."""

import sys

from app import create_app
from app.core import config, logs
from app.repositories import commands as analysis

if analysis.is_requested(sys.argv[1:]):
    app = analysis.app_with_command()
else:
    try:
        settings = config.from_environment()
    except config.ConfigError as error:
        from app.operations.doctor import commands as doctor

        app = doctor.app_for_doctor(error.faults)
    else:
        logs.configure(settings.log_format, settings.log_level)
        app = create_app(settings)
