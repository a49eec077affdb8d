// An https server that serves event streams: https.mjs KEY CERTIFICATE. It prints its port, and each request's last id.
import { createServer } from "node:https";
import { readFileSync } from "node:fs";

const [key, cert] = process.argv.slice(2).map((name) => readFileSync(name));
let number = 0;
const server = createServer({ key, cert }, (request, response) => {
  console.log(`asked ${request.url} ${request.headers["last-event-id"] ?? "none"} ${request.socket.servername || "none"}`);
  if (request.url === "/moved") return response.writeHead(307, { Location: "/events" }).end();
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  if (request.url === "/large") {
    for (let i = 0; i < 200; i++) response.write(`id: ${++number}\ndata: ${"x".repeat(40000)}\n\n`);
    return;
  }
  response.write(`id: ${++number}\ndata: one\n\n`);
  setTimeout(() => request.url === "/cut" ? request.socket.destroy() : response.end("data: two\n\n"), 50);
});
server.listen(0, "localhost", () => console.log(`port ${server.address().port} ${server.address().address}`));
