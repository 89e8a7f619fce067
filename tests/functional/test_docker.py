"""deploy/docker, as far as it can be tried without Docker: its files are checked, and what they say is done with real servers."""

from __future__ import annotations

import copy
import os
import re
import shutil
import ssl
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import psutil
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from app.core import config
from app.core.config import EX_CONFIG
from harness import web
from harness.containers import (
    DOCKER,
    ComposedNginx,
    ComposedPostgres,
    ComposedRedis,
    Container,
    Image,
    compose,
    container_user,
    open_folder,
    services,
)
from harness.processes import run
from harness.servers import PROGRAMS, ROOT, base_environment, wait_until
from harness.users import PASSWORD

INSTANCES = ["instance-1", "instance-2", "instance-3"]
APPLICATION = [*INSTANCES, "worker", "release"]
OPTIONAL_SECRETS = {"smtp_url", "redis_sentinel_password"}
RENDER = ROOT / "deploy" / "nginx" / "render"

Compose = dict[str, Any]


def hadolint(dockerfile: Path) -> str:
    return run([str(PROGRAMS / "hadolint"), "--no-color", str(dockerfile)], environment=base_environment(), directory=ROOT)


def test_dockerfile_passes_hadolint(tmp_path: Path) -> None:
    assert hadolint(DOCKER / "Dockerfile") == ""
    seeded = (
        (DOCKER / "Dockerfile")
        .read_text()
        .replace('CMD ["gunicorn", "--config", "gunicorn.conf.py", "wsgi:app"]', "CMD gunicorn")
    )
    (tmp_path / "Dockerfile").write_text(seeded)
    with pytest.raises(AssertionError, match="DL3025"):
        hadolint(tmp_path / "Dockerfile")


def test_compose_file_is_valid() -> None:
    schema = jsonschema.Draft202012Validator(get_builtin_schema("vendor.compose-spec"))
    schema.validate(compose())
    seeded = copy.deepcopy(compose())
    seeded["services"]["redis"]["stop_graceperiod"] = "10s"
    with pytest.raises(jsonschema.ValidationError, match="stop_graceperiod"):
        schema.validate(seeded)


def dangling(content: Compose) -> set[str]:
    """Return undefined names, which the JSON schema cannot detect."""
    missing = set()
    for name, service in content["services"].items():
        volumes = [volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith(".")]
        used = {
            "services": service.get("depends_on", {}),
            "networks": service.get("networks", {}),
            "secrets": service.get("secrets", []),
            "volumes": volumes,
        }
        missing |= {f"{name}: {one}" for kind, names in used.items() for one in names if one not in content[kind]}
    return missing


def test_compose_file_uses_only_defined_names() -> None:
    assert dangling(compose()) == set()
    seeded = copy.deepcopy(compose())
    del seeded["secrets"]["redis_url"]
    assert dangling(seeded) == {f"{name}: redis_url" for name in APPLICATION}


def test_only_nginx_is_reachable_from_outside() -> None:
    usual = {name: service for name, service in services().items() if "profiles" not in service}
    assert [name for name, service in usual.items() if "ports" in service or "network_mode" in service] == [
        "certificate",
        "nginx",
    ]
    for name in ("prometheus", "grafana"):
        assert services()[name]["profiles"] == ["monitoring"]
        assert list(services()[name]["networks"]) == ["front"]
        (port,) = services()[name]["ports"]
        assert port.startswith("127.0.0.1:")
    assert services()["certificate"]["network_mode"] == "none"
    assert compose()["networks"]["stores"]["internal"] is True
    for store in ("redis", "postgres"):
        assert list(services()[store]["networks"]) == ["stores"]
    assert "stores" not in services()["nginx"]["networks"]


def test_containers_have_few_privileges() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
    for name in [*APPLICATION, "certificate"]:
        assert services()[name]["cap_drop"] == ["ALL"], name
    assert [name for name, service in services().items() if "user" in service] == ["certificate"]


def test_containers_are_limited() -> None:
    for name, service in services().items():
        assert service["cpus"] == 1, name
        assert service["pids_limit"] <= 512, name
        assert size(service["mem_limit"]) <= size("4g"), name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name
    command = services()["redis"]["command"]
    assert size(command[command.index("--maxmemory") + 1]) * 2 <= size(services()["redis"]["mem_limit"])


def size(text: str) -> int:
    """The number of megabytes of a size such as 512m or 4g."""
    found = re.fullmatch(r"(\d+)([mg])b?", text)
    assert found, text
    return int(found[1]) * {"m": 1, "g": 1024}[found[2]]


