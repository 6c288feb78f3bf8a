"""What records have in common: the compressor's dictionary, so that a small record need not spell it out.

Part of the stored form. Changing a byte of it makes what is stored unreadable: another dictionary needs another version
of the form. What is most common stands last, where the compressor reaches it most cheaply.
"""

from __future__ import annotations

from typing import Final

DICTIONARY: Final = (
    b'{"f":{"step":1,"event":11,"status":6,"last_node":9,"task_id":24,"task_started_at":29,"error":0,"frontier":95,'
    b'"interrupts":2,"calls":2,"timestamp":29,"executor":16,"previous_digest":32,"digest":32,"seal":99},"s":{},"d":[],'
    b'"o":[],"u":{}}\n"started""called""asked""answered""resumed""cancel_requested""paused""cancelled""failed""migrated"'
    b'"awaiting_input""done"{"type":"","message":"","reason":null,"node":"","traceback":"Traceback (most recent call'
    b' last):\\n  File \\""}[{"kind":"fork","mode":"map","rule":"","task_id":"","join":"","since_step":0,"width":0,'
    b'"next_index":0,"completed_steps":[{"first":0,"last":0}]}][{"id":"","task_id":"","node":"","prompt":"","payload":null,'
    b'"into":null,"child_run_id":null,"asked_at":"2026-01-01T00:00:00.000000Z"}][{"kind":"call","task_id":"","name":"",'
    b'"key":null,"occurrence":0,"result":null,"error":null,"started_at":"2026-01-01T00:00:00.000000Z"}]{"key_id":"","mac":""}'
    b'[{"kind":"task","id":"","node":"","since_step":0,"index":null,"rule":null,"calls":[]}]{"f":{"run_id":38,"step":1,'
    b'"event":9,"status":9,"graph_id":7,"graph_hash":32,"runtime_hash":32,"definition":999,"frontier":95,"interrupts":2,'
    b'"calls":2,"started_at":29,"timestamp":29,"executor":16,"metadata":2,"digest":32},"s":{},"u":{}}\n"running""completed"'
    b'"2026-01-01T00:00:00.000000Z"{"f":{"step":1,"last_node":9,"task_id":24,"task_started_at":29,"frontier":95,'
    b'"timestamp":29,"previous_digest":32,"digest":32},"s":{'
)
