"""Licence files are found, their texts recognised in every form, and combined to an SPDX expression."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.analysis.licenses import Role, combine, role_of

DEBIAN = Path("/usr/share/common-licenses")
MIT = (Path(__file__).parents[3] / "LICENSE").read_bytes()
NAMES = {
    "Apache-2.0": "Apache-2.0",
    "GPL-2": "GPL-2.0",
    "GPL-3": "GPL-3.0",
    "LGPL-2.1": "LGPL-2.1",
    "LGPL-3": "LGPL-3.0",
    "MPL-2.0": "MPL-2.0",
    "CC0-1.0": "CC0-1.0",
    "Artistic": "Artistic-1.0-Perl",
    "BSD": "BSD-3-Clause",
}

pytestmark = pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the licence texts of Debian")


def text_of(name: str) -> bytes:
    return MIT if name == "MIT" else (DEBIAN / name).read_bytes()


def expression(**texts: str | bytes) -> str | None:
    """Return the expression for files in the root folder by their names."""
    return combine({name: text.encode() if isinstance(text, str) else text for name, text in texts.items()}).expression


def wrapped(text: bytes, width: int) -> bytes:
    paragraphs = text.decode().split("\n\n")
    return "\n\n".join(textwrap.fill(" ".join(one.split()), width, break_on_hyphens=False) for one in paragraphs).encode()


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda text: text,
    "40 columns": lambda text: wrapped(text, 40),
    "80 columns": lambda text: wrapped(text, 80),
    "one line": lambda text: b" ".join(text.split()),
    "CRLF": lambda text: text.replace(b"\n", b"\r\n"),
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "Latin-1": lambda text: b"Copyright (c) 2024 J\xf6rg M\xfcller\n\n" + text,
    "heading": lambda text: b"# License\n\n" + text,
    "quoted": lambda text: b"".join(b"> " + line for line in text.splitlines(keepends=True)),
    "comment": lambda text: b"/*\n" + b"".join(b" * " + line for line in text.splitlines(keepends=True)) + b"*/\n",
    "several holders": lambda text: b"Foo\n\nCopyright (c) 2001 A\nCopyright (c) 2002 B <b@example.org>\n\n" + text,
}


@pytest.mark.parametrize("form", FORMS)
def test_texts_are_recognised_in_every_form(form: str) -> None:
    names = ("MIT", "Apache-2.0", "MPL-2.0")
    assert [combine({"LICENSE": FORMS[form](text_of(name))}).expression for name in names] == list(names)


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_debian_are_recognised(name: str) -> None:
    assert combine({"LICENSE": text_of(name)}).expression == NAMES[name]


@pytest.mark.parametrize("name", ["Apache-2.0", "GPL-2", "GPL-3", "LGPL-2.1", "MPL-2.0"])
def test_licence_without_its_appendix(name: str) -> None:
    text = text_of(name)
    end = text.rfind(b"Exhibit A - ") if name == "MPL-2.0" else text.find(b"END OF TERMS AND CONDITIONS")
    assert 0 < end < 0.97 * len(text)
    assert expression(LICENSE=text[:end]) == NAMES[name]


VIM = """VIM LICENSE

I)  There are no restrictions on distributing unmodified copies of Vim except
    that they must include this license text.  You can also distribute
    unmodified parts of Vim, likewise unrestricted.
"""
NOTICE_OF_GPL = """Foo
Copyright (C) 2024 A

This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public License as
published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version.

