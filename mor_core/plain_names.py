"""Names that files of others give to files: taken only where they lead nowhere else."""

import re

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_plain_name(name: object) -> bool:
    """Whether it is the name of one entry of a folder: no way up, down or elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def is_folder_name(name: str) -> bool:
    """Whether a sweep file may call a sweep or an arm so: up to 100 letters, digits, dots, dashes and underscores."""
    return _FOLDER_NAME.fullmatch(name) is not None
