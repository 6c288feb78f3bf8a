"""What records have in common: the compressor's dictionary, so that a small record need not spell it out.

Part of the stored form. Changing a byte of it makes what is stored unreadable: another dictionary needs another version
of the form. What is most common stands last, where the compressor reaches it most cheaply.
"""

from __future__ import annotations

from typing import Final

DICTIONARY: Final = (
    b'"d":[],"o":[],"event":"asked""answered""resumed""cancel_requested""paused""cancelled""failed""migrated""start'
    b'ed","awaiting_input""done","error":{"message":"","node":"","reason":null,"traceback":"Traceback (most recent call'
    b' last):\\n  File \\"","type":""},"seal":{"key_id":"","mac":""},"interrupts":[{"asked_at":"2026-01-01T00:00:00.'
    b'000000Z","child_run_id":null,"id":"","into":null,"node":"","payload":null,"prompt":"","task_id":""}],"frontier":[{"com'
    b'pleted_steps":[{"first":0,"last":0}],"join":"","kind":"fan_out","mode":"map""parallel","next_index":0,"rule":"","s'
    b'ince_step":0,"task_id":"","width":0}],{"calls":[{"error":null,"key":null,"kind":"call""answer""now","name":"","occ'
    b'urrence":0,"result":null,"started_at":"2026-01-01T00:00:00.000000Z","task_id":""}],"event":"called"{"f":{"run":300'
    b',"event":300,"digests":32},"s":{"a":1},"u":{}}\n{"run_id":"","graph_id":"","graph_hash":"","runtime_hash":"","star'
    b'ted_at":"2026-01-01T00:00:00Z","executor_id":"","process":{"host":"","pid":0,"version":"","worker":null},"parent_ru'
    b'n_id":"","parent_step":0,"origin":"fork""subgraph","metadata":{}}{"f":{"event":300,"digests":64},"s":{"a":[0,1,-1,'
    b'1,1],"b":1},"u":{"a":[0,1],"b":1}}\n{"event":"completed","frontier":[{"calls":[],"id":"","index":null,"kind":"task'
    b'","node":"","rule":null,"since_step":0}],"last_node":"","status":"running","step":0,"task_id":"","task_started_at":'
    b'"2026-01-01T00:00:00.000000Z","timestamp":"2026-01-01T00:00:00.000000Z"}{"f":{"event":300,"digests":[-32,0,32]},"s'
    b'":{"'
)
