# Main targets: `make run`, `make fleet`, `make test`, `make bench`, `make docs`, `make check`. README.md describes them.

# Several terminals may start on a fresh checkout at once: the first installs, the others wait for it.
lock := $(shell command -v flock >/dev/null && echo flock Makefile)

.PHONY: run fleet test test-full bench docs check requirements clean installed installed-dev installed-docs

run: installed
	@.venv/bin/flask --app wsgi schema upgrade
	@exec .venv/bin/gunicorn --config gunicorn.conf.py wsgi:app

# FLEET_PORT, PORT and INSTANCES: where nginx listens, where the first instance, and how many there are.
fleet: installed
	@exec .venv/bin/python -m deploy.fleet

# make test ARGS="tests/unit -k config"
test: installed-dev
	@scripts/install-test-servers
	@scripts/run-tests $(ARGS)

# All tests with full counts, plus the slow ones. Required before a release.
test-full: export REPORADAR_TEST_FULL = 1
test-full: test

# The measurements of docs/performance.md; takes some minutes. With npm installed, a Node application is measured too. They use the
# distribution's Python, which is optimised; other builds may be slower.
bench: .venv-bench/.installed
	@scripts/install-test-servers
	@.venv-bench/bin/python -m bench

.venv-bench/.installed: requirements-dev.txt
	/usr/bin/python3 -m venv --clear .venv-bench
	.venv-bench/bin/python -m pip --disable-pip-version-check install --quiet --requirement requirements-dev.txt
	touch $@

# The documentation as a searchable site. A link that leads nowhere is an error.
docs: installed-docs
	@.venv/bin/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs . site
	@echo "Open site/docs/index.html"

check: installed-dev
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy

# Keeps the versions that are compiled already, unless asked: make requirements ARGS=--upgrade
requirements: export CUSTOM_COMPILE_COMMAND = make requirements
requirements: compile = .venv/bin/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --strip-extras --allow-unsafe $(ARGS)
requirements: installed-dev
	$(compile) --output-file requirements.txt requirements.in
	$(compile) --output-file requirements-dev.txt requirements-dev.in
	$(compile) --output-file requirements-docs.txt requirements-docs.in

# The data in instance/ stays.
clean:
	rm -rf .venv .venv-bench .mypy_cache .pytest_cache .ruff_cache site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

installed installed-dev installed-docs:
	@$(lock) $(MAKE) --silent .venv/.$@

.venv/.installed: requirements.txt
.venv/.installed-dev: requirements-dev.txt
.venv/.installed-docs: requirements-docs.txt

# pip treats a partly copied package as installed. Therefore .usable is moved away while pip runs: if pip is interrupted, the next run
# creates a new virtualenv. Moving it back keeps its time, so nothing becomes out of date.
.venv/.installed .venv/.installed-dev .venv/.installed-docs: .venv/.usable
	echo "Installing $(filter %.txt,$^) into .venv"
	mv .venv/.usable .venv/.unfinished
	.venv/bin/python -m pip --disable-pip-version-check install --quiet --requirement $(filter %.txt,$^)
	mv .venv/.unfinished .venv/.usable
	touch $@

.venv/.usable:
	python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'Install Python 3.11 or newer with its venv module (Debian: apt-get install python3-venv).' >&2; exit 1; }
	python3 -m venv --clear .venv
	touch $@
