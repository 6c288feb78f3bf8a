"""Writes the vectors of the digest's current form, once, with the values of the form before.

    PYTHONPATH=tests python -m support.digest_vectors docs/digest-vectors-N.json

What is there is never written again. tests/core/test_digest_vectors.py proves the vectors by an implementation of its
own.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from stargraph.checkpoint.codec import DIGEST_FORM, Keyring, canonical
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.protocol._draft import StoredFields
from support.workspace import ROOT


def path_of(form: int) -> Path:
    """Return the file of a form."""
    return ROOT / f"docs/digest-vectors-{form}.json"


def _canonical_of(checkpoint: dict[str, Any]) -> bytes:
    members = {name: value for name, value in checkpoint.items() if name not in ("digest", "seal")}
    for name in ("state", "update"):
        if members[name] is not None:
            members[name] = {key: hashlib.sha256(canonical(value)).hexdigest() for key, value in members[name].items()}
    return canonical(members | {"form": DIGEST_FORM})


def converted(former: dict[str, Any]) -> dict[str, Any]:
    """Return the vectors of the current form that have the values of another one."""
    digests: dict[str | None, str | None] = {None: None}
    last: dict[str, Checkpoint] = {}
    checkpoints = []
    for vector in former["checkpoints"]:
        fields = StoredFields.model_validate_json(vector["json"][:-1] + f',"digest":"{vector["digest"]}"}}')
        values = json.loads(vector["json"])
        written = fields.model_dump(mode="json") | {
            "state": values["state"],
            "update": values["update"],
            "previous_digest": digests.get(values["previous_digest"], values["previous_digest"]),
        }
        text = _canonical_of(written)
        digest = hashlib.sha256(text).hexdigest()
        digests[vector["digest"]] = digest
        last[digest] = made = Checkpoint.model_validate_json(json.dumps(written | {"digest": digest}))
        checkpoints.append(
            {
                "name": vector["name"],
                "json": made.model_dump_json(exclude={"digest", "seal"}),
                "canonical": text.decode(),
                "digest": digest,
            }
        )
    seals = []
    for vector in former["seals"]:
        new = digests[vector["digest"]]
        assert new is not None
        seal = Keyring.parse(vector["keys"]).seal(last[new]).seal
        assert seal is not None
        seals.append({"keys": vector["keys"], "digest": new, "key_id": seal.key_id, "mac": seal.mac})
    values = [
        {
            "json": vector["json"],
            "canonical": (text := canonical(json.loads(vector["json"]))).decode(),
            "sha256": hashlib.sha256(text).hexdigest(),
        }
        for vector in former["canonical"]
    ]
    return {"form": DIGEST_FORM, "canonical": values, "checkpoints": checkpoints, "seals": seals}


def main() -> None:
    """Write the file of the current form, if there is none."""
    path = path_of(DIGEST_FORM)
    if path.exists():
        raise SystemExit(f"{path.name} is there already, and vectors are never written again")
    former = json.loads(Path(sys.argv[1]).read_text())
    path.write_text(json.dumps(converted(former), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