This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the implied warranty of
MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU General Public License for more details.
"""
REDIS = (
    "Contributions are subject to the user's choice of\n\n1. Redis Source Available License 2.0 (RSALv2) Agreement\n\n"
    + "x " * 200
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VIM, "Vim"),
        (NOTICE_OF_GPL, "GPL-3.0-or-later"),
        (REDIS, "LicenseRef-RSALv2"),
        ("A. HISTORY OF THE SOFTWARE\n\nPython was created in the early 1990s by Guido van Rossum" + " x" * 2000, "Python-2.0.1"),
        ('"Business Source License" is a trademark of MariaDB Corporation Ab.\n\nParameters\n\n' + "x " * 2000, "BUSL-1.1"),
        (
            "SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note\n\nSee LICENSES/preferred.",
            "GPL-2.0 WITH Linux-syscall-note",
        ),
        ("SPDX-License-Identifier: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        ("Each file has `SPDX-License-Identifier: GPL-2.0+`.", "GPL-2.0-or-later"),
        ("SPDX-License-Identifier: MIT.\n", "MIT"),
        ("SPDX-License-Identifier: ISC AND (MIT OR BSD-3-Clause)\n", "ISC AND (MIT OR BSD-3-Clause)"),
        ("SPDX-License-Identifier: MIT AND BSD-3-Clause\n", "MIT AND BSD-3-Clause"),
        ("Licensed under https://www.apache.org/licenses/LICENSE-2.0\n", "Apache-2.0"),
        ("Licensed under the MIT License.\n", "MIT"),
        ("[MIT](https://opensource.org/license/mit) (c) A\n", "MIT"),
        ("Either https://opensource.org/licenses/MIT or https://opensource.org/licenses/ISC.", "MIT OR ISC"),
        ("See https://www.gnu.org/licenses/gpl-3.0.html", "GPL-3.0"),
        ("BSD-3-Clause\n", "BSD-3-Clause"),
        ("Written at the MIT. See https://opensource.org/licenses/MIT-Modern-Variant or BSD-3-Clause.", None),
        ("All rights reserved. Ask us for a licence.", None),
        ("The MIT licence is not the one of this program.\n" * 100, None),
        ("", None),
    ],
)
def test_licence_of_a_text(text: str, expected: str | None) -> None:
    assert expression(LICENSE=text) == expected


def test_exceptions_are_part_of_the_licence() -> None:
    llvm = (
        text_of("Apache-2.0")
        + b"\n---- LLVM Exceptions to the Apache 2.0 License ----\n\nAs an exception, if, as a result of ...\n"
    )
    assert expression(LICENSE=llvm) == "Apache-2.0 WITH LLVM-exception"
    classpath = text_of("GPL-2") + b'\n"CLASSPATH" EXCEPTION TO THE GPL\n\nCertain source files distributed by Oracle ...\n'
    assert expression(LICENSE=classpath) == "GPL-2.0 WITH Classpath-exception-2.0"


REFERENCE = "This software is made available under the terms of *either* of the licenses found in LICENSE.APACHE or LICENSE.BSD."
REUSE = {"LICENSES/GPL-3.0-or-later.txt": "GPL-3", "LICENSES/CC0-1.0.txt": "CC0-1.0", "LICENSES/LicenseRef-Foo.txt": "BSD"}


@pytest.mark.parametrize(
    ("names", "expected", "path"),
    [
        ({"MIT-LICENSE": "MIT"}, "MIT", "MIT-LICENSE"),
        ({"COPYING": "GPL-3", "COPYING.LESSER": "LGPL-3"}, "LGPL-3.0", "COPYING.LESSER"),
        ({"COPYING": "GPL-2", "COPYING.LIB": "LGPL-2.1"}, "LGPL-2.1", "COPYING.LIB"),
        ({"LICENSE.GPL": "GPL-2", "LICENSE.LGPL": "LGPL-2.1"}, "GPL-2.0 OR LGPL-2.1", "LICENSE.GPL"),
        ({"LICENSE-MIT": "MIT", "LICENSE-APACHE": "Apache-2.0"}, "MIT OR Apache-2.0", "LICENSE-MIT"),
        ({"COPYRIGHT": "-", "LICENSE-MIT": "MIT", "LICENSE-APACHE": "Apache-2.0"}, "MIT OR Apache-2.0", "LICENSE-MIT"),
        ({"LICENSE": "-", "LICENSE.APACHE": "Apache-2.0", "LICENSE.BSD": "BSD"}, "BSD-3-Clause OR Apache-2.0", "LICENSE.BSD"),
        ({"LICENSE": "BSD", "COPYING": "GPL-2"}, "GPL-2.0 OR BSD-3-Clause", "COPYING"),
        ({"LICENSE": "MIT", "LICENSE-jquery.txt": "BSD"}, "MIT", "LICENSE"),
        ({"LICENSE": "MIT", "LICENSE.BSD": "BSD"}, "MIT OR BSD-3-Clause", "LICENSE"),
        ({"LICENSE-foo.txt": "BSD"}, "BSD-3-Clause", "LICENSE-foo.txt"),
        ({"LICENSE": "-", "LICENSE-jquery.txt": "MIT"}, None, "LICENSE"),
        ({"LICENSE": "-"}, None, "LICENSE"),
        ({"COPYRIGHT": "-"}, None, None),
        ({"COPYRIGHT": "MIT"}, "MIT", "COPYRIGHT"),
        ({"docs/LICENSE": "MIT"}, "MIT", "docs/LICENSE"),
        ({"LICENSE": "MIT", "docs/LICENSE": "CC0-1.0"}, "MIT", "LICENSE"),
        ({"LICENSES/MIT.txt": "MIT"}, "MIT", "LICENSES/MIT.txt"),
        (REUSE, "CC0-1.0 AND LicenseRef-Foo AND GPL-3.0-or-later", "LICENSES/CC0-1.0.txt"),
        ({"COPYING": "GPL-3", **REUSE}, "GPL-3.0", "COPYING"),
        ({"licenses/foo.txt": "MIT", "licenses/bar.txt": "BSD"}, None, None),
        ({"LICENSE-foo.txt": "-", "licenses/foo.txt": "-"}, None, None),
        ({"docs/LICENSE": "-"}, None, "docs/LICENSE"),
        ({}, None, None),
    ],
)
def test_files_are_combined(names: dict[str, str], expected: str | None, path: str | None) -> None:
    found = combine({name: REFERENCE.encode() if text == "-" else text_of(text) for name, text in names.items()})
    assert (found.expression, found.path) == (expected, path)
    assert set(dict(found.found)) == {name for name, text in names.items() if text != "-"}


@pytest.mark.parametrize(
    ("before", "between", "expected"),
    [
        ("", "", "MIT AND Apache-2.0"),
        ("", "This product bundles jquery, which is under this licence:", "MIT"),
        ("Some files have been taken from elsewhere.", "", "MIT"),
        ("", "Some files are dual licensed:", "MIT"),
        ("", "Use version 2 or (at your option) any later version of that library.", "MIT"),
        ("This program is dual-licensed.", "", "MIT OR Apache-2.0"),
        ("", "Alternatively, at your option:", "MIT OR Apache-2.0"),
        ("The source may also be made available under the following secondary licence:", "", "MIT OR Apache-2.0"),
    ],
)
def test_several_licences_in_one_file(before: str, between: str, expected: str) -> None:
    found = combine({"LICENSE": f"{before}\n\n".encode() + MIT + f"\n\n{between}\n\n".encode() + text_of("Apache-2.0")})
    assert found.expression == expected
    assert found.found == [("LICENSE", "MIT"), ("LICENSE", "Apache-2.0")]


def test_addition_to_a_licence_is_not_left_out() -> None:
    clause = """"Commons Clause" License Condition v1.0

