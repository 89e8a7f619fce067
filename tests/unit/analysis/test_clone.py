"""Clones with real git, over https on loopback and from local repositories."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha1
from ipaddress import ip_address, ip_network
from pathlib import Path

import psutil
import pytest

from app.analysis import clone, remote, report
from app.analysis.address import Address, parse
from app.analysis.failures import AnalysisError
from app.analysis.git import GitRepository
from harness import git_server
from harness.git_server import HOST, GitServer, create_repository, git
from harness.repositories import NOW, Commit, Tag, ago, build
from harness.scale import count

LOOPBACK = [ip_network("127.0.0.0/8")]
MEGABYTE = 1024**2

Fetch = Callable[[str], GitRepository]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    """Start a server with a trusted certificate. Its name resolves in this process, but not in git."""
    (tmp_path / "served").mkdir()
    with GitServer(tmp_path / "served", tmp_path) as server:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(server.authority))
        resolve(monkeypatch, "127.0.0.1")
        yield server


def resolve(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    """Resolve the name of the test server to these addresses, one after the other, and then to the last one."""
    remaining = list(answers)
    original = socket.getaddrinfo

    def getaddrinfo(host: str, *args: object, **options: object) -> object:
        host = (remaining.pop(0) if len(remaining) > 1 else remaining[0]) if host.endswith(HOST) else host
        return original(host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    def fetch(url: str) -> GitRepository:
        return fetch_from(parse(url, [tmp_path]), tmp_path)

    return fetch


def fetch_from(address: Address, tmp_path: Path, max_bytes: int = 64 * MEGABYTE) -> GitRepository:
    folder = tmp_path / "scratch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return clone.fetch(address, folder, LOOPBACK, max_bytes, lambda *_: None)


def visible(repository: GitRepository | Path) -> dict[str, str]:
    """Return everything that an analysis can see."""
    path = repository.path if isinstance(repository, GitRepository) else repository
    head = subprocess.run(["git", "rev-parse", "--verify", "-q", "HEAD"], cwd=path, capture_output=True, check=False)
    found = {"HEAD": head.stdout.decode(), "tags": git(path, "tag"), "format": git(path, "rev-parse", "--show-object-format")}
    if head.stdout:
        found["history"] = git(path, "log", "--format=%H %cI %s", "HEAD")
        found["tree"] = git(path, "ls-tree", "-r", "HEAD")
    return found


def plain(path: Path) -> None:
    create_repository(path, commits=3)
    git(path, "tag", "v1", "main~1")
    git(path, "tag", "-a", "-m", "second", "v2", "main")
    git(path, "tag", "of-a-tree", "main^{tree}")
    git(path, "branch", "other", "main~2")


def sha256(path: Path) -> None:
    create_repository(path, "--object-format=sha256", commits=2)


def empty(path: Path) -> None:
    create_repository(path, commits=0)


def detached(path: Path) -> None:
    plain(path)
    lost = git(path, "commit-tree", "-m", "on no branch", "-p", "main", "main^{tree}").strip()
    git(path, "update-ref", "--no-deref", "HEAD", lost)


def headless(path: Path) -> None:
    plain(path)
    git(path, "symbolic-ref", "HEAD", "refs/heads/missing")


def tag_outside_of_branches(path: Path) -> None:
    plain(path)
    lost = git(path, "commit-tree", "-m", "on no branch", "-p", "main", "main^{tree}").strip()
    git(path, "tag", "lost", lost)
    git(path, "update-ref", "refs/pull/1/head", lost)


def head_elsewhere(path: Path) -> None:
    plain(path)
    git(path, "symbolic-ref", "HEAD", "refs/heads/other")


def with_outdated_file_modes(path: Path) -> None:
    """File modes with a leading zero, which `git fsck` rejects."""
    plain(path)
    blob = git(path, "hash-object", "-w", "--stdin", input="x").strip()
    tree = (
        b"100664 file\0" + bytes.fromhex(blob) + b"040000 folder\0" + bytes.fromhex(git(path, "rev-parse", "main^{tree}").strip())
    )
    name = git(path, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", input=tree).strip()
    git(path, "update-ref", "refs/heads/main", git(path, "commit-tree", "-m", "old", name).strip())


SHAPES = [plain, sha256, empty, detached, headless, tag_outside_of_branches, head_elsewhere, with_outdated_file_modes]


@pytest.mark.parametrize("shape", SHAPES)
def test_clone_equals_the_remote_repository(shape: Callable[[Path], None], server: GitServer, fetch: Fetch) -> None:
    shape(server.folder / "it.git")
    git(server.folder / "it.git", "config", "uploadpack.allowFilter", "true")
    repository = fetch(server.url("it.git"))
    found = visible(repository)
    assert found == visible(server.folder / "it.git")
    assert "tree" not in found or not missing(repository, "HEAD")


@pytest.mark.parametrize("shape", [plain, empty, detached, head_elsewhere, headless])
def test_clone_over_protocol_version_0(shape: Callable[[Path], None], server: GitServer, fetch: Fetch) -> None:
    shape(server.folder / "it.git")
    if shape is headless:
        git(server.folder / "it.git", "branch", "master", "main")
    git(server.folder / "it.git", "config", "uploadpack.allowFilter", "true")
    server.answers["/it"] = git_server.as_of_old
    assert visible(fetch(server.url("it.git"))) == visible(server.folder / "it.git")


@pytest.mark.parametrize("shape", SHAPES)
def test_clone_equals_the_local_repository(shape: Callable[[Path], None], fetch: Fetch, tmp_path: Path) -> None:
    shape(tmp_path / "it.git")
    assert visible(fetch(f"{tmp_path}/it.git")) == visible(tmp_path / "it.git")


def test_work_tree_is_read_without_hard_links(fetch: Fetch, tmp_path: Path) -> None:
    create_repository(tmp_path / "it.git", commits=2)
    git(tmp_path, "clone", "--quiet", "it.git", "tree")
    repository = fetch(f"{tmp_path}/tree")
    assert visible(repository) == visible(tmp_path / "tree")
    files = [file for file in repository.path.rglob("*") if file.is_file()]
    assert [file for file in files if file.stat().st_nlink != 1] == []
    assert not (repository.path / "hooks").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change owners")
def test_local_repository_may_belong_to_another_user(fetch: Fetch, tmp_path: Path) -> None:
    path = create_repository(tmp_path / "it.git")
    before = visible(path)
    for file in [path, *path.rglob("*")]:
        os.chown(file, 12345, 12345)
    assert visible(fetch(str(path))) == before


def test_thousands_of_refs(server: GitServer, fetch: Fetch) -> None:
    path = create_repository(server.folder / "it.git")
    head = git(path, "rev-parse", "main").strip()
    with (path / "packed-refs").open("a") as refs:
        refs.writelines(f"{head} refs/tags/v{number:05}\n" for number in range(5_000))
        refs.writelines(f"{head} refs/heads/branch-{number:05}\n" for number in range(5_000))
    repository = fetch(server.url("it"))
    assert git(repository.path, "tag").splitlines() == [f"v{number:05}" for number in range(5_000)]


def test_progress_never_decreases(server: GitServer, tmp_path: Path) -> None:
    create_repository(server.folder / "it.git", commits=50)
    reported: list[tuple[float, str]] = []
    (tmp_path / "scratch").mkdir()
    address = parse(server.url("it"), roots=())
    clone.fetch(address, tmp_path / "scratch", LOOPBACK, MEGABYTE, lambda fraction, step: reported.append((fraction, step)))
    assert reported[0] == (0, "Connecting")
    assert reported[-1] == (1, "Fetched")
    assert "Receiving objects" in {step for _, step in reported}
    assert [fraction for fraction, _ in reported] == sorted(fraction for fraction, _ in reported)


# What is received.


@pytest.fixture
def filtering(server: GitServer) -> Path:
    """A repository on a server with filters. Each commit replaces two files, with contents that can't be compressed."""
    commits = [
        Commit(ago(400 - 10 * number), files={b"a.py": os.urandom(20_000), b"docs/b.md": os.urandom(20_000)})
        for number in range(20)
    ]
    mailmap = b"Grace Hopper <grace@example.org> <ada@example.org>\n"
    tags = [Tag("v1.0", 10), Tag("v2.0", 19, at=ago(200))]
    path = build(server.folder / "it.git", [*commits, Commit(ago(100), files={b".mailmap": mailmap})], tags)
    git(path, "config", "uploadpack.allowFilter", "true")
    return path


