"""A graph as a user would test it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pydantic import BaseModel

from stargraph.graph import Context

MADE: list[str] = []
"""What was done outside, in order."""


class Receipt(BaseModel):
    number: int


def charge(amount: int) -> Receipt:
    MADE.append(f"charge {amount}")
    return Receipt(number=7)


def mail(text: str) -> str:
    MADE.append(f"mail {text}")
    return "sent"


async def pay(state: Any, ctx: Context) -> dict[str, Any]:
    receipt = await ctx.call("charge", charge, state.amount)
    return {"receipt": receipt.number}


def tell(state: Any, ctx: Context) -> dict[str, Any]:
    return {"told": [ctx.call_sync("mail", mail, f"{state.receipt}")]}


async def ask(state: Any, ctx: Context) -> dict[str, Any]:
    return {"approved": ctx.interrupt(f"Pay {state.amount}?", {"amount": state.amount})}


async def forgetful(state: Any) -> dict[str, Any]:
    """Keeps something in the process."""
    MADE.append("forgetful")
    return {"told": [f"{len(MADE)}"]}


async def talk(state: Any, ctx: Context) -> None:
    ctx.emit("hello")
    await ctx.emit({"progress": 1}, stored=True)


def talk_in_a_thread(state: Any, ctx: Context) -> None:
    ctx.emit("hello", stored=True)


async def late(state: Any, ctx: Context) -> None:
    if ctx.attempt < 3:
        await asyncio.sleep(3600)


def slow(state: Any) -> dict[str, Any]:
    time.sleep(0.3)
    return {"told": ["slowly"]}


async def naps(state: Any, ctx: Context) -> dict[str, Any]:
    await ctx.sleep(3600)
    await ctx.emit("awake")
    return {"n": 1}
