"""OpenTelemetry traces. This package is imported only if they are on."""

import sys

if sys.modules.get("opentelemetry") is None:  # see app/__init__.py
    sys.modules.pop("opentelemetry", None)