def test_of_the_files_only_those_at_head_are_fetched(filtering: Path, server: GitServer, fetch: Fetch) -> None:
    received = []

    def count_bytes(handler: git_server.Handler) -> None:
        git_server.serve(handler)
        received.append(handler.sent_bytes)

    server.answers["/it"] = count_bytes
    repository = fetch(server.url("it"))
    asked = [request.split("?")[0] for request in server.requests]
    assert asked == ["GET /it/info/refs"] * 2 + ["POST /it/git-upload-pack"] * 2 + [
        "GET /it/info/refs",
        "POST /it/git-upload-pack",
    ]
    assert sum(received) < clone.disk_usage_bytes(filtering) / 2
    assert not missing(repository, "HEAD")
    assert missing(repository, "HEAD~5") == {"a.py", "docs/b.md"}  # control: they would be missing without the second fetch
    assert b"remote" not in repository.output("config", "--list")
    assert repository.output("shortlog", "-sne", "HEAD") == b"    21\tGrace Hopper <grace@example.org>\n"


def missing(repository: GitRepository, commit: str) -> set[str]:
    """Return the paths whose contents are not there."""
    entries = repository.output("ls-tree", "-r", commit).decode().splitlines()
    names = [line.split()[2] for line in entries]
    checked = repository.records("cat-file", "--batch-check", end=b"\n", input=(f"{name}\n".encode() for name in names))
    return {line.split("\t")[1] for line, found in zip(entries, checked, strict=True) if found.endswith(b"missing")}


