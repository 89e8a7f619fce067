"""The paths that load balancers, orchestrators and Prometheus request: they are served when others are not."""

PATHS = ("/health", "/metrics")


def is_monitoring(path: str) -> bool:
    return path in PATHS or path.startswith("/health/")
