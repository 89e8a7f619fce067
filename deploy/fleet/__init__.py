"""`make fleet`: nginx, instances, a job worker, Redis and PostgreSQL on one machine, started, watched and stopped together."""
