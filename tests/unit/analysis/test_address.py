from __future__ import annotations

from pathlib import Path

import pytest

from app.analysis.address import MAX_LENGTH, Address, AddressRefused, parse, parse_url
from harness.git_server import create_repository, git


def remote(text: str) -> Address:
    return parse(text, roots=())


@pytest.mark.parametrize(
    ("text", "url", "name"),
    [
        ("https://github.com/pallets/flask", "https://github.com/pallets/flask", "pallets/flask"),
        ("  https://github.com/pallets/flask ", "https://github.com/pallets/flask", "pallets/flask"),
        ("HTTPS://Example.org/Pallets/Flask", "https://example.org/Pallets/Flask", "Pallets/Flask"),
        ("https://github.com:443/pallets/flask//", "https://github.com/pallets/flask", "pallets/flask"),
        ("https://github.com:/pallets/flask", "https://github.com/pallets/flask", "pallets/flask"),
        ("https://github.com./pallets/flask", "https://github.com/pallets/flask", "pallets/flask"),
        ("https://example.org/pallets/flask.git/", "https://example.org/pallets/flask.git", "pallets/flask"),
        ("https://example.org:8443//a/b/c.git", "https://example.org:8443/a/b/c.git", "b/c"),
        ("https://example.org/c", "https://example.org/c", "c"),
        ("https://example.org/~ada/-x", "https://example.org/~ada/-x", "~ada/-x"),
        ("https://bücher.example/a/b", "https://xn--bcher-kva.example/a/b", "a/b"),
        ("https://example.org/a/bücher", "https://example.org/a/b%C3%BCcher", "a/b%C3%BCcher"),
        ("https://example.org/a%20b/c", "https://example.org/a%20b/c", "a%20b/c"),
        ("https://192.0.2.1/a/b", "https://192.0.2.1/a/b", "a/b"),
        ("https://[2001:DB8:0::1]:443/a/b", "https://[2001:db8::1]/a/b", "a/b"),
    ],
)
def test_address_is_normalised(text: str, url: str, name: str) -> None:
    address = remote(text)
    assert (address.url, address.name, address.is_local) == (url, name, False)
    assert remote(address.url) == address


@pytest.mark.parametrize(
    "text",
    [
        "pallets/flask",
        "Pallets/Flask/",
        "github.com/pallets/flask",
        "www.github.com/pallets/flask",
        "https://github.com/pallets/flask/",
        "https://github.com/pallets/flask.git",
        "https://github.com/pallets/flask/tree/main/src",
        "https://github.com/pallets/flask/blob/main/src/flask/app.py#L10",
        "https://github.com/pallets/flask/issues/1",
        "https://github.com/pallets/flask?tab=readme-ov-file#contributing",
        "https://raw.githubusercontent.com/pallets/flask/main/README.md",
        "git@github.com:pallets/flask.git",
        "git@github.com:/pallets/flask",
        "github.com:pallets/flask.git",
        "ssh://git@github.com/pallets/flask.git",
        "ssh://git@ssh.github.com:443/pallets/flask.git",
        "git+ssh://git@github.com/pallets/flask.git",
        "git+https://github.com/pallets/flask.git",
        "git://github.com/pallets/flask",
        "http://github.com/pallets/flask",
        "http://www.github.com:80/pallets/flask.git",
        "HTTPS://GitHub.com/Pallets/Flask.git",
        "https://github.com/PALLETS/FLASK.GIT",
    ],
)
def test_all_addresses_of_one_repository_are_the_same(text: str) -> None:
    assert remote(text).url == "https://github.com/pallets/flask"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://gitlab.com/Group/sub/Project/-/tree/main/src?ref_type=heads", "https://gitlab.com/Group/sub/Project"),
        ("https://gitlab.com/group/project.git", "https://gitlab.com/group/project"),
        ("https://gitlab.com/group/project/tree/master", "https://gitlab.com/group/project"),
        ("https://gitlab.com/group/project/issues/1", "https://gitlab.com/group/project"),
        ("https://gitlab.com/group/sub/issues", "https://gitlab.com/group/sub/issues"),
        ("git@gitlab.com:group/sub/project.git", "https://gitlab.com/group/sub/project"),
        ("https://gitlab.gnome.org/GNOME/gimp/-/issues/1#note_2", "https://gitlab.gnome.org/GNOME/gimp"),
        ("https://gitlab.example/group/project/-/issues/1", "https://gitlab.example/group/project"),
        ("https://bitbucket.org/Owner/name/src/master/", "https://bitbucket.org/Owner/name"),
        ("https://codeberg.org/forgejo/forgejo/src/branch/forgejo", "https://codeberg.org/forgejo/forgejo"),
        ("https://git.sr.ht/~sircmpwn/scdoc/tree/master/item/src", "https://git.sr.ht/~sircmpwn/scdoc"),
        ("http://example.org/a/B.git", "https://example.org/a/B.git"),
        ("ssh://git@example.org:2222/a/B.git", "https://example.org/a/B.git"),
        ("ssh://git@[2001:db8::1]:22/a/b", "https://[2001:db8::1]/a/b"),
        ("git@example.org:a/B.git", "https://example.org/a/B.git"),
        ("example.org:8443/a/tree/main", "https://example.org:8443/a/tree/main"),
        ("example.org/a", "https://example.org/a"),
    ],
)
def test_addresses_of_other_forges_and_servers(text: str, url: str) -> None:
    address = remote(text)
    assert address.url == url
    assert remote(address.url) == address