@pytest.mark.parametrize("until", [None, datetime.fromtimestamp(ago(240), UTC)])
def test_report_without_old_files_is_the_same(until: datetime | None, filtering: Path, server: GitServer, tmp_path: Path) -> None:
    reports = []
    for number, url in enumerate([server.url("it"), str(filtering)]):
        folder = tmp_path / f"scratch-{number}"
        folder.mkdir()
        address = parse(url, [tmp_path])
        repository = clone.fetch(address, folder, LOOPBACK, 64 * MEGABYTE, lambda *_: None, until)
        reports.append(report.build(repository, until or NOW, lambda *_: None))
    assert reports[0] == reports[1]
    assert (reports[0]["commits"], reports[0]["releases"]["latest"]) == ((17, "v1.0") if until else (21, "v2.0"))


def test_server_that_sends_no_single_commit_is_asked_for_everything(filtering: Path, server: GitServer, tmp_path: Path) -> None:
    """In version 0 of the protocol, a server with filters need not send a commit that is no branch or tag."""
    server.answers["/it"] = git_server.as_of_old
    (tmp_path / "scratch").mkdir()
    until = datetime.fromtimestamp(ago(240), UTC)
    address = parse(server.url("it"), roots=())
    repository = clone.fetch(address, tmp_path / "scratch", LOOPBACK, 64 * MEGABYTE, lambda *_: None, until)
    assert repository.output("rev-list", "--count", "HEAD") == b"17\n"
    assert missing(repository, "HEAD") == missing(repository, "HEAD~5") == set()


def test_failure_of_the_second_fetch_is_a_failure(filtering: Path, server: GitServer, fetch: Fetch) -> None:
    """A full clone could exceed the size limit, which would be an error for good."""

    def fail_at_the_files(handler: git_server.Handler) -> None:
        if len(server.requests) == 6:
            return handler.reply(503)
        return git_server.serve(handler)

    server.answers["/it"] = fail_at_the_files
    assert message_of(fetch, server.url("it")) == "The repository could not be fetched: git failed."
    assert len(server.requests) == 6


