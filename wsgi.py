"""The application, for gunicorn (`wsgi:app`) and for `flask --app wsgi`."""

from app import config, create_app, logs

settings = config.from_environment_or_exit()
logs.configure(settings.log_format, settings.log_level)
app = create_app(settings)
