"""Recognises generated files. Ported from lib/linguist/generated.rb of Linguist."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

_FIRST_LINES = 40  # more than any rule looks at

_IN_PATH = (b"__generated__/", b"node_modules/", b"Godeps/", b"Cargo.toml.orig", b"Package.resolved", b"npm-shrinkwrap.json")
_LOCK_FILES_IN_PATH = (
    b"Cargo.lock",
    b"Gopkg.lock",
    b"Pipfile.lock",
    b"composer.lock",
    b"deno.lock",
    b"glide.lock",
    b"package-lock.json",
    b"pdm.lock",
    b"pixi.lock",
    b"pnpm-lock.yaml",
    b"poetry.lock",
    b"uv.lock",
)
_EXTENSIONS = (".nib", ".xcworkspacedata", ".xcuserstate")
_ENDINGS_IN_ANY_CASE = (b".css.map", b".designer.cs", b".designer.vb", b".feature.cs", b".js.map", b"_tlb.pas")
# Searched in the path with a slash before it.
_COMPONENTS = rb"""(?xm)
    /\.idea/ | /Pods/ | /Carthage/Build/ | /htmlcov/
    | /(?:
        flake\.lock
        | MODULE\.bazel\.lock
        | (?:\w+\.)?esy.lock
        | bun\.lockb?
        | \.terraform\.lock\.hcl
        | \.pnp\..*
        | (?i:gradlew(?:\.bat)?)
        | (?i:mvnw(?:\.cmd)?)
        | mise(?:\.[^/]+)?\.lock
        | (?:Julia)?Manifest(?:-v\d+\.\d+)?\.toml
        | \.sqlx/query-[a-f\d]{64}\.json
    )$
"""
_GO_VENDOR = rb"vendor/(?:(?!-)[-0-9A-Za-z]+(?<!-)\.)+(?:com|edu|gov|in|me|net|org|fm|io)"


class Content:
    """The lines of a file as Ruby's `split("\\n", -1)` returns them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @cached_property
    def line_count(self) -> int:
        return self.data.count(b"\n") + 1 if self.data else 0

    @cached_property
    def first_lines(self) -> list[bytes]:
        return self.data.split(b"\n", _FIRST_LINES)[:_FIRST_LINES] if self.data else []

    @cached_property
    def last_lines(self) -> list[bytes]:
        return self.data.rsplit(b"\n", 2)[-2:] if self.data else []


Rule = Callable[[Content], bool]


def has_generated_path(path: bytes) -> bool:
    """Return whether a file with this path is generated whatever it contains."""
    return (
        any(part in path for part in _IN_PATH)
        or (b"lock" in path and any(part in path for part in _LOCK_FILES_IN_PATH))
        or re.search(_COMPONENTS, b"/" + path) is not None
        or path.lower().endswith(_ENDINGS_IN_ANY_CASE)
        or _extension(path) in _EXTENSIONS
        or (b"vendor/" in path and re.search(_GO_VENDOR, path) is not None)
        or (b".zep." in path and re.search(rb"(?m).\.zep\.(?:c|h|php)$", path) is not None)
    )


def has_generated_content(path: bytes, data: bytes) -> bool:
    """Return whether the content shows that a file is generated. `data` is at most the first 128 KiB: Linguist sees no more."""
    extension, content = _extension(path), Content(data)
    rules = (*_RULES.get(extension, ()), *_RULES_IN_ANY_CASE.get(extension.lower(), ()))
    return any(rule(content) for rule in rules) or (path.endswith(b"ppport.h") and _is_ppport_header(content))


def _extension(path: bytes) -> str:
    """Return the extension with its dot. Names such as `.c` have none."""
    stem, _, extension = path.rpartition(b"/")[2].rpartition(b".")
    return f".{extension.decode(errors='replace')}" if stem.strip(b".") else ""


@dataclass(frozen=True)
class LineRule:
    """Applies if one of the lines contains one of the texts, or begins with it, and the file has more than a number of lines."""

    lines: slice
    texts: tuple[bytes, ...]
    begins: bool = False
    more_lines_than: int = 1

    def __call__(self, content: Content) -> bool:
        if content.line_count <= self.more_lines_than:
            return False
        lines = (content.last_lines if (self.lines.start or 0) < 0 else content.first_lines)[self.lines]
        if self.begins:
            return any(line.startswith(self.texts) for line in lines)
        return any(text in line for line in lines for text in self.texts)