The Software is provided to you by the Licensor under the License, as defined below, subject to the following condition.
Without limiting other conditions in the License, the grant of rights under the License will not include, and the License does
not grant to you, the right to Sell the Software.

"""
    assert expression(LICENSE=clause.encode() + text_of("Apache-2.0")) == "LicenseRef-CommonsClause AND Apache-2.0"


@pytest.mark.parametrize(
    ("path", "role"),
    [
        *(
            (path, Role.MAIN)
            for path in ("LICENSE", "licence.md", "COPYING", "UNLICENSE", "LICENSE.txt", "Copying.rst", "COPYING3")
        ),
        *(
            (path, Role.VARIANT)
            for path in ("LICENSE-MIT", "LICENSE.APACHE2", "MIT-LICENSE.txt", "COPYING.LESSER", "COPYING.LIB")
        ),
        *(
            (path, Role.VARIANT)
            for path in ("LICENSE_1_0.txt", "LICENSE-2.0.txt", "LICENSE.BSD-3-Clause", "gpl-3.0.txt", "LICENSE.GPLv3")
        ),
        *((path, Role.PART) for path in ("LICENSE-jquery.txt", "LICENSE-docs")),
        *((path, Role.COLLECTION) for path in ("LICENSES/MIT.txt", "licenses/GPL-3.0", "LICENSE/LICENSE.txt")),
        *((path, Role.ELSEWHERE) for path in ("docs/LICENSE", ".github/LICENSE.md")),
        *(
            (path, None)
            for path in ("license.go", "license.py", "LICENSE.tmpl", "license-checker", "license_header.txt", "NOTICE")
        ),
        *(
            (path, None)
            for path in ("THIRD_PARTY_LICENSES.txt", "LICENSE-3RD-PARTY", "src/LICENSE", "vendor/x/LICENSE", "copying.c")
        ),
        *(
            (path, None)
            for path in ("docs/licensing.html", "licenses/README.md", "license.cc", "LICENSES/a/b.txt", "licensed.md")
        ),
    ],
)
def test_role_of_a_path(path: str, role: Role | None) -> None:
    assert role_of(path) == role


def test_hostile_texts_take_bounded_time() -> None:
    """The files together have five times the size that is read."""
    words = b" ".join(text_of(name) for name in NAMES).split()
    mixed = b" ".join(words[number * 7919 % len(words)] for number in range(20_000))[: 128 * 1024]
    texts = {f"LICENSE-{number}.txt": mixed for number in range(36)}
    texts |= {
        "LICENSE": b"<" * 128 * 1024,
        "COPYING": b"\xff\0" * 64 * 1024,
        "LICENCE": b"\n" * 128 * 1024,
        "COPYING.md": MIT * 120,
    }
    begin = time.process_time()
    assert combine(texts).expression == "MIT"
    assert time.process_time() - begin < 5
