"""`make fleet`: starts, supervises and stops nginx, instances, a job worker, Redis and PostgreSQL on one machine."""
