"""Recognises generated files. Ported from lib/linguist/generated.rb of Linguist."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

_FIRST_LINES = 40  # more than any rule looks at

_IN_PATH = (
    b"__generated__/",
    b"node_modules/",
    b"Godeps/",
    b"Cargo.lock",
    b"Cargo.toml.orig",
    b"Gopkg.lock",
    b"Package.resolved",
    b"Pipfile.lock",
    b"composer.lock",
    b"deno.lock",
    b"glide.lock",
    b"npm-shrinkwrap.json",
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
_COMPONENTS = re.compile(
    b"|".join(
        (
            rb"/\.idea/",
            rb"/Pods/",
            rb"/Carthage/Build/",
            rb"/htmlcov/",
            rb"/flake\.lock$",
            rb"/MODULE\.bazel\.lock$",
            rb"/(?:\w+\.)?esy.lock$",
            rb"/bun\.lockb?$",
            rb"/\.terraform\.lock\.hcl$",
            rb"/\.pnp\..*$",
            rb"/(?i:gradlew(?:\.bat)?)$",
            rb"/(?i:mvnw(?:\.cmd)?)$",
            rb"/mise(?:\.[^/]+)?\.lock$",
            rb"/(?:Julia)?Manifest(?:-v\d+\.\d+)?\.toml$",
            rb"/\.sqlx/query-[a-f\d]{64}\.json$",
        )
    ),
    re.MULTILINE,
)
_ZEPHIR = re.compile(rb".\.zep\.(?:c|h|php)$", re.MULTILINE)
_GO_VENDOR = re.compile(rb"vendor/(?:(?!-)[-0-9A-Za-z]+(?<!-)\.)+(?:com|edu|gov|in|me|net|org|fm|io)")
_PPPORT_HEADER = re.compile(rb"ppport\.h$", re.MULTILINE)


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


def is_generated(path: bytes, data: bytes) -> bool:
    """Return whether a file is generated. Linguist, too, sees only the first 128 KiB of the content."""
    return _has_generated_path(path) or _has_generated_content(path, Content(data))


def _has_generated_path(path: bytes) -> bool:
    return (
        any(part in path for part in _IN_PATH)
        or _COMPONENTS.search(b"/" + path) is not None
        or path.lower().endswith(_ENDINGS_IN_ANY_CASE)
        or _extension(path) in _EXTENSIONS
        or (b"vendor/" in path and _GO_VENDOR.search(path) is not None)
        or (b".zep." in path and _ZEPHIR.search(path) is not None)
    )


def _has_generated_content(path: bytes, content: Content) -> bool:
    extension = _extension(path)
    rules = (*_RULES.get(extension, ()), *_RULES_IN_ANY_CASE.get(extension.lower(), ()))
    return any(rule(content) for rule in rules) or (_PPPORT_HEADER.search(path) is not None and _is_ppport_header(content))


def _extension(path: bytes) -> str:
    """Return the extension with its dot. Names such as `.c` have none."""
    stem, _, extension = path.rpartition(b"/")[2].rpartition(b".")
    return f".{extension.decode(errors='replace')}" if stem.strip(b".") else ""


@dataclass(frozen=True)
class LineRule:
    """Applies if one of the lines contains the pattern and the file has more than a number of lines."""

    lines: slice
    pattern: re.Pattern[bytes]
    more_lines_than: int = 1

    def __call__(self, content: Content) -> bool:
        lines = content.last_lines if (self.lines.start or 0) < 0 else content.first_lines
        return content.line_count > self.more_lines_than and any(map(self.pattern.search, lines[self.lines]))


def _line(number: int, pattern: bytes, more_lines_than: int = 1) -> LineRule:
    """Look at one line. The first has number 0."""
    return LineRule(slice(number, number + 1), re.compile(pattern), more_lines_than)


def _first(count: int, pattern: bytes, more_lines_than: int = 1) -> LineRule:
    return LineRule(slice(count), re.compile(pattern), more_lines_than)


def _is_minified(content: Content) -> bool:
    count = content.line_count
    return count > 0 and (len(content.data) - (count - 1)) // count > 110


_SOURCE_MAP = re.compile(rb"^/[*/][#@] source(?:Mapping)?URL|sourceURL=")


def _has_source_map(content: Content) -> bool:
    return any(map(_SOURCE_MAP.search, content.last_lines))


_COFFEESCRIPT_VARIABLES = re.compile(rb"_fn|_i|_len|_ref|_results")
_COFFEESCRIPT_FUNCTIONS = re.compile(rb"__bind|__extends|__hasProp|__indexOf|__slice")


def _is_compiled_coffeescript(content: Content) -> bool:
    if content.first_lines[:1] != [b"(function() {"] or not content.data.endswith(b"\n}).call(this);\n"):
        return False
    lines = [line for line in content.data.split(b"\n") if b"var " in line]
    variables = sum(len(_COFFEESCRIPT_VARIABLES.findall(line)) for line in lines)
    functions = sum(len(_COFFEESCRIPT_FUNCTIONS.findall(line)) for line in lines)
    return variables + 3 * functions >= 3


_PEG_PARSER = re.compile(rb"(?:[^/]|/[^*])*/\*(?:[^*]|\*[^/])*Generated by PEG.js")


def _is_peg_parser(content: Content) -> bool:
    text = b"".join(content.first_lines[:5])
    return b"Generated by PEG" in text and _PEG_PARSER.match(text) is not None


def _is_net_documentation(content: Content) -> bool:
    lines = content.first_lines
    return content.line_count > 3 and b"<doc>" in lines[1] and b"<assembly>" in lines[2] and b"</doc>" in content.last_lines[-2]


_POSTSCRIPT_FONT = re.compile(rb"^[^\S\n]*(?:currentfile eexec\s+|/sfnts\s+\[\s<)", re.MULTILINE)
_POSTSCRIPT_CREATOR = re.compile(
    rb"[0-9]|draw|mpage|ImageMagick|inkscape|MATLAB|PCBNEW|pnmtops|\(Unknown\)|Serif Affinity|Filterimage -tops"
)


def _is_generated_postscript(content: Content) -> bool:
    if _POSTSCRIPT_FONT.search(content.data):
        return True
    creator = next((line for line in content.first_lines[:10] if line.startswith(b"%%Creator: ")), None)
    if creator is None:
        return False
    if _POSTSCRIPT_CREATOR.search(creator):
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


_GAME_MAKER_BEGIN, _GAME_MAKER_VERSION = re.compile(rb"\s*[{\[]"), re.compile(rb"\d\.\d\.\d.+\|\{")


def _is_game_maker_metadata(content: Content) -> bool:
    begin = b"".join(content.first_lines[:3])
    return content.line_count > 3 and bool(_GAME_MAKER_BEGIN.match(begin) or _GAME_MAKER_VERSION.match(content.first_lines[0]))


def _is_sorbet_interface(content: Content) -> bool:
    lines = content.first_lines
    return (
        content.line_count >= 5
        and lines[0].startswith(b"# typed:")
        and b"DO NOT EDIT MANUALLY" in lines[2]
        and re.match(rb"# Please (run|instead update this file by running) `bin/tapioca", lines[4]) is not None
    )


_PKGDOWN, _DOXYGEN = (
    b"<!-- Generated by pkgdown: do not edit by hand -->",
    re.compile(rb"(?i)<!--\s+Generated by Doxygen\s+[.0-9]+\s*-->"),
)
_META = re.compile(rb"(?i)<meta(\s+[^>]++)>")
_META_ATTRIBUTE = re.compile(rb"""(?i)(?:^|(?<=\s))(name|content|value)\s*=\s*("[^"]+"|'[^']+'|[^\s"']+)""")
_HTML_GENERATOR = re.compile(rb"(?i)(org\s+mode|j?latex2html|groff|makeinfo|texi2html|ronn)\b")


