"""`stargraph migrate`."""

from __future__ import annotations

from stargraph.cli._options import DEFAULT_CHECKPOINT, JsonOption, KeysOption, StoreArgument
from stargraph.cli._output import print_json, print_lines


def migrate(
    store: StoreArgument = DEFAULT_CHECKPOINT, encryption_keys: KeysOption = None, json: JsonOption = False
) -> None:
    """Make the store PATH_OR_URL if it is not there, and bring an older one to the current format.

    Safe to run again, and by several processes at once. Commands that only read never do either.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    ref = StoreRef(store, encryption_keys)

    async def bootstrap() -> None:
        async with ref.opened("create"):
            pass

    run_async(bootstrap())
    if json:
        print_json({"store": str(ref), "ready": True})
    else:
        print_lines([f"store {ref} is ready"])
