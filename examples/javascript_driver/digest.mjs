// The digest of a checkpoint, as docs/digest.md specifies it: what any program needs to check one.
import { createHash, createHmac } from "node:crypto";

// JSON whose numbers keep their text: to JavaScript 1.0 is 1, and to the digest it is not.
class Parser {
  at = 0;
  constructor(text) {
    this.text = text;
  }
  next(pattern, what) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (!found) throw new SyntaxError(`${what} is missing at character ${this.at}`);
    this.at += found[0].length;
    return found[1];
  }
  value() {
    const token = this.next(/[ \t\r\n]*("|[[{]|null|true|false|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)/y, "a value");
    if (token === "{") return this.members();
    if (token === "[") return this.items();
    if (token === '"') return { text: this.string() };
    if (/^[a-z]/.test(token)) return { word: token };
    return /[.eE]/.test(token) ? { float: token } : { integer: token };
  }
  string() {
    const text = JSON.parse(`"${this.next(/((?:[^"\\]|\\.)*)"/sy, "the end of a text")}"`);
    if (/\p{Surrogate}/u.test(text)) throw new SyntaxError("a lone surrogate is not text");
    return text;
  }
  // Calls `one` for each item up to the closing bracket.
  list(close, one) {
    const end = new RegExp(`[ \\t\\r\\n]*([,${close}])`, "y");
    if (new RegExp(`^[ \\t\\r\\n]*${close}`).test(this.text.slice(this.at, this.at + 100))) return this.next(end, close);
    do one();
    while (this.next(end, close) === ",");
  }
  items() {
    const items = [];
    this.list("\\]", () => items.push(this.value()));
    return { items };
  }
  members() {
    const members = new Map();
    this.list("}", () => {
      this.next(/[ \t\r\n]*"/y, "a key");
      const key = this.string();
      this.next(/[ \t\r\n]*:/y, "a colon");
      if (members.has(key)) throw new SyntaxError(`the key ${key} is there twice`);
      members.set(key, this.value());
    });
    return { members };
  }
}

export function parse(text) {
  const parser = new Parser(text);
  const value = parser.value();
  parser.next(/[ \t\r\n]*$/y, "the end");
  return value;
}

function integer(text) {
  if (BigInt.asIntN(64, text) !== BigInt(text)) throw new RangeError(`${text} has more than 64 bits`);
  return BigInt(text).toString();
}

function float(text) {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new RangeError(`${text} is too large`);
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [, sign, first, rest = "", exponent] = /^(-?)(\d)(?:\.(\d+))?e([+-]\d+)$/.exec(value.toExponential());
  const [digits, x] = [first + rest, Number(exponent)];
  if (x < -5 || x >= 16) return `${sign}${first}${rest && "."}${rest}e${x < 0 ? "-" : "+"}${Math.abs(x)}`;
  if (x < 0) return `${sign}0.${"0".repeat(-x - 1)}${digits}`;
  return `${sign}${digits.slice(0, x + 1).padEnd(x + 1, "0")}.${digits.slice(x + 1) || "0"}`;
}

const inUtf8 = ([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b));
// The canonical bytes of a parsed value, as text. JSON.stringify escapes as they do.
export function canonical(node) {
  if (node.word) return node.word;
  if (node.integer) return integer(node.integer);
  if (node.float) return float(node.float);
  if (node.text !== undefined) return JSON.stringify(node.text);
  if (node.items) return `[${node.items.map(canonical).join(",")}]`;
  const members = [...node.members].sort(inUtf8).map(([key, value]) => `${JSON.stringify(key)}:${canonical(value)}`);
  return `{${members.join(",")}}`;
}

export const sha256 = (text) => createHash("sha256").update(text).digest("hex");
function perField(node) {
  if (!node.members) return node;
  return { members: new Map([...node.members].map(([key, value]) => [key, { text: sha256(canonical(value)) }])) };
}

// The digest of a parsed checkpoint, whatever its member `digest` says.
export function digestOf(checkpoint) {
  const members = new Map(checkpoint.members);
  for (const name of ["digest", "seal"]) members.delete(name);
  for (const name of ["state", "update"]) members.set(name, perField(members.get(name)));
  members.set("form", { integer: "1" });
  return sha256(canonical({ members }));
}

// The seals that the keys of STARGRAPH_INTEGRITY_KEY make of a digest, by key id; the first one is the current key's.
export function seals(keys, digest) {
  const parts = keys.split(",").map((part) => part.trim()).filter(Boolean);
  const named = parts.map((part) => {
    const [, id, secret] = /^([^:]*):(.*)$/s.exec(part) ?? [part, sha256(`stargraph key id${part}`).slice(0, 8), part];
    return [id, createHmac("sha256", secret).update(digest, "hex").digest("hex")];
  });
  return new Map(named);
}