def test_very_many_files(server: GitServer, fetch: Fetch) -> None:
    number = count(2_000, 100_000)
    path = build(server.folder / "it.git", [Commit(1, files={b"%d/%d" % (n % 300, n): b"%d" % n for n in range(number)})])
    git(path, "config", "uploadpack.allowFilter", "true")
    repository = fetch(server.url("it"))
    assert len(server.requests) == 4 + 2
    assert not missing(repository, "HEAD")
    assert sorted(path.name for path in repository.path.parent.iterdir()) == ["gitconfig", "repository"]


def test_files_at_head_are_limited_in_size(filtering: Path, server: GitServer, tmp_path: Path) -> None:
    git(filtering, "config", "core.compression", "0")
    blob = git(filtering, "hash-object", "-w", "--stdin", input=os.urandom(8 * MEGABYTE)).strip()
    tree = git(filtering, "mktree", input=f"100644 blob {blob}\tlarge\n").strip()
    git(filtering, "update-ref", "HEAD", git(filtering, "commit-tree", "-m", "large", tree).strip())
    with pytest.raises(AnalysisError, match=r"^The repository is larger than 4 MB\.$"):
        fetch_from(parse(server.url("it"), roots=()), tmp_path, max_bytes=4 * MEGABYTE)
    assert len(server.requests) == 6  # the history was received


# Which servers are contacted.


def test_git_connects_to_the_checked_ip_address(server: GitServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    create_repository(server.folder / "it.git")
    fetch(server.url("it"))
    asked = [request.split("?")[0] for request in server.requests]
    assert asked == ["GET /it/info/refs"] * 2 + ["POST /it/git-upload-pack"] * 2

    monkeypatch.setattr(clone, "pin", lambda *_: {})  # control: git has to resolve the name, which does not exist
    assert message_of(fetch, server.url("it")) == "The repository could not be fetched: git failed."


def test_name_that_resolves_to_a_private_network_later_is_refused(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_repository(server.folder / "it.git")
    resolve(monkeypatch, "127.0.0.1", "192.168.0.1")
    repository = fetch_from(parse(server.url("it"), roots=()), tmp_path)
    assert visible(repository) == visible(server.folder / "it.git")

    resolve(monkeypatch, "127.0.0.1", "192.168.0.1")
    with pytest.raises(AnalysisError, match="private network") as caught:
        fetch_from(parse(server.url("redirect/1/it"), roots=()), tmp_path)
    assert caught.value.permanent


@pytest.mark.parametrize(
    ("url", "ips", "options"),
    [
        ("https://git.example/a", ["1.1.1.1"], {"http.curloptResolve": "git.example:443:1.1.1.1"}),
        ("https://git.example:8443/a", ["1.1.1.1", "::1"], {"http.curloptResolve": "git.example:8443:1.1.1.1,[::1]"}),
        ("https://1.1.1.1/a", ["1.1.1.1"], {}),
        ("https://[2606:4700::1111]/a", ["2606:4700::1111"], {}),
    ],
)
def test_pinned_addresses(url: str, ips: list[str], options: dict[str, str]) -> None:
    assert clone.pin(parse(url, roots=()), [ip_address(ip) for ip in ips]) == options


def test_literal_ip_address(server: GitServer, fetch: Fetch) -> None:
    create_repository(server.folder / "it.git")
    assert visible(fetch(server.url("it", host="127.0.0.1"))) == visible(server.folder / "it.git")


def test_at_most_five_redirects_are_followed(server: GitServer, fetch: Fetch) -> None:
    create_repository(server.folder / "it.git")
    assert visible(fetch(server.url("redirect/5/it"))) == visible(server.folder / "it.git")
    assert message_of(fetch, server.url("redirect/6/it")) == "This address has too many redirects."


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://git.example/it" + git_server.SERVICE, "redirects to one that is not a repository"),
        ("https://user:secret@git.example/it" + git_server.SERVICE, "redirects to one that is not a repository"),
        ("file:///etc" + git_server.SERVICE, "redirects to one that is not a repository"),
        ("/log-in?return_to=it", "redirects to one that is not a repository"),
        ("https://[", "redirects to one that is not a repository"),
        ("https://192.168.0.1/it" + git_server.SERVICE, "private network"),
        ("https://[::1]/it" + git_server.SERVICE, "private network"),
        ("//169.254.169.254/it" + git_server.SERVICE, "private network"),
    ],
)
def test_forbidden_redirect_is_refused(location: str, reason: str, server: GitServer, fetch: Fetch) -> None:
    server.answers["/it"] = git_server.redirect(302, location)
    assert reason in message_of(fetch, server.url("it"))
    assert len(server.requests) == 1


