"""What records have in common: the compressor's dictionary, so that a small record need not spell it out.

Part of the stored form. Changing a byte of it makes what is stored unreadable: another dictionary needs another version
of the form. What is most common stands last, where the compressor reaches it most cheaply.
"""

from __future__ import annotations

from typing import Final

DICTIONARY: Final = (
    b'"d":[],"o":[],"event":"asked""answered""resumed""cancel_requested""paused""cancelled""failed""migrated""start'
    b'ed","awaiting_input""done","error":{"type":"","message":"","reason":null,"node":"","traceback":"Traceback (mo'
    b'st recent call last):\\n  File \\""},"seal":{"key_id":"","mac":""},"interrupts":[{"id":"","task_id":"","node"'
    b':"","prompt":"","payload":null,"into":null,"child_run_id":null,"asked_at":"2026-01-01T00:00:00.000000Z"}],"fr'
    b'ontier":[{"kind":"fan_out","mode":"map""parallel","rule":"","task_id":"","join":"","since_step":0,"width":0,"nex'
    b't_index":0,"completed_steps":[{"first":0,"last":0}]}],"event":"called","calls":[{"kind":"call""answer""now","'
    b'task_id":"","name":"","key":null,"occurrence":0,"result":null,"error":null,"started_at":"2026-01-01T00:00:00.'
    b'000000Z"}]{"f":{"run":300,"event":300,"digests":32},"s":{"a":1},"u":{}}\n{"run_id":"","graph_id":"","graph_ha'
    b'sh":"","runtime_hash":"","started_at":"2026-01-01T00:00:00.000000Z","executor_id":"","parent_run_id":"","parent_'
    b'step":0,"origin":"fork""subgraph","metadata":{}}{"f":{"event":300,"digests":64},"s":{"a":[0,1,-1,1,1],"b":1},'
    b'"u":{"a":[0,1],"b":1}}\n{"step":0,"event":"completed","status":"running","last_node":"","task_id":"","task_st'
    b'arted_at":"2026-01-01T00:00:00.000000Z","frontier":[{"kind":"task","id":"","node":"","since_step":0,"index":n'
    b'ull,"rule":null,"calls":[]}],"timestamp":"2026-01-01T00:00:00.000000Z"}{"f":{"event":300,"digests":[-32,0,32]'
    b'},"s":{"'
)
