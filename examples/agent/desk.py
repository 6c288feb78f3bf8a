"""A help desk: a model answers a customer with tools, and a person approves each call that costs money.

python desk.py "My order A7 arrived broken." asks on the terminal. Kill it at any moment and start it again:
it goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sqlite3
import urllib.request
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Context, Graph, GraphBuilder, append
from stargraph.ir import RetrySpec

HOME = Path(os.environ.get("DESK_HOME", ".demo/agent"))
SHOP = HOME / "shop.sqlite"
"""The shop's own database, which the tools read and change."""

Message = dict[str, Any]

ORDER = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
REFUND = {
    "type": "object",
    "properties": {"order": {"type": "string"}, "amount": {"type": "number"}},
    "required": ["order", "amount"],
}
TOOLS = {
    "look_up": ("Show an order", ORDER),
    "refund": ("Pay money for an order back", REFUND),
}
NEEDS_APPROVAL = {"refund"}


def shop() -> closing[sqlite3.Connection]:
    HOME.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(SHOP)
    with database:
        database.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, item TEXT, price REAL)")
        database.execute("CREATE TABLE IF NOT EXISTS refunds (request TEXT PRIMARY KEY, id TEXT, amount REAL)")
        database.execute("INSERT OR IGNORE INTO orders VALUES ('A7', 'a teapot', 30.0)")
    return closing(database)


def look_up(order: str) -> str:
    with shop() as database:
        found = database.execute("SELECT item, price FROM orders WHERE id = ?", (order,)).fetchone()
    return f"{found[0]}, paid {found[1]:.2f}" if found else "there is no such order"


def refund(order: str, amount: float, request: str) -> str:
    """Pay money back; `request` stays the same if the process dies in here and the call is repeated."""
    with shop() as database, database:
        database.execute("INSERT OR IGNORE INTO refunds VALUES (?, ?, ?)", (request, order, amount))
    return f"refunded {amount:.2f}"


def ask_model(messages: list[Message]) -> Message:
    """Ask any service that speaks the API of OpenAI; without OPENAI_BASE_URL, a script that runs offline answers."""
    if "OPENAI_BASE_URL" not in os.environ:
        return scripted_model(messages)
    tools = [
        {"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}
        for name, (text, parameters) in TOOLS.items()
    ]
    request = urllib.request.Request(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps({"model": os.environ.get("OPENAI_MODEL", "default"), "messages": messages, "tools": tools}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        reply: Message = json.load(response)["choices"][0]["message"]
    return reply


def scripted_model(messages: list[Message]) -> Message:
    """Look the order A7 up, refund it, and say what happened, in the form of the real replies."""
    results = [message for message in messages if message["role"] == "tool"]
    if len(results) == len(TOOLS):
        return {"role": "assistant", "content": f"About your order: {results[-1]['content']}."}
    name, arguments = [("look_up", {"order": "A7"}), ("refund", {"order": "A7", "amount": 30.0})][len(results)]
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": name, "type": "function", "function": function}],
    }


@dataclass
class Chat:
    messages: Annotated[list[Message], append] = field(default_factory=list)
    calls: list[Message] = field(default_factory=list)


builder = GraphBuilder("desk", Chat, max_steps=40)


@builder.node(retry=RetrySpec(attempts=4, on=("OSError",)))
async def think(state: Chat, ctx: Context) -> dict[str, Any]:
    reply = await ctx.call("model", ask_model, state.messages)
    return {"messages": [reply], "calls": reply.get("tool_calls") or []}


@builder.node
async def act(state: Chat, ctx: Context) -> dict[str, Any]:
    results = []
    for call in state.calls:
        name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
        if name in NEEDS_APPROVAL and not ctx.interrupt(f"Allow {name}?", payload=arguments, key=call["id"]):
            content = "a person refused this"
        elif name == "refund":
            request = f"{ctx.idempotency_key}-{call['id']}"
            content = await ctx.with_options(key=call["id"]).call(name, refund, request=request, **arguments)
        elif name == "look_up":
            content = await ctx.with_options(key=call["id"]).call(name, look_up, **arguments)
        else:
            content = f"there is no tool {name!r}"
        results.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    return {"messages": results}


builder.after(think, when="size(state.calls) > 0").goto(act)
builder.after(think).halt("answered")
builder.after(act).goto(think)
graph = Graph(builder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default="My order A7 arrived broken.")
    parser.add_argument("--approve", choices=("yes", "no"), help="answer every question instead of asking here")
    options = parser.parse_args()
    HOME.mkdir(parents=True, exist_ok=True)
    store = SQLiteCheckpointer(HOME / "chats.sqlite")
    run_id = f"chat-{hashlib.sha256(options.question.encode()).hexdigest()[:12]}"
    inputs = {"messages": [{"role": "user", "content": options.question}]}
    result = graph.run_sync(checkpointer=store, run_id=run_id, inputs=inputs, resume=True)
    while result.questions:
        question = result.questions[0]
        answer = options.approve or input(f"{question.prompt} {question.payload} [yes/no] ")
        graph.respond_sync(run_id, question, answer == "yes", checkpointer=store)
        result = graph.resume_sync(run_id, checkpointer=store)
    result.raise_for_status()
    print(result.state.messages[-1]["content"])


if __name__ == "__main__":
    main()
