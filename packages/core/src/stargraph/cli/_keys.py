"""Files with keys, for `--encryption-keys`."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, field
from typing import Final

from stargraph.cli._secrets import add_secrets, key_secrets
from stargraph.errors import StargraphError

_HINT: Final = "Write key_id:secret, one key a line, the current one first."


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The keys of a file.

    Attributes:
        name: the file, as the user named it.
        text: the keys, separated by commas.
    """

    name: str
    text: str = field(repr=False)

    @property
    def option(self) -> str:
        """The option as the user gave it, for errors."""
        return f"--encryption-keys {self.name}"

    @classmethod
    def read(cls, name: str) -> KeyFile:
        """Read a file with one key a line; blank lines and lines that begin with `#` do not count.

        Args:
            name: its path.

        Raises:
            StargraphError: it cannot be read, holds no key, or others than its owner can read it.
        """
        from stargraph.checkpoint.codec import Cipher
        from stargraph.checkpoint.driver import open_regular_file

        if not name:
            raise StargraphError(
                "--encryption-keys is empty",
                reason="invalid-encryption-key",
                hint="Name a file, or leave the option out.",
            )
        try:
            with open_regular_file(name) as file:
                status = os.fstat(file.fileno())
                content = file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise _refused(name, "the file is not text", _HINT) from None
        except (OSError, ValueError) as error:
            _refuse_key(name)
            raise _refused(name, getattr(error, "strerror", None) or str(error), _HINT) from None
        lines = [line.strip() for line in content.splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        add_secrets(key_secrets(keys))
        if stat.S_ISREG(status.st_mode) and sys.platform != "win32" and _others_can_read(status):
            raise _refused(name, "others than its owner can read the keys", f"Change that: chmod 600 {name}")
        if not keys:
            raise _refused(name, "the file holds no key", _HINT)
        if any(len(key.split()) > 1 or "," in key for key in keys):
            raise _refused(name, "a line holds more than one key", _HINT)
        text = ",".join(keys)
        try:
            Cipher.parse(text)
        except ValueError as error:
            raise _refused(name, str(error), _HINT) from None
        return cls(name, text)


def _refuse_key(name: str) -> None:
    """Refuse what is no file and looks like a key, without showing it.

    Raises:
        StargraphError: it does.
    """
    from stargraph.checkpoint.codec._keys import SHORTEST_SECRET

    key_id, _, secret = name.rpartition(":")
    # In Base64, a key without an id may hold a slash, and then mostly ends with an equals sign.
    is_path = not name.endswith("=") and any(mark in (key_id or name) for mark in "./\\")
    if len(secret) < SHORTEST_SECRET or is_path:
        return
    add_secrets({name, secret})
    raise StargraphError(
        "--encryption-keys was given a key, and takes the name of a file",
        reason="invalid-encryption-key",
        hint="Write the key into a file that only you can read, or set STARGRAPH_ENCRYPTION_KEY. What was on a command"
        " line may be in logs and in the shell's history: make a new key.",
    )


def _others_can_read(status: os.stat_result) -> bool:
    # The rule of PostgreSQL for the key of a certificate: a group may read the file if it belongs to root.
    # https://www.postgresql.org/docs/current/ssl-tcp.html
    forbidden = stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if status.st_uid == 0 else stat.S_IRWXG)
    return bool(status.st_mode & forbidden)


def _refused(name: str, complaint: str, hint: str) -> StargraphError:
    return StargraphError(f"--encryption-keys {name}: {complaint}", reason="invalid-encryption-key", hint=hint)
