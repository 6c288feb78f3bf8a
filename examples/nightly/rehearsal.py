"""The night on this machine: a server that imitates S3, two workers, one of which is killed, and one more."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

NIGHTLY = Path(__file__).with_name("nightly.py")
FILES, LINES = 6, 40


def serve_s3() -> str:
    """Serve S3 in memory, one request at a time: moto alone would let two conditional writes of one object win."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def start(*words: str) -> subprocess.Popen[bytes]:
    print("$ nightly.py", *words, flush=True)
    return subprocess.Popen([sys.executable, NIGHTLY, *words])


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"it ended with {process.returncode}")


def main() -> None:
    os.environ |= {"AWS_ENDPOINT_URL_S3": serve_s3(), "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ |= {
        "AWS_DEFAULT_REGION": "us-east-1",
        "NIGHTLY_BUCKET": "sales",
        "NIGHTLY_PACE": "0.03",
        "NIGHTLY_SILENT_AFTER": "3",
    }
    client = boto3.client("s3")
    client.create_bucket(Bucket="sales")
    for number in range(FILES):
        lines = ["shop,cents", *(f"{('north', 'south')[line % 2]},100" for line in range(LINES)), "south,lost"]
        client.put_object(Bucket="sales", Key=f"inbox/2026-11-27/{number}.csv", Body="\n".join(lines).encode())
    finish(start("enqueue", "2026-11-27"))
    finish(start("enqueue", "2026-11-27"))
    spot, steady = start("work"), start("work")
    while not client.list_objects_v2(Bucket="sales", Prefix="reports/").get("KeyCount"):
        time.sleep(0.05)
    spot.kill()
    spot.wait()
    print(f"killed worker {spot.pid} while it worked")
    finish(start("work"))
    finish(steady)
    finish(start("report", "2026-11-27"))


if __name__ == "__main__":
    main()
