"""Expenses by chat, in LangGraph: small ones are booked, large ones wait for somebody's approval.

Try: ada "taxi 14.50"; then ada "hotel 420"; then ada --answer yes; each with --store STORE.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from typing import Any

from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from stargraph.langgraph import StargraphSaver


class Expenses(MessagesState):
    booked: float


async def book(state: Expenses) -> dict[str, Any]:
    """Book the amount of the latest message; a model could read it as well."""
    found = re.search(r"\d+(\.\d+)?", str(state["messages"][-1].content))
    if not found:
        return {"messages": [("ai", "How much was it?")]}
    amount = float(found[0])
    if amount > 100 and interrupt(f"Book {amount:.2f}?") != "yes":
        return {"messages": [("ai", f"{amount:.2f} was refused.")]}
    total = state.get("booked", 0.0) + amount
    return {"messages": [("ai", f"Booked {amount:.2f}, {total:.2f} so far.")], "booked": total}


builder = StateGraph(Expenses)
builder.add_node("book", book)
builder.add_edge(START, "book")
builder.add_edge("book", END)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("thread")
    parser.add_argument("message", nargs="?", default="")
    parser.add_argument("--answer", help="answer what the thread waits for")
    parser.add_argument("--store", required=True)
    options = parser.parse_args()
    given: Any = Command(resume=options.answer) if options.answer else {"messages": [("human", options.message)]}
    async with StargraphSaver.from_url(options.store) as saver:
        graph = builder.compile(checkpointer=saver)
        state = await graph.ainvoke(given, {"configurable": {"thread_id": options.thread}})
    waiting = state.get("__interrupt__")
    print(waiting[0].value if waiting else state["messages"][-1].content)


if __name__ == "__main__":
    asyncio.run(main())
