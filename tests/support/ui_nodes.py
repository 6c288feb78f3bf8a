"""Nodes of the graphs that the pages are tested and photographed with."""

from __future__ import annotations

import asyncio
from typing import Any

from stargraph.graph import Context


async def plan(state: Any, context: Context) -> dict[str, Any]:
    sections = await context.call("outline", _outline, state.topic)
    return {"sections": sections}


async def _outline(topic: str) -> list[str]:
    await asyncio.sleep(0.02)
    return [f"What {topic} costs", f"How {topic} fails", f"Who runs {topic}", f"What {topic} replaces"]


async def draft(state: Any, context: Context) -> dict[str, Any]:
    text = await context.call("write", _write, context.item)
    return {"drafts": [text]}


async def _write(section: str) -> dict[str, Any]:
    await asyncio.sleep(0.03 + len(section) % 5 / 50)
    return {"section": section, "words": len(section) * 37, "text": f"{section}. " + "It depends on the load. " * 6}


async def facts(state: Any, context: Context) -> dict[str, Any]:
    await asyncio.sleep(0.08)
    return {"facts": {"checked": len(state.drafts), "wrong": [], "sources": {"a": "https://example.org/a", "b": None}}}


async def style(state: Any, context: Context) -> dict[str, Any]:
    await asyncio.sleep(0.05)
    return {"score": 0.82}


async def merge(state: Any, context: Context) -> dict[str, Any]:
    return {"summary": f"{len(state.drafts)} sections on {state.topic}"}


async def publish(state: Any, context: Context) -> dict[str, Any]:
    if state.topic == "queues":
        raise ConnectionError("the printer at 10.0.0.7 does not answer")
    await asyncio.sleep(0.03)
    return {"published": True}


async def tick(state: Any, context: Context) -> dict[str, Any]:
    """One round of a loop."""
    await asyncio.sleep(0.01 if state.rounds else 0)
    return {"count": state.count + 1}
