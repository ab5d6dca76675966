// A client of Perseid for browsers, without dependencies: version 1 of the
// protocol (goim) and version 2, over WebSocket. Copy it into your page.
//
//   const client = new PerseidClient({
//     url: "ws://127.0.0.1:3102/sub", ver: 2,
//     auth: {mid: "42", key: "", room: "live://1000", accepts: [1000]},
//     onMessage: (op, bytes) => ...,       // Uint8Array
//     onState: (text, connected) => ...,
//   });
//   client.connect(); client.join("live://2000"); client.close();
"use strict";

class PerseidClient {
  static OP = {
    heartbeat: 2, heartbeatReply: 3, bye: 6, auth: 7, authReply: 8, raw: 9,
    changeRoom: 12, changeRoomReply: 13, join: 22, joinReply: 23,
  };
  static HEADER = 16; // bytes: packLen 4, headerLen 2, ver 2, op 4, seq 4; big-endian

  constructor(options) {
    this.options = options;
    this.rooms = new Set(options.auth.room ? [options.auth.room] : []);
    this.failures = 0;
    this.wanted = false;
  }

  connect() {
    this.wanted = true;
    this.retryMS = 0;
    this.stayAway = "";
    this.connectedAt = 0;
    this.seq = 0;
    this.state(`connecting to ${this.options.url}`, false);
    let socket;
    try {
      socket = new WebSocket(this.options.url);
    } catch (error) {
      this.wanted = false;
      return this.state(error.message, false);
    }
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.send(PerseidClient.OP.auth, this.token());
    socket.onmessage = (event) => this.receive(event.data);
    socket.onclose = (event) => { if (socket === this.socket) this.lost(event); };
    this.socket = socket;
    this.silence = setTimeout(() => socket.close(), 10_000); // for the handshake and auth
  }

  close() {
    this.wanted = false;
    clearTimeout(this.retry);
    if (!this.socket) return;
    if (this.socket.readyState === WebSocket.CLOSED) this.state("closed", false);
    this.socket.close(1000);
  }

  // join enters a room: besides the others in version 2, instead of the other
  // in version 1. The room is entered again after a reconnect.
  join(room) {
    if (this.options.ver >= 2) {
      this.rooms.add(room);
      this.send(PerseidClient.OP.join, JSON.stringify({rooms: [room]}));
    } else {
      this.rooms = new Set([room]);
      this.send(PerseidClient.OP.changeRoom, room);
    }
  }

  // token is goim's auth JSON. A mid has 64 bits, more than a number holds, so
  // it is written as it was typed.
  token() {
    const {mid, key, accepts} = this.options.auth;
    const rest = {key, room_id: [...this.rooms][0] || "", platform: "web", accepts};
    return `{"mid":${/^-?\d{1,19}$/.test(mid) ? mid : 0},${JSON.stringify(rest).slice(1)}`;
  }

  send(op, text = "") {
    if (!this.socket || this.socket.readyState !== WebSocket.OPEN) return;
    const body = new TextEncoder().encode(text);
    const packet = new Uint8Array(PerseidClient.HEADER + body.length);
    const view = new DataView(packet.buffer);
    view.setInt32(0, packet.length);
    view.setInt16(4, PerseidClient.HEADER);
    view.setInt16(6, this.options.ver);
    view.setInt32(8, op);
    view.setInt32(12, ++this.seq);
    packet.set(body, PerseidClient.HEADER);
    this.socket.send(packet);
  }

  receive(data) {
    this.heard();
    this.each(new Uint8Array(data), (op, seq, body) => {
      if (op === PerseidClient.OP.raw && this.options.ver < 2) {
        // goim wraps pushes: the body is packets back to back.
        this.each(body, (innerOp, _, innerBody) => this.options.onMessage(innerOp, innerBody));
      } else if (seq === 0 && !(op === PerseidClient.OP.bye && this.options.ver >= 2)) {
        this.options.onMessage(op, body);
      } else {
        this.control(op, body);
      }
    });
  }

