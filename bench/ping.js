// The reference job in Node's http, as its users write it: an interval for each client.
//
//   node ping.js PORT
"use strict";

const http = require("http");

// Sends the head and a first byte, so that the client knows that it is open.
function begin(response) {
  response.writeHead(200, {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
  });
  response.write("retry: 3000\n\n");
}

const server = http.createServer((request, response) => {
  if (request.url === "/ping") {
    begin(response);
    const interval = setInterval(() => {
      const now = Math.floor(Date.now() / 1000);
      response.write(`id: ${now}\nevent: ping\ndata: ${now}\n\n`);
    }, 500);
    request.on("close", () => clearInterval(interval));
  } else if (request.url === "/idle") {
    begin(response);
  } else {
    response.writeHead(404).end();
  }
});

const port = Number(process.argv[2]);
if (!port) {
  console.error("usage: node ping.js PORT");
  process.exit(2);
}
server.listen({ host: "127.0.0.1", port, backlog: 4096 }, () => console.log(port, process.pid));