def test_git_does_not_follow_redirects(server: GitServer, fetch: Fetch) -> None:
    """The server answers differently to our own request and to that of git."""
    create_repository(server.folder / "it.git")

    def redirect_git(handler: git_server.Handler) -> None:
        server.answers["/it"] = git_server.redirect(302, server.url("other") + git_server.SERVICE)
        handler.reply(200, Content_Type=git_server.ADVERTISEMENT)

    server.answers["/it"] = redirect_git
    message_of(fetch, server.url("it"))
    assert len(server.requests) == 2
    assert not any("other" in request for request in server.requests)


def test_git_does_not_follow_http_alternates(server: GitServer, fetch: Fetch) -> None:
    refs = b"1" * 40 + b"\trefs/heads/main\n"
    alternate = server.url("elsewhere/objects").encode()

    def plain_files(handler: git_server.Handler) -> None:
        path = handler.path.partition("?")[0]
        if len(server.requests) == 1:
            return handler.reply(200, Content_Type=git_server.ADVERTISEMENT)
        files = {"/it/info/refs": refs, "/it/HEAD": b"ref: refs/heads/main\n", "/it/objects/info/http-alternates": alternate}
        return handler.reply(200 if path in files else 404, files.get(path, b""), Content_Type="text/plain")

    server.answers["/it"] = plain_files
    message_of(fetch, server.url("it"))
    assert "GET /it/info/refs?service=git-upload-pack" in server.requests[1]
    assert not any("elsewhere" in request for request in server.requests)


# Error messages.


@pytest.mark.parametrize(
    ("status", "message", "permanent"),
    [
        (401, "There is no public repository at this address.", True),
        (403, "There is no public repository at this address.", True),
        (404, "There is no public repository at this address.", True),
        (200, "There is no git repository at this address.", True),
        (400, "The server responded with an error (400).", True),
        (429, "The server responded with an error (429).", False),
        (503, "The server responded with an error (503).", False),
    ],
)
def test_responses_of_other_servers(status: int, message: str, permanent: bool, server: GitServer, tmp_path: Path) -> None:
    server.answers["/it"] = git_server.error(status)
    with pytest.raises(AnalysisError) as caught:
        fetch_from(parse(server.url("it"), roots=()), tmp_path)
    assert (str(caught.value), caught.value.permanent) == (message, permanent)