def _is_generated_html(content: Content) -> bool:
    lines = content.first_lines
    if content.line_count < 2:
        return False
    if any(_PKGDOWN in line for line in lines[:2]) or any(map(_DOXYGEN.search, lines[:31])):
        return True
    if content.line_count > 2 and lines[2].startswith(b"<!-- This is an automatically generated file."):
        return True
    return any(_names_generator(meta) for meta in _META.findall(b" ".join(lines[:31])))


def _names_generator(meta: bytes) -> bool:
    """Return whether the attributes of a `meta` element say that a tool made the page."""
    pairs = _META_ATTRIBUTE.findall(meta.removesuffix(b"/").strip())
    attributes = {name.lower(): re.sub(rb"\A[\"']|[\"']\Z", b"", value) for name, value in pairs}
    if attributes.get(b"name", b"").lower() != b"generator":
        return False
    return any(_HTML_GENERATOR.match(attributes.get(name, b"")) for name in (b"content", b"value"))


def _by_extension(rules: Iterable[tuple[str, Rule]]) -> dict[str, Sequence[Rule]]:
    found: dict[str, list[Rule]] = {}
    for extensions, rule in rules:
        for extension in extensions.split():
            found.setdefault(extension, []).append(rule)
    return {extension: tuple(rules) for extension, rules in found.items()}


