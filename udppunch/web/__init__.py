"""The page of the chat, as files: one of HTML, one of CSS, one of JavaScript."""

from __future__ import annotations

from importlib import resources
from typing import Dict, Tuple

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "chat.css": "text/css; charset=utf-8",
    "chat.js": "text/javascript; charset=utf-8",
}


def files() -> Dict[str, Tuple[str, bytes]]:
    """By name: content type and content."""
    folder = resources.files(__name__)
    return {name: (kind, (folder / name).read_bytes()) for name, kind in _TYPES.items()}
