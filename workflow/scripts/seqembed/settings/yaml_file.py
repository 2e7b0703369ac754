"""Refuse configuration files that Snakemake would misread, or for which it shows a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from seqembed.errors import ConfigError, shorten

# In a configuration with this key, Snakemake runs code.
_TEMPLATE_KEY = "__use_yte__"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """PyYAML's safe loader; also refuses repeated keys, and names the line of an invalid value."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                message = f"the key {key.value!r} is already in line {lines[name]}; keep one."
                raise ConfigError(f"{self.name}, line {line}: {message}")
            lines[name] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, AttributeError) as error:
            # The text looks like a date or a number, but is not a valid one.
            message = f"YAML cannot read the value {shorten(node.value)!r}; put it in quotes."
            line = node.start_mark.line + 1
            raise ConfigError(f"{self.name}, line {line}: {message}") from error


def check_yaml(path: Path) -> None:
    """Raise ConfigError, with the line if known, for a file that Snakemake would misread."""
    try:
        # A pipe could be read once only, and Snakemake reads the file too.
        if not path.is_file():
            raise ConfigError(f"{path} is not a file; put a file with this name there.")
        loader: Any = _Loader(path.read_text(encoding="utf-8"))
        loader.name = str(path)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            message = "has no keys; write settings such as `shards: 4` into the file, or remove it."
            raise ConfigError(f"{path}: {message}")
        if _TEMPLATE_KEY in loader.construct_document(root):
            message = "lets Snakemake run code in the file; remove this key."
            raise ConfigError(f"{path}: the key {_TEMPLATE_KEY} {message}")
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}{_explain(error)}") from error


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return f" cannot be read ({error.strerror}); check its permissions."
    if isinstance(error, UnicodeDecodeError):
        return " is not UTF-8 text; save it as UTF-8."
    if isinstance(error, RecursionError):
        return ": groups or lists are nested too deeply; remove the inner ones."
    if not isinstance(error, yaml.MarkedYAMLError):
        code = getattr(error, "character", 0)
        return f": YAML forbids the character U+{code:04X}; remove it from the file."
    place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
    if "'\\t' that cannot start any token" in str(error.problem):
        return f"{place}: a tab stands where YAML allows only blanks; replace it with blanks."
    advice = (
        "Is a line indented differently from its neighbours, or does the line above still "
        "begin with `#`?"
    )
    # In YAML, `fasta: *.faa` without quotes refers to a value that `&.faa` named.
    if error.context == "while scanning an alias" or "undefined alias" in str(error.problem):
        advice = "Put a pattern that begins with `*` in quotes."
    return f"{place}: not valid YAML ({error.problem}). {advice}"