_RULES = _by_extension(
    (
        (".js", _line(0, rb"^// Generated by ", 0)),
        (".js", _is_compiled_coffeescript),
        (".js", _is_peg_parser),
        (".js", _line(5, rb"GENERATED CODE -- DO NOT EDIT!", 6)),
        (".js", _line(0, rb"^/\* (?:parser generated by jison|generated by jison-lex) ")),
        (".ts", _line(0, rb"Code generated by protoc-gen-ts_proto\. DO NOT EDIT\.", 4)),
        (".ps .eps .pfa", _is_generated_postscript),
        (".c .cpp", _line(0, rb"Generated by Cython")),
        (".go", _first(40, rb"^// Code generated .*")),
        (".proto", _first(20, rb"This file was autogenerated by go-to-protobuf")),
        (".py .java .h .cc .cpp .m .rb .php", _first(3, rb"Generated by the protocol buffer compiler\.  DO NOT EDIT!")),
        (".rb .py .go .js .m .java .h .cc .cpp .php", _first(6, rb"Autogenerated by Thrift Compiler", 0)),
        (".h", _is_jni_header),
        (".yml", _line(-2, rb"recorded_with: VCR", 2)),
        (".g", _line(1, rb"generated by Xtest", 2)),
        (".mod", _line(0, rb"PCBNEW-LibModule-V|GFORTRAN module version '")),
        (".meta", _line(0, rb"fileFormatVersion: ")),
        (".rb", _line(2, rb"^# This file is automatically generated by Racc", 2)),
        (".java", _line(0, rb"^/\* The following code was generated by JFlex ")),
        (".java", _line(0, rb"^// This is a generated file\. Not intended for manual editing\.")),
        (".Rd", _line(0, rb"% Generated by roxygen2: do not edit by hand")),
        (".cpp .hpp .h .cc", _line(0, rb"^// Generated by the gRPC")),
        (".dart", _first(3, rb"(?i)generated code\W{2,3}do not modify")),
        (".yy .yyp", _is_game_maker_metadata),
        (".c .h", _line(0, rb"^/\* GIMP [a-zA-Z0-9\- ]+ C-Source image dump \(.+?\.c\) \*/", 0)),
        (".c .h", _line(0, rb"^/\*  GIMP header image file format \([a-zA-Z0-9\- ]+\): .+?\.h  \*/", 0)),
        (".js .py .lua .cpp .h .java .cs .php", _first(3, rb"Generated by Haxe", 0)),
    )
)
_RULES_IN_ANY_CASE = _by_extension(
    (
        (".js .css", _is_minified),
        (".js .css", _has_source_map),
        (".map", _line(0, rb'^(?:\{"version":\d+,|/\*\* Begin line maps\. \*\*/\{)', 0)),
        (".xml", _is_net_documentation),
        (".html .htm .xhtml", _is_generated_html),
        (".dsp", _first(3, rb"# Microsoft Developer Studio Generated Build File", 0)),
        (".java", _first(2, rb"This file is generated by jOOQ\.", 0)),
        (".rbi", _is_sorbet_interface),
        (".frm", _line(0, rb"TYPE=VIEW", 0)),
    )
)