def _line(number: int, *texts: bytes, begins: bool = False, more_lines_than: int = 1) -> LineRule:
    """Look at one line. The first has number 0."""
    return LineRule(slice(number, number + 1), texts, begins, more_lines_than)


def _first(count: int, *texts: bytes, begins: bool = False, more_lines_than: int = 1) -> LineRule:
    """Look at the first lines."""
    return LineRule(slice(count), texts, begins, more_lines_than)


def _is_minified(content: Content) -> bool:
    count = content.line_count
    return count > 0 and (len(content.data) - (count - 1)) // count > 110


def _has_source_map(content: Content) -> bool:
    return any(re.search(rb"^/[*/][#@] source(?:Mapping)?URL|sourceURL=", line) for line in content.last_lines)


def _is_source_map(content: Content) -> bool:
    return any(re.match(rb'\{"version":\d+,|/\*\* Begin line maps\. \*\*/\{', line) for line in content.first_lines[:1])


def _is_compiled_coffeescript(content: Content) -> bool:
    if content.first_lines[:1] != [b"(function() {"] or not content.data.endswith(b"\n}).call(this);\n"):
        return False
    lines = [line for line in content.data.split(b"\n") if b"var " in line]
    variables = sum(len(re.findall(rb"_fn|_i|_len|_ref|_results", line)) for line in lines)
    functions = sum(len(re.findall(rb"__bind|__extends|__hasProp|__indexOf|__slice", line)) for line in lines)
    return variables + 3 * functions >= 3


def _is_peg_parser(content: Content) -> bool:
    text = b"".join(content.first_lines[:5])
    return b"Generated by PEG" in text and re.match(rb"(?:[^/]|/[^*])*/\*(?:[^*]|\*[^/])*Generated by PEG.js", text) is not None


def _is_net_documentation(content: Content) -> bool:
    lines = content.first_lines
    return content.line_count > 3 and b"<doc>" in lines[1] and b"<assembly>" in lines[2] and b"</doc>" in content.last_lines[-2]


def _is_generated_postscript(content: Content) -> bool:
    if re.search(rb"\n[^\S\n]*(?:currentfile eexec\s+|/sfnts\s+\[\s<)", b"\n" + content.data):
        return True
    creator = next((line for line in content.first_lines[:10] if line.startswith(b"%%Creator: ")), None)
    if creator is None:
        return False
    tools = rb"draw|mpage|ImageMagick|inkscape|MATLAB|PCBNEW|pnmtops|\(Unknown\)|Serif Affinity|Filterimage -tops"
    if re.search(rb"[0-9]|" + tools, creator):
        return True
    return b"EAGLE" in creator and any(line.startswith(b"%%Title: EAGLE Drawing ") for line in content.first_lines[:5])


def _is_jni_header(content: Content) -> bool:
    lines = content.first_lines
    return (
        content.line_count > 2
        and b"/* DO NOT EDIT THIS FILE - it is machine generated */" in lines[0]
        and b"#include <jni.h>" in lines[1]
    )


def _is_ppport_header(content: Content) -> bool:
    return content.line_count > 10 and b"Automatically created by Devel::PPPort" in content.first_lines[8]


def _is_generated_dart(content: Content) -> bool:
    lines = content.first_lines[:3]
    return content.line_count > 1 and any(re.search(rb"(?i)generated code\W{2,3}do not modify", line) for line in lines)


def _is_game_maker_metadata(content: Content) -> bool:
    begin = b"".join(content.first_lines[:3]).lstrip()
    return content.line_count > 3 and (
        begin.startswith((b"{", b"[")) or re.match(rb"\d\.\d\.\d.+\|\{", content.first_lines[0]) is not None
    )


def _is_gimp_image(content: Content) -> bool:
    """Return whether GIMP exported an image as C source or header."""
    source = rb"/\* GIMP [a-zA-Z0-9\- ]+ C-Source image dump \(.+?\.c\) \*/"
    header = rb"/\*  GIMP header image file format \([a-zA-Z0-9\- ]+\): .+?\.h  \*/"
    return any(re.match(pattern, line) for line in content.first_lines[:1] for pattern in (source, header))


def _is_sorbet_interface(content: Content) -> bool:
    lines = content.first_lines
    return (
        content.line_count >= 5
        and lines[0].startswith(b"# typed:")
        and b"DO NOT EDIT MANUALLY" in lines[2]
        and re.match(rb"# Please (run|instead update this file by running) `bin/tapioca", lines[4]) is not None
    )