def test_target_of_a_redirect_is_not_changed() -> None:
    """GitLab redirects to the address with `.git`: without it, the redirects would never end."""
    assert parse_url("https://gitlab.com/group/project.git").url == "https://gitlab.com/group/project.git"
    for text in ("http://gitlab.com/group/project", "gitlab.com/group/project", "https://gitlab.com/group/project?x"):
        with pytest.raises(AddressRefused):
            parse_url(text)


def test_host_port_and_path() -> None:
    address = remote("https://[2001:db8::1]:8443/a/b")
    assert (address.host, address.port, address.path) == ("2001:db8::1", 8443, "/a/b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "flask",
        "./flask",
        "../pallets/flask",
        "~/flask",
        "-/flask",
        "github.com",
        "github.com/pallets",
        "https://gitlab.com/group",
        "https://gitlab.com/groups/group/-/issues",
        "https://github.com/orgs/pallets/repositories",
        "https://github.com/Topics/flask",
        "http://github.com:3000/a/b",
        "ssh://git:secret@github.com/a/b",
        "git@github.com:",
        "git@github.com:22/a/b",
        "ssh://git@127.1/a/b",
        "git@127.1:a/b",
        "ftp://example.org/a/b",
        "https://example.org/a/b?x=1",
        "https://example.org/a/b?",
        "https://example.org/a/b#readme",
        "file:///etc",
        "ext::sh -c touch% /tmp/x",
        "ext::sh",
        "https::https://github.com/a/b",
        "--upload-pack=touch",
        "-uhttps://github.com/a/b",
        "https:/github.com/a/b",
        "https:github.com/a/b",
        "https://user@github.com/a/b",
        "https://user:password@github.com/a/b",
        "https://@github.com/a/b",
        "https://:@github.com/a/b",
        "https://github.com\\@example.org/a/b",
        "https://github.com/a b",
        "https://github.com/a\nb",
        "https://github.com/a\tb",
        "https://github.com/a\x1b[31mb",
        "https://github.com/a\u202eb",
        "https://github.com/a\u00a0b",
        "https://github.com/a\0b",
        "https://github.com",
        "https://github.com/",
        "https://github.com//",
        "https://github.com/a/../b",
        "https://github.com/./a",
        "https://github.com/a/%2E%2e/b",
        "https:///a/b",
        "https://:8443/a/b",
        "https://github.com:0/a/b",
        "https://github.com:65536/a/b",
        "https://github.com:-1/a/b",
        "https://github.com:x/a/b",
        "https://git_hub..com/a/b",
        "https://-github.com/a/b",
        "https://github.com%2fexample.org/a/b",
        "https://a," + "b" * 300 + ".com/a/b",
        "https://" + "b" * 64 + ".com/a/b",
        "https://$(id).com/a/b",
        "https://[::1/a/b",
        "https://[::1]x/a/b",
        "https://x[::1]/a/b",
        "https://[fe80::1%25eth0]/a/b",
        "https://[v1.x]/a/b",
        "https://[127.0.0.1]/a/b",
        "https://127.1/a/b",
        "https://127.0.0.1./a/b",
        "https://2130706433/a/b",
        "https://0x7f000001/a/b",
        "https://0x7f.0.0.1/a/b",
        "https://0177.0.0.1/a/b",
        "https://127.0.0.01/a/b",
        "https://127.0.0.256/a/b",
        "https://127.0.0.1.0x7f/a/b",
        "https://127。0。0。1.1/a/b",
        "https://１２７.1/a/b",
        "https://github.com/" + "a" * MAX_LENGTH,
        "https://github.com/" + "ü" * (MAX_LENGTH // 3),
    ],
)
def test_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(AddressRefused, match=r"^[A-Z].*\.$"):
        remote(text)


