"""Local repositories: everything that git would open is below a root, whatever leads to it."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app.analysis import clone, history, local
from app.analysis.address import AddressRefused, parse
from app.analysis.failures import AnalysisError
from app.analysis.git import GitRepository
from harness.git_server import create_repository, git

MEGABYTE = 1024**2


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return create_repository(tmp_path / "outside", commits=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def fetch(path: Path, root: Path) -> GitRepository:
    folder = root.parent / "scratch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    repository = clone.fetch(parse(str(path), [root]), folder, [], 64 * MEGABYTE, lambda *_: None)
    assert sorted(entry.name for entry in folder.iterdir()) == ["repository"]
    return repository


def head_of(path: Path) -> str:
    return git(path, "rev-parse", "HEAD")


def replace(path: Path, target: Path) -> None:
    """Move a part of a repository away, and put a link to it in its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    path.symlink_to(target)


def leads_by_commondir(path: Path, elsewhere: Path) -> None:
    (path / "objects").mkdir(parents=True)
    (path / "HEAD").write_text("ref: refs/heads/main\n")
    (path / "commondir").write_text(f"{elsewhere}\n")


def leads_by_alternates(path: Path, elsewhere: Path) -> None:
    create_repository(path)
    (path / "objects" / "info" / "alternates").write_text(f"# a comment\n{elsewhere}/objects\n")


def leads_by_alternates_of_alternates(path: Path, elsewhere: Path) -> None:
    between = path.parent / "between"
    leads_by_alternates(between, elsewhere)
    leads_by_alternates(path, between)


def leads_by_gitfile(path: Path, elsewhere: Path) -> None:
    path.mkdir()
    (path / ".git").write_text(f"gitdir: {elsewhere}\n")


def leads_by_git_link(path: Path, elsewhere: Path) -> None:
    path.mkdir()
    (path / ".git").symlink_to(elsewhere)


def linked(*names: str) -> list[Callable[[Path, Path], None]]:
    def make(name: str) -> Callable[[Path, Path], None]:
        def leads_by_link(path: Path, elsewhere: Path) -> None:
            create_repository(path)
            git(path, "pack-refs", "--all")
            git(path, "repack", "-adq")
            (path / "shallow").touch()
            (path / "objects" / "ab").mkdir(exist_ok=True)
            part = next(path.glob(name))
            replace(part, elsewhere / "part" / part.name)

        leads_by_link.__name__ = f"leads_by_link_at_{name}"
        return leads_by_link

    return [make(name) for name in names]


WAYS = [
    *(leads_by_commondir, leads_by_alternates, leads_by_alternates_of_alternates, leads_by_gitfile, leads_by_git_link),
    *linked("HEAD", "objects", "objects/ab", "objects/info", "objects/pack", "objects/pack/*.pack", "objects/pack/*.idx"),
    *linked("refs", "packed-refs", "config", "shallow"),
]


@pytest.mark.parametrize("lead", WAYS)
def test_nothing_outside_of_the_roots_is_read(lead: Callable[[Path, Path], None], root: Path, outside: Path) -> None:
    lead(root / "it", outside)
    with pytest.raises(AddressRefused, match="not below an allowed folder"):
        parse(str(root / "it"), [root])
    assert fetch_with_both_roots(root / "it", root)  # control: analysed if the target is below a root


def fetch_with_both_roots(path: Path, root: Path) -> str:
    return head_of(fetch(path, root.parent).path)


@pytest.mark.parametrize("name", ["refs/heads", "refs/heads/main"])
def test_links_of_single_branches_are_checked_when_they_are_read(name: str, root: Path, outside: Path) -> None:
    path = create_repository(root / "it")
    before = head_of(path)
    replace(path / name, outside / "part")
    with pytest.raises(AnalysisError, match="This repository leads out of the allowed folders") as caught:
        fetch(path, root)
    assert caught.value.permanent
    assert fetch_with_both_roots(path, root) == before


def test_link_that_appears_after_the_check_is_refused(root: Path, outside: Path) -> None:
    path = create_repository(root / "it")
    address = parse(str(path), [root])
    replace(path / "objects", outside / "part")
    (root.parent / "scratch").mkdir()
    with pytest.raises(AnalysisError, match="leads out of the allowed folders"):
        clone.fetch(address, root.parent / "scratch", [], MEGABYTE, lambda *_: None)


def test_name_with_git_appended_is_not_tried(root: Path, outside: Path) -> None:
    (root / "it").mkdir()
    (root / "it.git").symlink_to(outside)
    with pytest.raises(AddressRefused):
        parse(str(root / "it"), [root])
    (root / "it.git").unlink()
    create_repository(root / "it.git")
    with pytest.raises(AddressRefused):
        parse(str(root / "it"), [root])


def test_linked_work_tree_submodule_and_old_head_are_analysed(root: Path) -> None:
    source = create_repository(root / "source", commits=3)
    git(root, "clone", "--quiet", "source", "main")
    git(root / "main", "worktree", "add", "--quiet", "--detach", str(root / "linked"), "HEAD~1")
    assert head_of(fetch(root / "linked", root).path) == head_of(root / "linked") != head_of(source)
    assert parse(f"{root}/linked/.git", [root]).url == f"{root}/linked"

    git(root / "main", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(source), "part")
    assert (root / "main" / "part" / ".git").is_file()
    assert head_of(fetch(root / "main" / "part", root).path) == head_of(source)

    (source / "HEAD").unlink()
    (source / "HEAD").symlink_to("refs/heads/main")
    assert git(fetch(source, root).path, "symbolic-ref", "HEAD") == "refs/heads/main\n"