def _is_generated_html(content: Content) -> bool:
    lines = content.first_lines
    if content.line_count < 2:
        return False
    if any(b"<!-- Generated by pkgdown: do not edit by hand -->" in line for line in lines[:2]):
        return True
    if content.line_count > 2 and lines[2].startswith(b"<!-- This is an automatically generated file."):
        return True
    if any(re.search(rb"(?i)<!--\s+Generated by Doxygen\s+[.0-9]+\s*-->", line) for line in lines[:31]):
        return True
    return any(_names_generator(meta) for meta in re.findall(rb"(?i)<meta(\s+[^>]++)>", b" ".join(lines[:31])))


def _names_generator(meta: bytes) -> bool:
    """Return whether the attributes of a `meta` element say that a tool made the page."""
    attribute = rb"""(?i)(?:^|(?<=\s))(name|content|value)\s*=\s*("[^"]+"|'[^']+'|[^\s"']+)"""
    pairs = re.findall(attribute, meta.removesuffix(b"/").strip())
    attributes = {name.lower(): re.sub(rb"\A[\"']|[\"']\Z", b"", value) for name, value in pairs}
    if attributes.get(b"name", b"").lower() != b"generator":
        return False
    tools = rb"(?i)(?:org\s+mode|j?latex2html|groff|makeinfo|texi2html|ronn)\b"
    return any(re.match(tools, attributes.get(name, b"")) for name in (b"content", b"value"))


def _by_extension(rules: Iterable[tuple[str, Rule]]) -> dict[str, Sequence[Rule]]:
    found: dict[str, list[Rule]] = {}
    for extensions, rule in rules:
        for extension in extensions.split():
            found.setdefault(extension, []).append(rule)
    return {extension: tuple(rules) for extension, rules in found.items()}


_RULES = _by_extension(
    (
        (".js", _line(0, b"// Generated by ", begins=True, more_lines_than=0)),
        (".js", _is_compiled_coffeescript),
        (".js", _is_peg_parser),
        (".js", _line(5, b"GENERATED CODE -- DO NOT EDIT!", more_lines_than=6)),
        (".js", _line(0, b"/* parser generated by jison ", b"/* generated by jison-lex ", begins=True)),
        (".ts", _line(0, b"Code generated by protoc-gen-ts_proto. DO NOT EDIT.", more_lines_than=4)),
        (".ps .eps .pfa", _is_generated_postscript),
        (".c .cpp", _line(0, b"Generated by Cython")),
        (".go", _first(40, b"// Code generated ", begins=True)),
        (".proto", _first(20, b"This file was autogenerated by go-to-protobuf")),
        (".py .java .h .cc .cpp .m .rb .php", _first(3, b"Generated by the protocol buffer compiler.  DO NOT EDIT!")),
        (".rb .py .go .js .m .java .h .cc .cpp .php", _first(6, b"Autogenerated by Thrift Compiler", more_lines_than=0)),
        (".h", _is_jni_header),
        (".yml", _line(-2, b"recorded_with: VCR", more_lines_than=2)),
        (".g", _line(1, b"generated by Xtest", more_lines_than=2)),
        (".mod", _line(0, b"PCBNEW-LibModule-V", b"GFORTRAN module version '")),
        (".meta", _line(0, b"fileFormatVersion: ")),
        (".rb", _line(2, b"# This file is automatically generated by Racc", begins=True, more_lines_than=2)),
        (".java", _line(0, b"/* The following code was generated by JFlex ", begins=True)),
        (".java", _line(0, b"// This is a generated file. Not intended for manual editing.", begins=True)),
        (".Rd", _line(0, b"% Generated by roxygen2: do not edit by hand")),
        (".cpp .hpp .h .cc", _line(0, b"// Generated by the gRPC", begins=True)),
        (".dart", _is_generated_dart),
        (".yy .yyp", _is_game_maker_metadata),
        (".c .h", _is_gimp_image),
        (".js .py .lua .cpp .h .java .cs .php", _first(3, b"Generated by Haxe", more_lines_than=0)),
    )
)
_RULES_IN_ANY_CASE = _by_extension(
    (
        (".js .css", _is_minified),
        (".js .css", _has_source_map),
        (".map", _is_source_map),
        (".xml", _is_net_documentation),
        (".html .htm .xhtml", _is_generated_html),
        (".dsp", _first(3, b"# Microsoft Developer Studio Generated Build File", more_lines_than=0)),
        (".java", _first(2, b"This file is generated by jOOQ.", more_lines_than=0)),
        (".rbi", _is_sorbet_interface),
        (".frm", _line(0, b"TYPE=VIEW", more_lines_than=0)),
    )
)