def test_services_start_after_their_dependencies() -> None:
    conditions = {
        name: {on: how["condition"] for on, how in service.get("depends_on", {}).items()} for name, service in services().items()
    }
    stores = {"redis": "service_healthy", "postgres": "service_healthy"}
    assert conditions["release"] == stores
    for name in [*INSTANCES, "worker"]:
        assert conditions[name] == stores | {"release": "service_completed_successfully"}
    assert conditions["nginx"] == dict.fromkeys(INSTANCES, "service_healthy") | {"certificate": "service_completed_successfully"}
    for name in ("redis", "postgres", *INSTANCES):
        check = services()[name]["healthcheck"]
        assert "test" in check
        assert "start_interval" not in check  # Compose refuses it with an engine before 25
    for name in ("release", "certificate"):
        assert services()[name]["restart"] == "no"


def test_stop_grace_period_exceeds_shutdown_timeout() -> None:
    for name in [*INSTANCES, "worker"]:
        grace = int(services()[name]["stop_grace_period"].removesuffix("s"))
        assert grace >= int(services()[name]["environment"]["SHUTDOWN_TIMEOUT"]) + 5


def test_secrets_are_only_in_files() -> None:
    for name in APPLICATION:
        environment = services()[name]["environment"]
        for setting in config.SETTINGS:
            if setting.metadata["secret"]:
                assert setting.name.upper() not in environment
            if setting.metadata["secret"] and setting.name not in OPTIONAL_SECRETS:
                secret = environment[f"{setting.name.upper()}_FILE"].removeprefix("/run/secrets/")
                assert secret in services()[name]["secrets"]
    assert "docker/secrets" in (ROOT / ".gitignore").read_text()


def test_instances_have_distinct_names_and_addresses() -> None:
    assert [services()[name]["environment"]["INSTANCE_ID"] for name in INSTANCES] == INSTANCES
    assert len({services()[name]["networks"]["front"]["ipv4_address"] for name in INSTANCES}) == len(INSTANCES)


def test_prometheus_scrapes_every_instance(tmp_path: Path) -> None:
    (job,) = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == "reporadar"
    assert job["static_configs"] == [{"targets": [f"{name}:3000" for name in INSTANCES]}]
    for volume in services()["prometheus"]["volumes"]:
        source, target, *_ = volume.split(":")
        if target.startswith("/etc/prometheus/"):
            shutil.copy(DOCKER / source, tmp_path / Path(target).name)
    run(["promtool", "check", "config", "prometheus.yml"], environment=base_environment(), directory=tmp_path)


def test_monitoring_mounts_existing_files() -> None:
    for name in ("prometheus", "grafana"):
        sources = [volume.split(":")[0] for volume in services()[name]["volumes"] if volume.startswith(".")]
        assert [source for source in sources if not (DOCKER / source).exists()] == []


@pytest.mark.skipif(not RENDER.exists(), reason="nginx.conf is made by deploy/nginx/render")
def test_nginx_configuration_is_up_to_date() -> None:
    certificate = ["--tls-certificate", "/certificate/fullchain.pem", "--tls-key", "/certificate/privkey.pem"]
    command = [str(RENDER), *certificate, *(f"{name}={name}:3000" for name in INSTANCES)]
    assert (DOCKER / "nginx.conf").read_text() == run(command, environment=base_environment(), directory=ROOT)


# The image.


class Stack(NamedTuple):
    image: Image
    secrets: Path
    redis: ComposedRedis
    instances: list[Container]
    worker: Container
    nginx: ComposedNginx
    certificate: Path


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = open_folder()
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(folder: Path) -> Image:
    root = folder / "image"
    root.mkdir()
    image = Image(root)
    if container_user(image.value("USER")) is None:
        pytest.skip("root's virtualenv is in a private folder, which the user of a container could not reach")
    return image


@pytest.fixture(scope="module")
def secrets(folder: Path) -> Path:
    """Create the secrets with the documented command, in a folder that the users of the containers can read."""
    shutil.copy(DOCKER / "make-secrets", folder)
    run([str(folder / "make-secrets")], environment=base_environment(), directory=folder)
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700
    (folder / "secrets").chmod(0o755)
    return folder / "secrets"


@pytest.fixture(scope="module")
def certificate(folder: Path, image: Image) -> Path:
    (folder / "certificate").mkdir()
    make_certificate(image, folder / "certificate")
    return folder / "certificate"


def make_certificate(image: Image, target: Path) -> None:
    program, _, name = services()["certificate"]["command"]
    command = [str(image.root / "usr/local/bin" / program), str(target), re.sub(r"\$\{\w+:-(.*)\}", r"\1", name)]
    run(command, environment=base_environment(), directory=image.folder)


