"""Names that files of others give to files: taken only where they lead nowhere else."""


def is_plain_name(name: object) -> bool:
    """Whether it is the name of one entry of a folder: no way up, down or elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)
