// A checkpoint driver in JavaScript, with a file for each step. It speaks the driver protocol over
// stdio (docs/driver-protocol.md) and shows that a driver needs no Python. Run it with the conformance kit.
import { closeSync, existsSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, readdirSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { digestOf, parse, sha256 } from "./digest.mjs";

const PROTOCOL = 1;
const FORMAT = "stargraph-js 1\n";
const ENDED = ["done", "cancelled", "moved"];
let drafts = 0;

class Refusal extends Error {
  constructor(kind, reason, message, at = {}) {
    Object.assign(super(message), { kind, reason, run_id: at.run_id, step: at.step });
  }
}

function digests(text) {
  const checkpoint = parse(text);
  return [checkpoint.members.get("digest").text, digestOf(checkpoint)];
}

// Write a file so that it is on the disk once this returns.
function durably(path, text) {
  const file = openSync(path, "w");
  try {
    const data = Buffer.from(text);
    for (let at = 0; at < data.length; ) at += writeSync(file, data, at);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

function flush(folder) {
  const directory = openSync(folder, "r");
  fsyncSync(directory), closeSync(directory);
}

// A handle on a folder: the file `format`, and for each run a folder with a file for each step.
class Store {
  constructor(folder) {
    this.folder = folder;
    this.runs = join(folder, "runs");
    this.ready = false;
  }
  bootstrap() {
    mkdirSync(this.runs, { recursive: true });
    const mark = join(this.folder, "format");
    if (!existsSync(mark)) this.publish(mark, FORMAT);
    const found = readFileSync(mark, "utf8");
    if (found !== FORMAT) throw new Refusal("StoreVersionError", "newer-format", `the store has the format ${found}`);
    this.ready = true;
  }
  // Make a file with its whole content, unless one is there: a link is atomic, and fails if the name is taken.
  publish(path, text) {
    const draft = `${path}.${process.pid}.${++drafts}.draft`;
    durably(draft, text);
    try {
      linkSync(draft, path);
      flush(join(path, ".."));
      return true;
    } catch (error) {
      if (error.code === "EEXIST") return false;
      throw error;
    } finally {
      rmSync(draft, { force: true });
    }
  }
  // A digest as a name: run ids may differ in case alone, or be longer than a file system takes.
  run(id) {
    return join(this.runs, sha256(id));
  }
  write({ checkpoint }) {
    const { run_id, step, previous_digest } = checkpoint;
    const at = { run_id, step };
    const [stated, actual] = digests(checkpoint.text);
    if (stated !== actual) throw new Refusal("CheckpointError", "invalid-checkpoint", "the digest does not fit", at);
    // One look at where the run stands decides: between two of them another process may append this very step.
    const highest = this.highest(this.run(run_id));
    if (step <= highest) return this.settle(this.at(this.run(run_id), step), checkpoint);
    const latest = highest < 0 ? null : this.record(this.run(run_id), highest);
    if (step !== (latest ? latest.step + 1 : 0)) throw new Refusal("CheckpointError", "step-gap", "steps are missing", at);
    if (latest && ENDED.includes(latest.status)) throw new Refusal("CheckpointError", "run-ended", "the run has ended", at);
    if (latest && latest.digest !== previous_digest) {
      throw new Refusal("CheckpointConflictError", "wrong-predecessor", "it follows another step", at);
    }
    mkdirSync(this.run(run_id), { recursive: true });
    flush(this.runs);
    if (!this.publish(join(this.run(run_id), `${step}`), JSON.stringify(checkpoint))) {
      this.settle(this.record(this.run(run_id), step), checkpoint);
    }
    return null;
  }
  settle(stored, given) {
    if (stored.digest === given.digest) {
      flush(this.run(given.run_id)); // whoever stored it may have died before it was durable
      return null;
    }
    throw new Refusal("CheckpointConflictError", "step-taken", "another checkpoint is stored at this step", given);
  }
  // The highest step in the folder of a run; -1 if there is none.
  highest(folder) {
    const names = existsSync(folder) ? readdirSync(folder).filter((name) => /^\d+$/.test(name)) : [];
    return Math.max(-1, ...names.map(Number));
  }
  newest(folder) {
    const step = this.highest(folder);
    return step < 0 ? null : this.record(folder, step);
  }
  at(folder, step) {
    const highest = this.highest(folder); // before the record: a step that comes between the two is not missing
    const found = this.record(folder, step);
    if (found || step > highest || step < 0) return found;
    throw new Refusal("CheckpointCorruptedError", "missing-step", `step ${step} was written, and is gone`);
  }
  record(folder, step) {
    let text;
    try {
      text = readFileSync(join(folder, `${step}`), "utf8");
    } catch (error) {
      if (error.code === "ENOENT") return null;
      throw error;
    }
    try {
      const found = JSON.parse(text);
      const [stated, actual] = digests(found.text);
      const fits = found.step === step && this.run(found.run_id) === folder && stated === actual;
      if (fits && stated === found.digest) return found;
    } catch {
      // What cannot be parsed is damaged, as is what does not fit.
    }
    throw new Refusal("CheckpointCorruptedError", "corrupted-record", `the record of step ${step} is damaged`);
  }
  list_runs({ since, limit }) {
    if (!Number.isInteger(limit) || limit < 0) throw new Refusal("ValueError", null, `limit is ${limit}`);
    if (since && !/(Z|[+-]\d\d:\d\d)$/.test(since)) throw new Refusal("ValueError", null, "since has no offset");
    const from = since ? instant(since) : "";
    const found = readdirSync(this.runs).map((name) => this.newest(join(this.runs, name)));
    const begun = found.filter((run) => run?.started_at >= from); // a folder without a step is a run that begins
    begun.sort((a, b) => (a.started_at < b.started_at) - (a.started_at > b.started_at) || (a.run_id < b.run_id ? -1 : 1));
    return begun.slice(0, limit).map((run) => run.summary);
  }
}

// An instant of any offset as the text of UTC that checkpoints carry; Date keeps milliseconds, so the rest is kept apart.
function instant(text) {
  const micros = /\.(\d+)/.exec(text)?.[1].padEnd(6, "0") ?? "000000";
  return `${new Date(text.replace(/\.\d+/, "")).toISOString().slice(0, 19)}.${micros}Z`;
}

const stores = new Map();
function answer({ call, handle, arguments: given }) {
  if (call === "hello") return { protocol: PROTOCOL, driver: "stargraph-js-example 1", node: process.version };
  if (call === "open") return void stores.set(handle, new Store(given.location));
  const store = stores.get(handle);
  if (call === "bootstrap") return store.bootstrap();
  if (call === "close") return void (store.ready = false);
  if (!store.ready) throw new Refusal("CheckpointError", "not-bootstrapped", "call bootstrap() first");
  if (call === "read_latest") return store.newest(store.run(given.run_id))?.text ?? null;
  if (call === "read_at_step") return store.at(store.run(given.run_id), given.step)?.text ?? null;
  if (call === "write" || call === "list_runs") return store[call](given);
  throw new Refusal("CheckpointError", "unknown-call", `there is no call ${call}`);
}

function told(error) {
  if (error instanceof Refusal) {
    return { class: error.kind, reason: error.reason, message: error.message, run_id: error.run_id, step: error.step };
  }
  // The system's own errors: a full disk, a folder that cannot be reached.
  return { class: error.code ? "StoreUnavailableError" : error.name, reason: "unavailable", message: error.message };
}

createInterface({ input: process.stdin, crlfDelay: Infinity }).on("line", (line) => {
  const request = JSON.parse(line);
  const say = (reply) => process.stdout.write(`${JSON.stringify({ id: request.id, ...reply })}\n`);
  try {
    say({ result: answer(request) ?? null });
  } catch (error) {
    say({ error: told(error) });
  }
});
