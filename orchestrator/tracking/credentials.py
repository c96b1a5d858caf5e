"""Name and password, or token, for an MLflow server: read from a file, so that no secret stands in a command or a log.

The file that MOR_SWEEP_MLFLOW_CREDENTIALS names has the form of MLflow's own ~/.mlflow/credentials, which MLflow reads
by itself, and may also hold a token:

    [mlflow]
    mlflow_tracking_username = ada
    mlflow_tracking_password = ...
    mlflow_tracking_token = ...
"""

import configparser
import os
from pathlib import Path

from mor_core.errors import UserError

VARIABLE = "MOR_SWEEP_MLFLOW_CREDENTIALS"
SECTION = "mlflow"
KEYS = ("mlflow_tracking_username", "mlflow_tracking_password", "mlflow_tracking_token")


class CredentialsError(UserError):
    """The file of credentials is of no use; the message names it, never what it holds."""


def use_credentials() -> None:
    """Let MLflow know, in this process, what the file holds. Nothing where the variable is not set.

    Raises CredentialsError where the file cannot be used, or others can read it.
    """
    if not (file_name := os.environ.get(VARIABLE)):
        return
    path = Path(file_name).expanduser()
    expected = f"expected a file with a section [{SECTION}] and {', '.join(KEYS[:2])} or {KEYS[2]}"
    try:
        if path.stat().st_mode & 0o077:
            raise CredentialsError(f"{VARIABLE}: {path} can be read by others: chmod 600 {path}")
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(path.read_text())
        credentials = {key: value for key, value in parser[SECTION].items() if key in KEYS and value}
    except OSError as error:
        raise CredentialsError(f"{VARIABLE}: {path} cannot be read ({error.strerror}): {expected}") from error
    except (configparser.Error, KeyError, UnicodeDecodeError):
        # Not the error's own words: they may show a line of the file.
        raise CredentialsError(f"{VARIABLE}: {path} is of another form: {expected}") from None
    if not credentials:
        raise CredentialsError(f"{VARIABLE}: {path} holds no credentials: {expected}")
    os.environ.update({key.upper(): value for key, value in credentials.items()})
