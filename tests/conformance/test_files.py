"""The files of a store, as checks copy them."""

from __future__ import annotations

from pathlib import Path

from stargraph.checkpoint.conformance._files import Backup


def test_a_copy_that_is_put_back_leaves_the_stores_beside_it_alone(tmp_path: Path) -> None:
    stores, copies = tmp_path / "stores", tmp_path / "copies"
    copies.mkdir()
    (stores / "db1.parts").mkdir(parents=True)
    for name in ("db1", "db1-wal", "db1.parts/0", "db10"):
        (stores / name).write_text("before")
    backup = Backup(str(stores / "db1"), copies)
    for name in ("db1", "db1-wal", "db1-shm", "db1.parts/1", "db10", "db11"):
        (stores / name).write_text("after")
    assert backup.put_back()
    found = {str(file.relative_to(stores)): file.read_text() for file in stores.rglob("*") if file.is_file()}
    assert found == {
        "db1": "before",
        "db1-wal": "before",
        "db1.parts/0": "before",
        "db10": "after",
        "db11": "after",
    }
