// The fan-out job in Node's http, as its users write it: a set of responses, and a write to each.
//
//   node hub.js PORT
//
// hub.lua says what it answers to.
"use strict";

const http = require("http");

const first = 200e6; // ns after the request, which is answered meanwhile
const pause = 20; // ms between two publishes that are timed
const filler = "x".repeat(71);
const subscribers = new Set();
let sequence = 0;

const now = () => Number(process.hrtime.bigint());
const pad = (value, digits) => String(value).padStart(digits, "0");

// The id is as long as one of eventstream's, so that the bytes are as many.
function publish(number, due) {
  const data = `${pad(number, 8)} ${pad(due, 19)} ${filler}`;
  const frame = `id: 0123456789abcdef-${++sequence}\ndata: ${data}\n\n`;
  for (const response of subscribers) response.write(frame);
}

function subscribe(request, response) {
  response.writeHead(200, {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
  });
  response.write("retry: 3000\n\n");
  subscribers.add(response);
  request.on("close", () => subscribers.delete(response));
}

function start(rate, count) {
  const begin = now() + first;
  let published = 0;
  const due = () => begin + Math.floor(published * 1e9 / rate);
  const publishDue = () => {
    const present = now();
    while (published < count && due() <= present) {
      const at = due();
      publish(++published, at);
    }
    if (published < count) setTimeout(publishDue, Math.max(1, Math.ceil((due() - now()) / 1e6)));
  };
  publishDue();
}

async function cost(count) {
  const took = [];
  for (let number = 1; number <= count; number++) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    const begin = now();
    publish(number, begin);
    took.push((now() - begin) / 1e3);
  }
  took.sort((a, b) => a - b);
  const at = (share) => Number(took[Math.ceil(count * share) - 1].toFixed(3));
  return JSON.stringify({ publish_us: at(0.5), publish_p99_us: at(0.99), publish_max_us: at(1) });
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, "http://127.0.0.1");
  const count = Number(url.searchParams.get("count"));
  if (url.pathname === "/events") {
    subscribe(request, response);
  } else if (url.pathname === "/start") {
    start(Number(url.searchParams.get("rate")), count);
    response.end("ok\n");
  } else if (url.pathname === "/cost") {
    response.end(await cost(count));
  } else {
    response.writeHead(404).end();
  }
});

const port = Number(process.argv[2]);
if (!port) {
  console.error("usage: node hub.js PORT");
  process.exit(2);
}
server.listen({ host: "127.0.0.1", port, backlog: 4096 }, () => console.log(port, process.pid));
