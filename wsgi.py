"""The application, for gunicorn (`wsgi:app`) and for `flask --app wsgi`."""

from app import create_app
from app.core import config, logs
from app.operations.doctor import commands as doctor

try:
    settings = config.from_environment()
except config.ConfigError as error:
    app = doctor.app_for_doctor(error.faults)
else:
    logs.configure(settings.log_format, settings.log_level)
    app = create_app(settings)