  // each calls handle for the packets in bytes, and never reads past one.
  each(bytes, handle) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0; at < bytes.length;) {
      const left = bytes.length - at;
      const length = left >= PerseidClient.HEADER ? view.getInt32(at) : 0;
      const header = left >= PerseidClient.HEADER ? view.getInt16(at + 4) : 0;
      if (header < PerseidClient.HEADER || length < header || length > left) {
        this.socket.close(4000, "bad packet");
        return;
      }
      handle(view.getInt32(at + 8), view.getInt32(at + 12), bytes.subarray(at + header, at + length));
      at += length;
    }
  }

  control(op, body) {
    const v2 = this.options.ver >= 2;
    let reply = {};
    try {
      if (v2 && body.length > 0) reply = JSON.parse(new TextDecoder().decode(body));
    } catch { /* the echo of a change of rooms is no JSON */ }
    switch (op) {
      case PerseidClient.OP.authReply:
        if (reply.code) {
          this.end(reply);
        } else if (v2 && reply.ver !== 2) {
          this.stayAway = "the server speaks version 1 only";
          this.socket.close(1000);
        } else {
          this.authenticated(reply);
        }
        break;
      case PerseidClient.OP.bye:
        this.end(reply);
        break;
      case PerseidClient.OP.changeRoomReply: // goim echoes the room, also one that it did not take
        this.state(`changed to ${new TextDecoder().decode(body)}`, true);
        break;
      case PerseidClient.OP.joinReply:
        for (const {room, ok, reason} of reply.rooms || []) {
          this.state(ok ? `joined ${room}` : `room ${room} refused: ${reason}`, true);
          if (!ok) this.rooms.delete(room);
        }
        break;
    }
  }

  authenticated(reply) {
    this.connectedAt = Date.now();
    // Version 2 tells after how many silent seconds it closes; goim does not.
    this.interval = reply.heartbeat ? Math.min(reply.heartbeat, 86_400) * 1000 / 3 : 240_000;
    this.heard();
    this.beat = setInterval(() => this.send(PerseidClient.OP.heartbeat), this.interval);
    this.state(this.options.ver >= 2 ? `connected, session ${reply.session}, key ${reply.key}` : "connected", true);
    const more = [...this.rooms].slice(1); // the first one stood in the token
    if (more.length > 0) this.send(PerseidClient.OP.join, JSON.stringify({rooms: more}));
  }

  // heard puts off the moment when the server counts as gone: it answers every
  // heartbeat, so two intervals of silence are enough.
  heard() {
    if (!this.connectedAt) return;
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.socket.close(), 2 * this.interval);
  }

  // end notes what the server said about the end: {code, reason, reconnect, retry_ms}.
  end({code, reason, reconnect, retry_ms}) {
    this.retryMS = Math.min(Math.max(retry_ms || 0, 0), 3_600_000);
    if (!reconnect) this.stayAway = `${code} ${reason}`;
    this.socket.close(1000);
  }

  lost(event) {
    clearInterval(this.beat);
    clearTimeout(this.silence);
    if (event.code >= 3500 && event.code <= 3999) this.stayAway ||= `${event.code} ${event.reason}`;
    if (!this.wanted) return this.state("closed", false);
    if (this.stayAway) {
      this.wanted = false;
      return this.state(`sent away: ${this.stayAway}`, false);
    }
    // Full jitter: many clients that lost one server do not come back at once.
    if (this.connectedAt && Date.now() - this.connectedAt > 30_000) this.failures = 0;
    const wait = Math.max(this.retryMS, Math.random() * Math.min(30_000, 500 * 2 ** this.failures++));
    this.state(`disconnected (${event.code} ${event.reason || "no reason"}), next attempt in ${(wait / 1000).toFixed(1)} s`, false);
    this.retry = setTimeout(() => this.connect(), wait);
  }

  state(text, connected) { if (this.options.onState) this.options.onState(text, connected); }
}
