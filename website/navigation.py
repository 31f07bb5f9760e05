"""The settings of the site with its navigation filled in, for whatever builds it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml


def complete(settings: str, uris: Iterable[str]) -> str:
    """mkdocs.yml as build/mkdocs.yml: entries that name a folder ("api/") list its pages, the index
    first, and folders are seen from build/."""
    config = yaml.safe_load(settings)
    config["nav"] = [_filled(entry, sorted(uris)) for entry in config["nav"]]
    for place in ("docs_dir", "site_dir"):
        config[place] = config[place].removeprefix("build/")
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
