"""Whether any sweep runs in a results folder: whatever deletes or moves its files waits until none does."""

from mor_core.errors import Refused
from orchestrator.records.terminal import command_line
from orchestrator.store.drivers import running_drivers
from orchestrator.store.store import Store


def check_idle(store: Store, refusal: type[Refused]) -> None:
    """Raises `refusal`, which says what to do, while a sweep runs in the results folder."""
    for driver in running_drivers(store):
        command = command_line("cancel", driver.sweep, results=store.root)
        raise refusal(
            f"the sweep {driver.sweep} is running in this results folder (process {driver.pid} on {driver.host}): wait "
            f"for its end or `{command}` first"
        )
