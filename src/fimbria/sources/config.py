"""Read the configuration: many sources of text, one typed `Config`, and who set what.

Sources in the order in which later ones win: defaults, the files of --config-dir (one per key, as a
mounted ConfigMap is), --config FILE (a YAML map), environment CILIUM_*, flags, and at last the
CiliumNodeConfig objects that select the node. A key that is not known is an error that names the
nearest one, so that a slip of the pen does not become a network without policy.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import yaml

from fimbria.sources.options import (
    CHOICES,
    FIELDS,
    Config,
    ConfigError,
    check,
    default_node_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ENVIRONMENT = "CILIUM_"
NOT_OPTIONS = {"sock", "bpf-root-override"}
"""CILIUM_… variables that are no configuration keys: CILIUM_SOCK belongs to the command line."""

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Source:
    """Keys and their texts from one place; `name` stands in errors and in `config get`."""

    name: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Settings:
    """A checked configuration and, for every key that was set, the source that set it."""

    config: Config
    sources: Mapping[str, str]


def build(sources: Iterable[Source]) -> Settings:
    """Merge sources, later ones winning; raises ConfigError naming key, source and value."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source in sources:
        for key, text in source.values.items():
            one = FIELDS.get(key)
            if one is None:
                raise ConfigError(key or "''", f"no such key (in {source.name}){_nearest(key)}")
            try:
                values[one.name] = convert(one.default, text)
            except ValueError as error:
                raise ConfigError(key, f"{error} (in {source.name})") from error
            choices: tuple[str, ...] = one.metadata[CHOICES]
            if choices and values[one.name] not in choices:
                raise ConfigError(
                    key, f"{text!r} is not one of {', '.join(choices)} (in {source.name})"
                )
            origin[key] = source.name
    config = Config(**values)
    if not config.node_name:
        config = replace(config, node_name=default_node_name())
    check(config)
    return Settings(config, origin)


def convert(default: Any, text: str) -> Any:
    """Return `text` as a value of `default`'s type; ValueError says what was expected."""
    text = text.strip()
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    if isinstance(default, int):
        try:
            return int(text, 0)
        except ValueError:
            raise ValueError(f"{text!r} is no whole number") from None
    if isinstance(default, float):
        return duration(text)
    if isinstance(default, tuple):
        return tuple(part for part in re.split(r"[,\s]+", text) if part)
    return text


def duration(text: str) -> float:
    """Return seconds for "300", "5s", "1h30m", "250ms"."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration (such as 300s, 5m, 1h30m)")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def from_directory(path: Path) -> Source:
    """Read a folder with one file per key; names that start with a dot are the mount's own."""
    values: dict[str, str] = {}
    try:
        for file in sorted(path.iterdir()):
            if not file.name.startswith(".") and file.is_file():
                values[file.name] = file.read_text()
    except OSError as error:
        raise ConfigError("", f"{error.filename or path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("", f"{path}: a file there is not UTF-8 text: {error}") from error
    return Source(str(path), values)


def from_file(path: Path) -> Source:
    """Read a YAML map of keys to plain values, or a ConfigMap with such a map as its data."""
    try:
        document: object = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError("", f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError("", f"{path}: not YAML: {error}") from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError("", f"{path}: not a map of keys to values")
    values = cast("dict[object, object]", document)
    if values.get("kind") == "ConfigMap":
        data: object = values.get("data") or {}
        if not isinstance(data, dict):
            raise ConfigError("", f"{path}: data: not a map of keys to values")
        values = cast("dict[object, object]", data)
    return Source(str(path), {str(key): plain(str(key), value) for key, value in values.items()})


def from_environment(environ: Mapping[str, str]) -> Source:
    """Read CILIUM_ROUTING_MODE=… and the like."""
    values = {
        name.removeprefix(ENVIRONMENT).lower().replace("_", "-"): text
        for name, text in environ.items()
        if name.startswith(ENVIRONMENT)
    }
    return Source("environment", {k: v for k, v in values.items() if k not in NOT_OPTIONS})


def plain(key: str, value: object) -> str:
    """Return a YAML value as the text that a ConfigMap would hold."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in cast("list[object]", value))
    if value is None:
        return ""
    if isinstance(value, dict):
        raise ConfigError(key, "is a map; a plain value is wanted")
    return str(value)


def document(settings: Settings, effective: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Return `GET /v1/config`: key -> requested, effective, source. `effective` has overrides."""
    requested = asdict(settings.config)
    return {
        key: {
            "requested": requested[one.name],
            "effective": effective.get(key, requested[one.name]),
            "source": settings.sources.get(key, "default"),
        }
        for key, one in FIELDS.items()
    }


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, FIELDS, n=1)
    return f"; did you mean {near[0]}?" if near else ""
