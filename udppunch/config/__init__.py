"""Configuration: frozen values, validated once, from the command line or a YAML file alike.

The command line's options, the keys of the file and the manual pages are the same names; a
test holds them to each other.
"""

from __future__ import annotations

from udppunch.config.file import holds_key, load_file
from udppunch.config.parse import Invalid, is_exposed, nearest
from udppunch.config.people import TALKS, talk_config
from udppunch.config.process import PROCESS, ProcessConfig, process_config
from udppunch.config.roles import ALIASES, ROLES, parts, role_config

__all__ = [
    "ALIASES",
    "PROCESS",
    "ROLES",
    "TALKS",
    "Invalid",
    "ProcessConfig",
    "holds_key",
    "is_exposed",
    "load_file",
    "nearest",
    "parts",
    "process_config",
    "role_config",
    "talk_config",
]