@pytest.fixture(scope="module")
def stack(image: Image, secrets: Path, certificate: Path) -> Iterator[Stack]:
    """All services of compose.yaml, started in the order of their dependencies."""
    with ExitStack() as started:
        redis = started.enter_context(ComposedRedis(secrets))
        postgres = started.enter_context(ComposedPostgres(secrets))
        (secrets / "redis_url").write_text((secrets / "redis_url").read_text().replace("redis:6379", f"127.0.0.1:{redis.port}"))
        (secrets / "database_url").write_text(postgres.create_empty_database())
        places = {"/run/secrets": str(secrets)}
        Container(image, services()["release"], places).run()
        instances = [started.enter_context(Container(image, services()[name], places)) for name in INSTANCES]
        worker = started.enter_context(Container(image, services()["worker"], places))
        addresses = {
            f"server {name}:3000": f"server 127.0.0.1:{one.port}" for name, one in zip(INSTANCES, instances, strict=True)
        }
        nginx = started.enter_context(ComposedNginx({**addresses, '"/certificate/': f'"{certificate}/'}))
        yield Stack(image, secrets, redis, instances, worker, nginx, certificate)


def test_image_contains_only_the_program(image: Image) -> None:
    files = image.files()
    assert {"srv/wsgi.py", "srv/gunicorn.conf.py", "srv/app/__init__.py", "usr/local/bin/healthy"} <= files
    beside = {file for file in files if not file.startswith("srv/app/")}
    assert beside == {"srv/wsgi.py", "srv/gunicorn.conf.py", "usr/local/bin/healthy", "usr/local/bin/certificate"}
    assert not [file for file in files if file.endswith((".pyc", ".env", ".db"))]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "app"]
    own = [file for file in run(command, environment=base_environment(), directory=ROOT).split() if (ROOT / file).exists()]
    assert {f"srv/{file}" for file in own} == {file for file in files if file.startswith("srv/app/")}