def test_untrusted_certificate(server: GitServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_SSL_CAINFO")
    assert message_of(fetch, server.url("it")) == "The certificate of the server is not valid."
    assert server.requests == []


def test_certificate_for_another_name(server: GitServer, fetch: Fetch) -> None:
    assert message_of(fetch, server.url("it", host=f"other.{HOST}")) == "The certificate of the server is not valid."


def test_unknown_host_name(fetch: Fetch) -> None:
    assert message_of(fetch, f"https://{HOST}/it") == f"The host name {HOST} can't be resolved."


def test_closed_port(fetch: Fetch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert message_of(fetch, f"https://127.0.0.1:{port}/it") == "The server can't be reached or is not a web server."


@pytest.mark.parametrize("answer", [git_server.hang, git_server.trickle])
def test_slow_server_times_out(
    answer: git_server.Answer, server: GitServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RESPONSE_TIMEOUT_SECONDS", 0.3)
    server.answers["/it"] = answer
    assert message_of(fetch, server.url("it")) == "The server is too slow."


def test_endless_list_of_refs_exceeds_the_memory_limit(server: GitServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone, "MAX_MEMORY_BYTES", 64 * MEGABYTE)
    server.answers["/it"] = git_server.endless
    assert message_of(fetch, server.url("it")) == "Fetching this repository exceeded the memory limit."
    assert len(server.requests) == 2
    assert [process.name() for process in psutil.Process().children(recursive=True) if "git" in process.name()] == []


# Size.


def test_fetch_stops_when_the_size_limit_is_exceeded(server: GitServer, tmp_path: Path) -> None:
    path = create_repository(server.folder / "it.git")
    git(path, "config", "core.compression", "0")  # it would only take time
    blob = git(path, "hash-object", "-w", "--stdin", input=os.urandom(24 * MEGABYTE)).strip()
    git(path, "tag", "large", blob)
    address = parse(server.url("it"), roots=())
    with pytest.raises(AnalysisError, match=r"^The repository is larger than 4 MB\.$") as caught:
        fetch_from(address, tmp_path, max_bytes=4 * MEGABYTE)
    assert caught.value.permanent
    assert [process.name() for process in psutil.Process().children(recursive=True) if "git" in process.name()] == []
    assert git(fetch_from(address, tmp_path).path, "cat-file", "-s", blob) == f"{24 * MEGABYTE}\n"


def test_large_blob_is_not_held_in_memory(server: GitServer, fetch: Fetch) -> None:
    """Zeros take few bytes on the wire, and are hashed while they arrive."""
    size = count(100, 300) * MEGABYTE
    path = create_repository(server.folder / "it.git")
    blob = pack_into(path, [zeros(size)])[0]
    git(path, "tag", "large", blob)
    repository = fetch(server.url("it"))
    assert git(repository.path, "cat-file", "-s", blob) == f"{size}\n"
    assert clone.disk_usage_bytes(repository.path) < 4 * MEGABYTE


def zeros(size: int) -> tuple[str, bytes]:
    """Return the object ID and the packed form of a blob of zeros."""
    name = sha1(b"blob %d\0" % size, usedforsecurity=False)
    deflate = zlib.compressobj(1)
    packed = _entry_header(3, size)
    for _ in range(size // MEGABYTE):
        name.update(bytes(MEGABYTE))
        packed += deflate.compress(bytes(MEGABYTE))
    return name.hexdigest(), packed + deflate.flush()


def _entry_header(kind: int, size: int) -> bytes:
    byte, size = kind << 4 | size & 15, size >> 4
    header = b""
    while size:
        header += bytes([byte | 0x80])
        byte, size = size & 0x7F, size >> 7
    return header + bytes([byte])


def pack_into(path: Path, entries: list[tuple[str, bytes]]) -> list[str]:
    pack = b"PACK" + struct.pack(">II", 2, len(entries)) + b"".join(packed for _, packed in entries)
    git(path, "index-pack", "--stdin", input=pack + sha1(pack, usedforsecurity=False).digest())
    return [name for name, _ in entries]


# Hostile local repositories.


def test_configuration_of_a_local_repository_executes_nothing(fetch: Fetch, tmp_path: Path) -> None:
    path = create_repository(tmp_path / "it.git", commits=2)
    proof = tmp_path / "proof"
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\ntouch {proof}\nexec "$@"\n')
    script.chmod(0o755)
    (path / "hooks").mkdir(exist_ok=True)
    for hook in ("post-checkout", "post-clone", "reference-transaction", "pre-upload", "post-index-change"):
        shutil.copy(script, path / "hooks" / hook)
    for name, value in {
        "uploadpack.packObjectsHook": str(script),
        "core.fsmonitor": str(script),
        "core.sshCommand": str(script),
        "core.alternateRefsCommand": str(script),
        "core.pager": str(script),
        "core.gitProxy": str(script),
        "credential.helper": f"!{script}",
        "gpg.program": str(script),
        "alias.upload-pack": f"!{script}",
        "alias.clone": f"!{script}",
        "filter.x.smudge": str(script),
        "remote.origin.uploadpack": str(script),
        "remote.origin.url": f"ext::{script}",
        "remote.origin.promisor": "true",
        "extensions.partialClone": "origin",
        "core.repositoryFormatVersion": "1",
        "init.templateDir": str(tmp_path),
        "core.hooksPath": str(path / "hooks"),
    }.items():
        git(path, "config", name, value)
    assert visible(fetch(str(path))) == visible(path)
    assert not proof.exists()

    # A missing commit, which git would fetch from the promisor remote.
    lost = git(path, "commit-tree", "-m", "lost", "-p", "main", "main^{tree}").strip()
    (path / "refs" / "tags" / "lost").write_text(f"{lost}\n")
    (path / "objects" / lost[:2] / lost[2:]).unlink()
    message_of(fetch, str(path))
    assert not proof.exists()

    subprocess.run([str(script), "true"], check=True)
    assert proof.exists()  # control: the script works


def test_invalid_configuration_reveals_nothing(fetch: Fetch, tmp_path: Path) -> None:
    path = create_repository(tmp_path / "it.git")
    (tmp_path / "secret").write_text("this is no configuration, but a secret\n")
    git(path, "config", "include.path", str(tmp_path / "secret"))
    assert visible(fetch(str(path)))["HEAD"]  # an included file is not read
    (path / "config").write_bytes(b"\0\x1b[31m")
    message = message_of(fetch, str(path))
    assert message == "git can't read this repository: fatal: bad config line 1 in file repository/original-config"


def test_output_of_git_is_logged_but_not_shown(server: GitServer, fetch: Fetch, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(handler: git_server.Handler) -> None:
        body = b"001e# service=git-upload-pack\n0000"
        message = b"ERR \x1b[31m<b>not found</b>" + b"x" * 2000
        handler.reply(200, body + b"%04x" % (len(message) + 4) + message, Content_Type=git_server.ADVERTISEMENT)

    server.answers["/it"] = answer
    assert message_of(fetch, server.url("it")) == "There is no public repository at this address."
    logged = capsys.readouterr().err
    assert "\x1b" not in logged
    assert "<b>not found</b>" in logged
    assert len(logged) < 5_000


def test_unusual_paths_are_cloned(server: GitServer, fetch: Fetch) -> None:
    path = create_repository(server.folder / "it.git")
    head = "commit refs/heads/main\ncommitter \x1b[31mA\udcff <a> 1700000000 +0000\ndata 5\n\x1b[2Ja\nfrom refs/heads/main^0\n"
    files = ['"a\\nb"', '"..."', '".gitmodules"', '"-rf"', "\x1b[31m", "\udcff", '"a\\\\b"', '".GIT/config"', "x/" * 500 + "y"]
    entries = "".join(f"M 100644 inline {name}\ndata 1\nx\n" for name in files)
    links = 'M 120000 inline link\ndata 11\n/etc/passwd\nM 120000 inline ".mailmap"\ndata 11\n/etc/passwd\n'
    git(path, "fast-import", "--quiet", input=(head + entries + links).encode(errors="surrogateescape"))
    repository = fetch(server.url("it"))
    assert repository.output("ls-tree", "-r", "-z", "HEAD") == GitRepository(path).output("ls-tree", "-r", "-z", "HEAD")
    assert repository.output("ls-tree", "-r", "-z", "HEAD").count(b"\0") == len(files) + 3


def test_corrupt_pack(server: GitServer, fetch: Fetch) -> None:
    path = create_repository(server.folder / "it.git", commits=20)
    git(path, "repack", "-adq")
    pack = next((path / "objects" / "pack").glob("*.pack"))
    pack.chmod(0o600)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    pack.write_bytes(data)
    assert message_of(fetch, server.url("it")) == "The repository could not be fetched: git failed."


def message_of(fetch: Fetch, url: str) -> str:
    with pytest.raises(AnalysisError) as caught:
        fetch(url)
    return str(caught.value)