def test_address_of_maximum_length_is_accepted() -> None:
    text = "https://example.org/".ljust(MAX_LENGTH, "a")
    assert remote(text).url == text


def test_local_repository_and_work_tree_below_a_root(tmp_path: Path) -> None:
    bare = create_repository(tmp_path / "roots" / "a" / "bare.git")
    tree = tmp_path / "roots" / "work tree"
    git(tmp_path, "clone", "--quiet", str(bare), str(tree))
    for text, path, name in [
        (f"{bare}", bare, "bare"),
        (f"{bare}///", bare, "bare"),
        (f"{bare}/../bare.git", bare, "bare"),
        (f"{tree}", tree, "work tree"),
        (f"{tree}/.git", tree, "work tree"),
    ]:
        address = parse(text, [tmp_path / "other", tmp_path / "roots"])
        assert (address.url, address.name, address.is_local) == (str(path), name, True)


def test_root_can_be_a_repository_and_a_symbolic_link(tmp_path: Path) -> None:
    bare = create_repository(tmp_path / "bare")
    (tmp_path / "link").symlink_to(bare)
    assert parse(str(tmp_path / "link"), [tmp_path / "link"]).url == str(bare)


def test_path_outside_of_the_roots_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", create_repository(tmp_path / "outside")
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    for name, content in [("linked", None), ("pointing", f"gitdir: {outside}\n")]:
        (inside / name).mkdir()
        if content:
            (inside / name / ".git").write_text(content)
        else:
            (inside / name / ".git").symlink_to(outside)
    texts = [outside, inside / "link", inside / "linked", inside / "pointing", f"{inside}/../outside"]
    assert [text for text in texts if not error_of(str(text), [inside])] == []
    assert parse(str(outside), [tmp_path]).url == str(outside)  # control: allowed with the right root
    assert error_of(str(outside), [])


def test_local_path_is_limited_in_bytes(tmp_path: Path) -> None:
    """PostgreSQL can't index a longer value, whatever its number of characters."""
    path = create_repository(tmp_path.joinpath(*["\N{CJK UNIFIED IDEOGRAPH-8CC7}" * 84] * 14))
    assert len(str(path)) < MAX_LENGTH
    assert error_of(str(path), [tmp_path]) == f"The path must not be longer than {MAX_LENGTH} bytes."
    (tmp_path / "link").symlink_to(path)
    assert error_of(f"{tmp_path}/link", [tmp_path]) == f"The path must not be longer than {MAX_LENGTH} bytes."


def test_name_of_a_linked_git_folder_is_the_folder_above_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "project")
    (tmp_path / "link").symlink_to(tmp_path / "project" / ".git")
    assert parse(f"{tmp_path}/link", [tmp_path]).name == "project"


def test_error_of_a_local_path_reveals_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    create_repository(tmp_path / "odd\nname")
    names = ["", "missing", "file", "file/x", "loop", "x" * 300]
    assert {error_of(f"{tmp_path}/{name}", [tmp_path]) for name in names} == {error_of("/etc/passwd", [tmp_path])}
    assert error_of(f"{tmp_path}/odd\nname", [tmp_path])
    (tmp_path / "escape").symlink_to(tmp_path / "odd\nname")
    assert error_of(f"{tmp_path}/escape", [tmp_path])


def error_of(text: str, roots: list[Path]) -> str | None:
    try:
        parse(text, roots)
    except AddressRefused as error:
        return str(error)
    return None