def test_image_runs_as_unprivileged_user(image: Image) -> None:
    user, _, group = image.value("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert any(f"useradd --uid {user}" in value for _, value in image.instructions)


def test_secrets_are_created_once(secrets: Path, folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in secrets.iterdir()}
    with pytest.raises(AssertionError, match="exists already"):
        run([str(folder / "make-secrets")], environment=base_environment(), directory=folder)
    assert {file.name: file.read_bytes() for file in secrets.iterdir()} == before
    assert sorted(before) == sorted(compose()["secrets"])
    assert {stat.S_IMODE(file.stat().st_mode) for file in secrets.iterdir()} == {0o644}


def test_certificate_is_created_once(image: Image, certificate: Path) -> None:
    before = (certificate / "fullchain.pem").read_bytes()
    make_certificate(image, certificate)
    assert (certificate / "fullchain.pem").read_bytes() == before
    assert stat.S_IMODE((certificate / "privkey.pem").stat().st_mode) == 0o600
    assert sorted(path.name for path in certificate.iterdir()) == ["fullchain.pem", "privkey.pem"]


def test_composed_fleet_serves_sign_in_over_https(stack: Stack) -> None:
    trusted = ssl.create_default_context(cafile=stack.certificate / "fullchain.pem")
    with web.client(base_url=stack.nginx.url, verify=trusted) as client:
        answer = client.post("/api/auth/register", json={"email": "ada@example.org", "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        assert "__Host-session" in client.cookies
        answering = {client.get("/api/auth/me").raise_for_status().headers["X-Instance-Id"] for _ in range(30)}
        assert answering == set(INSTANCES)
        assert client.get("/metrics").status_code == 404
    plain = web.get(f"http://127.0.0.1:{stack.nginx.plain_port}/login?next=%2F", headers={"Host": "localhost"})
    assert (plain.status_code, plain.headers["Location"]) == (308, "https://localhost/login?next=%2F")
    wait_until(lambda: "Worker waiting for jobs" in stack.worker.log(), what="the worker")


@pytest.fixture
def own_deploy(tmp_path: Path) -> Path:
    """A copy of deploy/docker and what it uses, with a `docker` beside it that only writes down how it is called."""
    for name in ("docker", "nginx"):
        shutil.copytree(ROOT / "deploy" / name, tmp_path / name, ignore=shutil.ignore_patterns("secrets*"))
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "docker"
    fake.write_text('#!/bin/sh\necho "$@" >> "${0%/*}/calls"\ncase "$*" in *" up "*) exit "${FAILURE:-0}";; esac\n')
    fake.chmod(0o755)
    return tmp_path


def add_instance(deploy: Path, **variables: str) -> list[str]:
    environment = base_environment() | variables
    environment["PATH"] = f"{deploy / 'bin'}:{environment['PATH']}"
    try:
        run([str(deploy / "docker" / "add-instance")], environment=environment, directory=deploy)
    finally:
        calls = (deploy / "bin" / "calls").read_text().splitlines()
    return [call.removeprefix(f"compose --file {deploy}/docker/compose.yaml ") for call in calls]


def test_one_command_adds_an_instance(own_deploy: Path) -> None:
    inode = (own_deploy / "docker" / "nginx.conf").stat().st_ino
    for number in (4, 5):
        (own_deploy / "bin" / "calls").unlink(missing_ok=True)
        start, check, reload = add_instance(own_deploy)
        assert start == f"up --detach --no-deps --wait instance-{number}"
        assert check.startswith("exec nginx nginx ")
        assert reload == "kill --signal HUP nginx"
    names = [f"instance-{number}" for number in range(1, 6)]
    content = yaml.safe_load((own_deploy / "docker" / "compose.yaml").read_text())
    jsonschema.Draft202012Validator(get_builtin_schema("vendor.compose-spec")).validate(content)
    found = content["services"]
    assert [name for name in found if name.startswith("instance-")] == names
    assert [found[name]["environment"]["INSTANCE_ID"] for name in names] == names
    assert len({found[name]["networks"]["front"]["ipv4_address"] for name in names}) == len(names)
    assert set(names) < set(found["nginx"]["depends_on"])
    (job,) = yaml.safe_load((own_deploy / "docker" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{name}:3000" for name in names]}]
    assert (own_deploy / "docker" / "nginx.conf").stat().st_ino == inode  # which is mounted into the container
    assert (own_deploy / "docker" / "nginx.conf").read_text().count("server instance-5:3000") == 4  # three groups and its own


def test_an_instance_that_does_not_start_changes_nothing(own_deploy: Path) -> None:
    files = [own_deploy / "docker" / name for name in ("compose.yaml", "nginx.conf", "prometheus.yml")]
    before = [file.read_text() for file in files]
    with pytest.raises(AssertionError, match="instance-4 did not become ready; nothing was changed"):
        add_instance(own_deploy, FAILURE="1")
    assert [file.read_text() for file in files] == before
    assert "kill" not in (own_deploy / "bin" / "calls").read_text()


def test_no_request_fails_while_an_instance_is_added(stack: Stack, own_deploy: Path) -> None:
    add_instance(own_deploy)
    service = yaml.safe_load((own_deploy / "docker" / "compose.yaml").read_text())["services"]["instance-4"]
    trusted = ssl.create_default_context(cafile=stack.certificate / "fullchain.pem")
    answering: list[str] = []
    with (
        Container(stack.image, service, {"/run/secrets": str(stack.secrets)}) as added,
        web.client(base_url=stack.nginx.url, verify=trusted) as client,
    ):
        configuration = (own_deploy / "docker" / "nginx.conf").read_text()
        stack.nginx.reload(configuration, {"server instance-4:3000": f"server 127.0.0.1:{added.port}"})

        def serves_the_new_instance() -> bool:
            answering.append(client.get("/health/live").raise_for_status().headers["X-Instance-Id"])
            return "instance-4" in answering

        wait_until(serves_the_new_instance, what="the new instance to answer")
        stack.nginx.reload((DOCKER / "nginx.conf").read_text())
        wait_until(lambda: "instance-4" not in {client.get("/health/live").headers["X-Instance-Id"] for _ in range(10)})


def test_redis_persists_its_data(stack: Stack) -> None:
    with stack.redis.client() as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert int(client.config_get("maxmemory")["maxmemory"]) == 512 * 1024 * 1024
    command = services()["redis"]["healthcheck"]["test"][1].replace("$$", "$").replace("/run/secrets", str(stack.secrets))
    command = command.replace("redis-cli", f"redis-cli -p {stack.redis.port}")
    run(["sh", "-c", command], environment=base_environment(), directory=ROOT)
    wrong = command.replace("-f 2", "-f 1")
    with pytest.raises(AssertionError, match="status 1"):
        run(["sh", "-c", wrong], environment=base_environment(), directory=ROOT)


def test_health_check_uses_a_program_of_the_image(stack: Stack) -> None:
    instance = stack.instances[0]
    assert '"pass"' in instance.check_health()
    stopped = Container(stack.image, instance.service, {})
    with pytest.raises(AssertionError, match="Connection refused"):
        stopped.check_health()
    stopped.close()


def test_container_stops_gracefully_and_writes_no_file(stack: Stack) -> None:
    before = stack.image.files()
    instance = stack.instances[2]
    assert psutil.Process(instance.pid).uids().real != 0 or os.geteuid() != 0
    assert instance.stop() == 0
    assert re.search(r"\[instance-3\] stopped", instance.log())
    instance.start()
    assert stack.image.files() == before


def test_image_refuses_to_store_data_inside_the_container(image: Image) -> None:
    alone = Container(image, {"environment": {}}, {})
    alone.start(wait_ready=False)
    assert alone.wait() == EX_CONFIG
    assert "DATABASE_URL: its folder can't be created" in alone.log()
    alone.close()
