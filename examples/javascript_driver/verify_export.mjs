// Verifies an export file of Stargraph without Stargraph: node verify_export.mjs runs.jsonl
// docs/formats.md specifies the file. With STARGRAPH_INTEGRITY_KEY, each step must have the seal of one of its keys.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { digestOf, parse, seals } from "./digest.mjs";

const keys = process.env.STARGRAPH_INTEGRITY_KEY;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function insist(condition, complaint) {
  if (!condition) throw new Error(complaint);
}

// The lines of a file as bytes, without their newlines.
async function* linesOf(path) {
  let parts = [];
  for await (const chunk of createReadStream(path)) {
    let from = 0;
    for (let end; (end = chunk.indexOf(10, from)) >= 0; from = end + 1) {
      yield Buffer.concat([...parts, chunk.subarray(from, end)]);
      parts = [];
    }
    parts.push(chunk.subarray(from));
  }
  insist(Buffer.concat(parts).length === 0, "the file was cut off here");
}

// The named members of an object: texts, and numbers as the texts that they are.
function pick(node, ...names) {
  insist(node?.members, "an object was expected here");
  return names.map((name) => node.members.get(name)).map((value) => value?.text ?? value?.integer ?? value);
}

function only(line, name) {
  insist(line.members?.size === 1 && line.members.has(name), `a line {"${name}": {…}} was expected here`);
  return line.members.get(name);
}

function checkRun(line) {
  const [head, first, left] = pick(only(line, "run"), "head", "first_step", "steps");
  const [id, step, digest] = pick(head, "run_id", "step", "digest");
  insist(Number(left) > 0, "a run has no steps");
  return { id, step: Number(step), digest, first: Number(first), left: Number(left) };
}

function checkStep(line, run, before) {
  const found = only(line, "checkpoint");
  const [form, id, text, digest, previous, seal] = pick(found, "form", "run_id", "step", "digest", "previous_digest", "seal");
  insist(form === "1", form ? `the digest has form ${form}, and this program reads 1` : "it was written before the first release");
  const step = Number(text);
  insist(id === run.id, `a step of the run ${id} is among those of ${run.id}`);
  insist(digestOf(found) === digest, `step ${step} is not what its digest covers`);
  insist(before ? step > before.step : step === run.first, `step ${step} is out of order`);
  insist((previous?.word === "null") === (step === 0), `step ${step} has no place in a chain`);
  insist(!before || step > before.step + 1 || previous === before.digest, `step ${step} follows another step`);
  if (keys) {
    const [keyId, mac] = seal?.members ? pick(seal, "key_id", "mac") : [];
    insist(mac && seals(keys, digest).get(keyId) === mac, `step ${step} has no seal that fits`);
  }
  return { step, digest };
}

let number = 0;
try {
  const hash = createHash("sha256");
  let [runs, checkpoints, run, before, over] = [0, 0, null, null, false];
  for await (const bytes of linesOf(process.argv[2])) {
    number += 1;
    insist(!over, "something follows the last line");
    const line = parse(utf8.decode(bytes));
    if (number === 1) {
      const [format, version] = pick(line, "format", "version");
      insist(format === "stargraph-export", "this is not an export of Stargraph");
      insist(version === "1", `the export has version ${version}, and this program reads 1`);
    } else if (run) {
      before = checkStep(line, run, before);
      checkpoints += 1;
      run.left -= 1;
      insist(run.left || (before.step === run.step && before.digest === run.digest), "this is not the run's last step");
      if (!run.left) run = before = null;
    } else if (line.members?.has("end")) {
      const told = pick(only(line, "end"), "runs", "checkpoints", "sha256").join();
      insist(told === [runs, checkpoints, hash.copy().digest("hex")].join(), "the file is not what was written");
      over = true;
    } else {
      run = checkRun(line);
      runs += 1;
    }
    hash.update(bytes).update("\n");
  }
  insist(over, "the file was cut off here");
  console.log(`${runs} runs, ${checkpoints} checkpoints: whole, and as they were written`);
} catch (error) {
  console.error(error.code ? error.message : `${process.argv[2]}, line ${number}: ${error.message}`);
  process.exitCode = 1;
}
