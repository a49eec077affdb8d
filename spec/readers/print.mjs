// What the two EventSource readers share: an EventSource shows a named event only to a listener of that name.
export const print = (fields) => process.stdout.write(JSON.stringify(fields) + "\n");

export function read(EventSource) {
  const [url, ...names] = process.argv.slice(2);
  const source = new EventSource(url);
  const awake = setInterval(() => {}, 1e6); // undici's wait for a reconnect does not keep Node running
  const end = () => { source.close(); clearInterval(awake); };
  source.onopen = () => print({ open: true });
  source.onerror = (error) => {
    print({ error: String(error.message ?? error.type), state: source.readyState });
    if (source.readyState === EventSource.CLOSED) { process.exitCode = 1; end(); }
  };
  for (const name of ["message", "end", ...names]) {
    source.addEventListener(name, (event) => {
      if (event.type === "end") return end();
      print({ event: event.type, id: event.lastEventId, data: event.data });
    });
  }
}
