"""Refuse configuration files that Snakemake would misread, or answer with a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from seqembed.errors import ConfigError, shorten

# With this key Snakemake takes a configuration for a template, and runs the code in it.
_TEMPLATE_KEY = "__use_yte__"
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """PyYAML's safe loader, which also refuses repeated keys and names the line of a bad value."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
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
            # A text that looks like a date or a number and is neither.
            message = f"YAML cannot read the value {shorten(node.value)!r}; put it in quotes."
            line = node.start_mark.line + 1
            raise ConfigError(f"{self.name}, line {line}: {message}") from error


def check_yaml(path: Path) -> None:
    """Raise ConfigError for a file that Snakemake would misread; names the line if known."""
    try:
        loader: Any = _Loader(_read(path))
        loader.name = str(path)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            message = "has no keys; write `datasets:` and what belongs below it, or remove the file"
            raise ConfigError(f"{path}: {message}.")
        if _TEMPLATE_KEY in loader.construct_document(root):
            message = "would let Snakemake run what the file says; write plain settings instead."
            raise ConfigError(f"{path}: {_TEMPLATE_KEY} {message}")
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        advice = (
            "Is a line indented differently from its neighbours, or does the line above still "
            "begin with `#`?"
        )
        # `fasta: *.faa` without quotes asks for what was named by `&.faa`.
        if error.context == "while scanning an alias" or "undefined alias" in str(error.problem):
            advice = "Put a pattern that begins with `*` in quotes."
        message = f"{path}{place}: not valid YAML ({error.problem}). {advice}"
        raise ConfigError(message) from error
    except yaml.YAMLError as error:
        code = getattr(error, "character", 0)
        message = f"{path}: holds the character U+{code:04X}, which YAML forbids; remove it."
        raise ConfigError(message) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: the values are nested too deeply; nest them less.") from error


def _read(path: Path) -> str:
    try:
        # A pipe would be empty when Snakemake reads it.
        if not path.is_file():
            raise ConfigError(f"{path} is not a file; put a file of that name in its place.")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); check its permissions."
        raise ConfigError(message) from error