def test_repository_that_git_cannot_read_fails_for_good_with_its_reason(root: Path) -> None:
    source = create_repository(root / "source", commits=3)
    git(source, "config", "uploadpack.allowFilter", "true")
    git(root, "clone", "--quiet", "--bare", "--filter=blob:none", f"file://{source}", "partial")
    reason = "git can't read this partial clone: fatal: missing blob object "
    assert permanent_error(root / "partial", root).startswith(reason)
    git(root / "partial", "config", "--remove-section", "remote.origin")
    assert permanent_error(root / "partial", root).startswith(reason)

    path = create_repository(root / "reftable")
    git(path, "config", "core.repositoryFormatVersion", "1")
    git(path, "config", "extensions.refStorage", "reftable")
    assert "fatal: unknown repository extension found: refstorage" in permanent_error(path, root)

    (source / "info").mkdir(exist_ok=True)
    (source / "info" / "grafts").write_text(head_of(source))
    assert permanent_error(source, root) == "This repository has grafts (info/grafts), which git can't clone."


def permanent_error(path: Path, root: Path) -> str:
    with pytest.raises(AnalysisError) as caught:
        fetch(path, root)
    assert caught.value.permanent
    assert str(root.parent) not in str(caught.value)
    return str(caught.value)


def test_copied_files_are_limited_in_size(root: Path) -> None:
    path = create_repository(root / "it")
    (path / "packed-refs").write_bytes(b"#" * 2 * MEGABYTE)
    (root.parent / "scratch").mkdir()
    with pytest.raises(AnalysisError, match=r"^The repository is larger than 1 MB\.$"):
        clone.fetch(parse(str(path), [root]), root.parent / "scratch", [], MEGABYTE, lambda *_: None)


def test_copied_files_without_a_size_are_limited_too(root: Path) -> None:
    """Files in /proc have the size 0, and some of them never end."""
    path = create_repository(root / "it")
    (path / "refs" / "heads" / "endless").symlink_to(f"/proc/{os.getpid()}/maps")
    repository = local.LocalRepository(path, [Path("/")])
    with pytest.raises(AnalysisError, match=r"^The repository is larger than "):
        repository.make_readable(root.parent / "target", 2000)


@pytest.mark.parametrize("value", ["files:///etc", "--edit"])
def test_setting_that_leads_elsewhere_is_refused(value: str, root: Path) -> None:
    path = create_repository(root / "it")
    with (path / "config").open("a") as config:
        config.write(f'[core]\n\trepositoryFormatVersion = 1\n[extensions]\n\trefStorage = "{value}"\n')
    assert permanent_error(path, root) == "This repository has a format (extensions) that can't be read."


def test_loops_and_special_files_end(root: Path) -> None:
    path = create_repository(root / "it")
    (path / "refs" / "loop").symlink_to(path / "refs")
    (path / "objects" / "info" / "alternates").write_text("../objects\n")
    subprocess.run(["mkfifo", str(path / "refs" / "heads" / "pipe")], check=True)
    assert head_of(fetch(path, root).path) == head_of(path)


def test_packs_are_read_in_place(root: Path) -> None:
    """Large files are links to open files of this process: git reads them even if they are replaced or deleted meanwhile."""
    path = create_repository(root / "it", commits=3)
    content = os.urandom(2 * local.MAX_COPIED_BYTES)
    packed = git(path, "hash-object", "-w", "--stdin", input=content).strip()
    git(path, "tag", "packed", packed)
    git(path, "repack", "-adq")
    git(path, "commit-graph", "write", "--reachable", "--split")
    loose = git(path, "hash-object", "-w", "--stdin", input=content + b"x").strip()
    before = len(list(Path("/proc/self/fd").iterdir()))
    repository = fetch(path, root)
    links = [file for file in repository.path.rglob("*") if file.is_symlink()]
    assert sorted(file.suffix for file in links) == ["", ".pack"]
    assert clone.disk_usage_bytes(repository.path) < len(content)
    assert list(repository.path.glob("objects/info/commit-graphs/*.graph"))
    shutil.rmtree(path)
    for name, size in [(packed, len(content)), (loose, len(content) + 1), ("HEAD:file", 2)]:
        assert len(repository.output("cat-file", "blob", name)) == size
    assert repository.output("rev-list", "--count", "HEAD") == b"3\n"
    del repository
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_repository_that_is_repacked_meanwhile_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = create_repository(root / "it", commits=3)
    git(path, "repack", "-adq")
    original = local.LocalRepository.names
    changes = iter(range(2))

    def names(self: local.LocalRepository, folder: Path) -> list[str]:
        found = original(self, folder)
        if folder.name == "pack" and next(changes, None) is not None:
            git(path, "tag", "new", git(path, "hash-object", "-w", "--stdin", input=str(found)).strip(), "--force")
            git(path, "repack", "-adq")
        return found

    monkeypatch.setattr(local.LocalRepository, "names", names)
    with pytest.raises(AnalysisError, match="changed while it was read") as caught:
        fetch(path, root)
    assert not caught.value.permanent
    changes = iter(range(1))
    assert head_of(fetch(path, root).path) == head_of(path)
    assert next(changes, None) is None


def test_shallow_clone_is_shallow(root: Path) -> None:
    create_repository(root / "source", commits=5)
    git(root, "clone", "--quiet", "--depth=1", f"file://{root}/source", "shallow")
    repository = fetch(root / "shallow", root)
    assert (repository.output("rev-list", "--count", "HEAD"), history.is_shallow(repository)) == (b"1\n", True)


def test_too_many_packs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = create_repository(root / "it")
    address = parse(str(path), [root])
    (root.parent / "scratch").mkdir()

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(local.LocalRepository, "open_descriptor", fail)
    with pytest.raises(AnalysisError, match="too many packs"):
        clone.fetch(address, root.parent / "scratch", [], MEGABYTE, lambda *_: None)
