"""Where the program makes its messages, and which words are fixed in each: read from its code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow/scripts"
RULES = ROOT / "workflow/rules/common.smk"
# Stands for a value in a message, so that no phrase is found across it.
VALUE = "\0"
Function = ast.FunctionDef | ast.ClassDef


def plain(text: str) -> str:
    """A text without the marks of Markdown and of regular expressions, and with single blanks."""
    return " ".join(re.sub(r"[`\\]", "", text).split())


@dataclass
class Module:
    """A module's code, and the names that it defines and imports."""

    path: Path
    tree: ast.Module
    values: dict[str, list[ast.expr]] = field(default_factory=dict)
    functions: dict[str, list[Function]] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = assigned(self.tree.body)
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                self.functions.setdefault(node.name, []).append(node)
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in node.names:
                    self.imported[name.asname or name.name] = (node.module, name.name)


@cache
def local_values(function: Function) -> dict[str, list[ast.expr]]:
    return assigned(function.body)


def assigned(body: list[ast.stmt]) -> dict[str, list[ast.expr]]:
    """The values that statements give to each name; of `a, b = x, y`, both values to both names."""
    found: dict[str, list[ast.expr]] = {}
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in (part for target in targets for part in ast.walk(target)):
                    if isinstance(name, ast.Name) and node.value is not None:
                        found.setdefault(name.id, []).append(node.value)
    return found


@cache
def read_module(path: Path) -> Module:
    return Module(path, ast.parse(path.read_text(encoding="utf-8")))


@cache
def read_rules() -> Module:
    """The functions of common.smk, whose other lines are not Python."""
    text = RULES.read_text(encoding="utf-8")
    imports = re.findall(r"^from seqembed\S* import (?:\([^)]*\)|.*)$", text, re.MULTILINE)
    parts = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    functions = [part for part in parts if part.startswith("def ")]
    return Module(RULES, ast.parse("\n".join([*imports, *functions])))


def modules() -> list[Module]:
    return [read_rules(), *map(read_module, sorted(SCRIPTS.rglob("*.py")))]


def joined(node: ast.JoinedStr) -> str:
    parts = [p.value if isinstance(p, ast.Constant) else VALUE for p in node.values]
    return plain("".join(map(str, parts)))


@dataclass
class Words:
    """Gathers the fixed words of an expression, and of the names and functions in it."""

    module: Module
    function: Function | None = None
    seen: set[int] = field(default_factory=set)

    def of(self, node: ast.AST) -> Iterator[str]:
        if id(node) in self.seen:
            return
        self.seen.add(id(node))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield plain(node.value)
        if isinstance(node, ast.JoinedStr):
            yield joined(node)
        if isinstance(node, ast.Name):
            yield from self.named(node.id)
        if isinstance(node, ast.Attribute):
            yield from self.attribute(node)
            return
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
                yield from self.of(child)

    def attribute(self, node: ast.Attribute) -> Iterator[str]:
        """The words of a method of the same class, or of a function in an imported module."""
        name = node.value.id if isinstance(node.value, ast.Name) else ""
        path = path_of(".".join(self.module.imported.get(name, ())))
        if name in ("self", "cls"):
            yield from self.returned(self.module, node.attr)
        elif path.is_file():
            yield from self.returned(read_module(path), node.attr)

    def named(self, name: str) -> Iterator[str]:
        """The words of a name in the function, in the module, or in the one it is imported from."""
        local = local_values(self.function) if self.function else {}
        if name in local:
            for value in local[name]:
                yield from Words(self.module, self.function, self.seen).of(value)
            return
        module, original = self.module, name
        if name in module.imported:
            source, original = module.imported[name]
            if not path_of(source).is_file():
                return
            module = read_module(path_of(source))
        for value in module.values.get(original, []):
            yield from Words(module, None, self.seen).of(value)
        yield from self.returned(module, original)

    def returned(self, module: Module, name: str) -> Iterator[str]:
        """The words that functions of this name return; of an error's class, those it adds."""
        for function in module.functions.get(name, []):
            parts = [n.value for n in ast.walk(function) if isinstance(n, ast.Return) and n.value]
            if isinstance(function, ast.ClassDef):
                calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
                parts = [arg for call in calls if is_init(call) for arg in call.args]
                function = next((f for f in function.body if is_init(f)), function)
            else:
                parts = [*function.args.defaults, *parts]
            for part in parts:
                yield from Words(module, function, self.seen).of(part)


def is_init(node: ast.AST) -> bool:
    """Whether this is the definition or a call of an `__init__`."""
    called = node.func if isinstance(node, ast.Call) else node
    return "__init__" in (getattr(called, "attr", ""), getattr(called, "name", ""))


def path_of(module: str) -> Path:
    return SCRIPTS / f"{module.replace('.', '/')}.py"


@dataclass(frozen=True)
class Site:
    """A place that makes a message: it raises an error of errors.py, or logs a warning."""

    place: str
    words: tuple[str, ...]

    def says(self, phrase: str) -> bool:
        """Whether the fixed words hold the phrase."""
        return holds("\n".join(self.words), phrase)


@cache
def pattern_of(phrase: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, phrase.split(" ... "))))


def holds(text: str, phrase: str) -> bool:
    """Whether a line of the text holds all parts of the phrase, which `...` separates, in order."""
    return pattern_of(phrase).search(text) is not None


# Python's own errors are caught where they are raised, or are bugs.
PYTHONS = {
    "ValueError",
    "IndexError",
    "OSError",
    "FileNotFoundError",
    "FileExistsError",
    "EOFError",
}


def message_of(node: ast.AST) -> ast.expr | None:
    """What a statement raises, or what it logs as a warning or an error."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call | ast.Attribute):
        called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return None if getattr(called, "id", "") in PYTHONS else node.exc
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        levels = ("warning", "error", "exception", "critical")
        if node.func.attr in levels and "logger" in ast.unparse(node.func.value):
            return ast.Tuple(node.args, ast.Load())
    return None


def sites() -> list[Site]:
    """All places of the program that make messages, in the order of the files."""
    found = []
    for module in modules():
        owners: dict[ast.AST, Function] = {}
        for outer in ast.walk(module.tree):
            if isinstance(outer, ast.FunctionDef):
                owners |= dict.fromkeys(ast.walk(outer), outer)
        for node in ast.walk(module.tree):
            if (message := message_of(node)) is not None:
                owner = owners.get(node)
                words = tuple(Words(module, owner).of(message))
                name = module.path.relative_to(ROOT / "workflow")
                where = f"{name}, {owner.name if owner else 'module'}"
                found.append(Site(f"{where}: {ast.unparse(message)}", words))
    return found


def all_words(trees: Iterable[ast.AST]) -> str:
    """All strings of these programs, without comments and docstrings, a line for each."""
    lines = []
    for node in (node for tree in trees for node in ast.walk(tree)):
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.JoinedStr):
                lines.append(joined(part))
            elif isinstance(part, ast.Constant) and not isinstance(node, ast.Expr):
                lines.append(plain(str(part.value)))
    return "\n".join(lines)
