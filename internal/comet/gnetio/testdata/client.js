// A client of the protocol that shares no code with the server. It runs in
// node (with npm's ws) and in a browser, checks what it gets by itself, and
// reports: "push ROOM" asks the test for two messages, "kick KEY" for a kick,
// "done" and "failed: ..." are the end.

function assert(ok, what) {
  if (!ok) throw new Error(what);
}

function packet(ver, op, seq, text) {
  const body = new TextEncoder().encode(text);
  const view = new DataView(new ArrayBuffer(16 + body.length));
  view.setInt32(0, 16 + body.length);
  view.setInt16(4, 16);
  view.setInt16(6, ver);
  view.setInt32(8, op);
  view.setInt32(12, seq);
  new Uint8Array(view.buffer).set(body, 16);
  return view.buffer;
}

// packets splits a run of packets and asserts that it has no rest.
function packets(buffer) {
  const out = [];
  for (let at = 0; at < buffer.byteLength; ) {
    const view = new DataView(buffer, at);
    const length = view.getInt32(0);
    assert(length >= 16 && at + length <= buffer.byteLength, "packLen " + length);
    assert(view.getInt16(4) === 16, "headerLen " + view.getInt16(4));
    const bytes = buffer.slice(at + 16, at + length);
    out.push({ ver: view.getInt16(6), op: view.getInt32(8), seq: view.getInt32(12), bytes, text: new TextDecoder().decode(bytes) });
    at += length;
  }
  return out;
}

// Client turns the events of a WebSocket into promises.
class Client {
  constructor(Socket, url) {
    this.socket = new Socket(url);
    this.socket.binaryType = "arraybuffer";
    this.events = [];
    this.waiting = [];
    const on = (event) => (this.waiting.length ? this.waiting.shift()(event) : this.events.push(event));
    this.socket.onopen = () => on({ type: "open" });
    this.socket.onmessage = (e) => on({ type: "message", data: e.data });
    this.socket.onclose = (e) => on({ type: "close", code: e.code, reason: e.reason, clean: e.wasClean });
  }
  next() {
    return this.events.length ? Promise.resolve(this.events.shift()) : new Promise((resolve) => this.waiting.push(resolve));
  }
  async opened() {
    assert((await this.next()).type === "open", "not open");
    return this;
  }
  send(...args) {
    this.socket.send(packet(...args));
  }
  async message() {
    const e = await this.next();
    assert(e.type === "message" && e.data instanceof ArrayBuffer, "not a binary message: " + JSON.stringify(e));
    return packets(e.data);
  }
  async one(op) {
    const got = await this.message();
    assert(got.length === 1 && got[0].op === op, "not op " + op + ": " + JSON.stringify(got));
    return got[0];
  }
  async closed(code, reason) {
    const e = await this.next();
    assert(e.type === "close" && e.code === code && e.reason === reason && e.clean !== false, "not closed by " + code + ": " + JSON.stringify(e));
  }
}

function same(got, want) {
  const g = got.map((p) => [p.ver, p.op, p.seq, p.text]);
  assert(JSON.stringify(g) === JSON.stringify(want), JSON.stringify(g) + " instead of " + JSON.stringify(want));
}

async function version1(Socket, url, report) {
  const c = await new Client(Socket, url).opened();
  c.send(1, 7, 1, JSON.stringify({ mid: 1, room_id: "live://v1", platform: "web", accepts: [1000] }));
  assert((await c.one(8)).bytes.byteLength === 0, "the auth reply has a body");
  c.send(1, 2, 2, "");
  const beat = await c.one(3);
  assert(beat.seq === 2 && new DataView(beat.bytes).getInt32(0) === 1, "heartbeat reply");
  report("push live://v1");
  const raw = await c.one(9);
  same([raw], [[1, 9, 0, raw.text]]);
  same(packets(raw.bytes), [[1, 1000, 0, "hi"], [1, 1001, 0, "yo!"]]);
  c.send(1, 12, 3, "live://elsewhere");
  same(await c.message(), [[1, 13, 3, "live://elsewhere"]]);
  c.socket.send(new ArrayBuffer(20)); // packLen 0
  await c.closed(3503, "bad_frame");
}

async function version2(Socket, url, report) {
  const c = await new Client(Socket, url).opened();
  c.send(2, 7, 1, JSON.stringify({ mid: 2, key: "script", room_id: "live://v2" }));
  const auth = JSON.parse((await c.one(8)).text);
  assert(auth.ver === 2 && auth.key === "script" && auth.mid === 2 && auth.session, "auth reply " + JSON.stringify(auth));
  report("push live://v2");
  same(await c.message(), [[1, 1000, 0, "hi"], [1, 1001, 0, "yo!"]]);
  c.send(2, 22, 2, '{"rooms":["live://more"]}');
  assert(JSON.parse((await c.one(23)).text).rooms[0].ok, "join");
  report("push live://more");
  same(await c.message(), [[1, 1000, 0, "hi"], [1, 1001, 0, "yo!"]]);
  report("kick script");
  const bye = JSON.parse((await c.one(6)).text);
  assert(bye.code === 3501 && bye.reason === "kicked" && bye.reconnect === false, "bye " + JSON.stringify(bye));
  await c.closed(3501, "kicked");
}

async function closes(Socket, url) {
  const c = await new Client(Socket, url).opened();
  c.socket.close(1000, "enough");
  await c.closed(1000, "");
  const bad = await new Client(Socket, url).opened();
  bad.send(1, 7, 1, "no token");
  await bad.closed(3500, "bad_token");
}

// compressed expects permessage-deflate, which both of them offer by
// themselves: pushes are inflated and long messages deflated out of sight.
async function compressed(Socket, url, report) {
  const c = await new Client(Socket, url).opened();
  assert(c.socket.extensions.includes("permessage-deflate"), "extensions: " + c.socket.extensions);
  c.send(2, 7, 1, JSON.stringify({ mid: 3, key: "deflating", room_id: "live://deflate", padding: "p".repeat(3000) }));
  assert(JSON.parse((await c.one(8)).text).key === "deflating", "auth reply");
  const long = Array.from({ length: 100 }, (_, i) => "line " + i).join("\n");
  for (let seq = 2; seq < 5; seq++) {
    report("push-long live://deflate");
    same(await c.message(), [[1, 1000, 0, long]]);
    c.send(2, 14, seq, "1000," + "1001,".repeat(500) + "1002");
    same(await c.message(), [[2, 15, seq, "1000," + "1001,".repeat(500) + "1002"]]);
  }
  c.send(2, 14, 5, "x".repeat(70000)); // few bytes on the wire
  assert(JSON.parse((await c.one(6)).text).code === 3503, "bye");
  await c.closed(1009, "message too big");
}

async function runAll(Socket, url, report, deflate) {
  try {
    if (deflate) await compressed(Socket, url, report);
    await version1(Socket, url, report);
    await version2(Socket, url, report);
    await closes(Socket, url);
    report("done");
  } catch (e) {
    report("failed: " + e.message);
  }
}

if (typeof window === "undefined") {
  runAll(require("ws"), process.argv[2], (text) => console.log(text), process.argv[3] === "deflate");
}
