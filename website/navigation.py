"""The settings of the site with its navigation and its places filled in, for whatever builds it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


def complete(settings: str, uris: Iterable[str]) -> dict[str, Any]:
    """mkdocs.yml with the pages of each folder ("api/") in the navigation, the index first."""
    config = yaml.safe_load(settings)
    config["nav"] = [_filled(entry, sorted(uris)) for entry in config["nav"]]
    return config


def placed(config: dict[str, Any], root: Path, folder: Path) -> str:
    """The settings as a file in ``folder``, beside the pages; the sources are in ``root``."""
    config |= {"docs_dir": str(folder / "docs"), "site_dir": str(folder / "site")}
    (reader,) = (p["mkdocstrings"] for p in config["plugins"] if isinstance(p, dict))
    python = reader["handlers"]["python"]
    python["paths"] = [str(root / path) for path in python["paths"]]
    options = python["options"]
    options["extensions"] = [str(root / path) for path in options["extensions"]]
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _filled(entry: Any, uris: list[str]) -> Any:
    if isinstance(entry, str):
        return entry
    ((title, content),) = entry.items()
    if isinstance(content, list):
        return {title: [_filled(inner, uris) for inner in content]}
    if not content.endswith("/"):
        return entry
    pages = [uri for uri in uris if uri.startswith(content)]
    return {title: sorted(pages, key=lambda uri: not uri.endswith("/index.md"))}
