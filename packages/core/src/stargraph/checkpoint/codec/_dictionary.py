"""What records have in common: the compressor's dictionary, so that a small record need not spell it out.

Part of the stored form. Changing a byte of it makes what is stored unreadable: another dictionary needs another version
of the form. What is most common stands last, where the compressor reaches it most cheaply.

A record refers to the dictionary by distances from its end: one that has more at its beginning, and is otherwise the
same, reads what was written with this one.
"""

from __future__ import annotations

from typing import Final

_LANGGRAPH: Final = (
    b'"","~__pregel_push, ",0,"__interrupt__"["","~__pregel_pull, ",0,"messages",[{"$":"ext","code":5,"value":["langch'
    b'ain_core.messages.system","SystemMessage",{"content":["langchain_core.messages.tool","ToolMessage",{"content":"","'
    b'type":"tool","name":"","id":"","tool_call_id":"","artifact":null,"status":"success"["langchain_core.messages.ai","'
    b'AIMessage",{"content":"","additional_kwargs":{"refusal":null},"response_metadata":{"token_usage":{},"model_provide'
    b'r":"","model_name":"","finish_reason":"stop"},"type":"ai","name":null,"id":"","tool_calls":[{"name":"","args":{},"'
    b'id":"call_","type":"tool_call"}],"invalid_tool_calls":[],"usage_metadata":{"input_tokens":0,"output_tokens":0,"tot'
    b'al_tokens":0,"input_token_details":{},"output_token_details":{}}"tool_calls":[],"invalid_tool_calls":[],"usage_met'
    b'adata":null},"model_validate_json"]}]]["langchain_core.messages.human","HumanMessage",{"content":"","additional_kw'
    b'args":{},"response_metadata":{},"type":"human","name":null,"id":""},"model_validate_json"]}]{"v":4,"ts":"2026-01-0'
    b'1T00:00:00.000000+00:00","id":"1f1","channel_versions":{"__start__":"00000000000000000000000000000001.0.","message'
    b's":"00000000000000000000000000000002.0.","branch:to:":"","__pregel_tasks":""},"versions_seen":{"__input__":{},"__s'
    b'tart__":{"__start__":""}},"updated_channels":["messages"]}{"source":"input""loop","step":-1,"parents":{}},"channel'
    b':__start__":1,"channel:branch:to:":4,"channel:messages":[0,1,-1],"checkpoint":[0,1,-1,1,1],"metadata":41,"parent":'
    b'38,"writes":2,"newest":38,"ahead":2'
)
"""The steps of the threads that `stargraph.langgraph` keeps."""

DICTIONARY: Final = _LANGGRAPH + (
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
