"""The list of public names is that of the code: a review sees every change that users would notice."""

from __future__ import annotations

import ast
import re

import public_api


def test_the_list_is_that_of_the_code() -> None:
    listed = public_api.FILE.read_text(encoding="utf-8").splitlines()
    found = public_api.listing().splitlines()
    changes = [f"- {line}" for line in listed if line not in set(found)]
    changes += [f"+ {line}" for line in found if line not in set(listed)]
    assert not changes, "\n".join(["run `make public-api`, and see docs/compatibility.md:", *changes])
    assert listed == found


def test_each_signature_is_one_of_python() -> None:
    for line in public_api.FILE.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"(?:async )?def ([\w.]+)", line):
            ast.parse(line.replace(found[1], found[1].rpartition(".")[2], 1) + ": ...")


def test_how_stargraph_makes_what_it_gives_to_users_is_not_public() -> None:
    listed = public_api.FILE.read_text(encoding="utf-8")
    for name in ("graph.Context", "graph.Run", "dask.FleetRun"):
        assert f"\nclass stargraph.{name}" in listed
        assert f" stargraph.{name}.__init__(" not in listed
    for name in ("graph.Graph", "worker.Worker", "testing.FakeContext", "checkpoint.sqlite.SQLiteCheckpointer"):
        assert f" stargraph.{name}.__init__(" in listed
