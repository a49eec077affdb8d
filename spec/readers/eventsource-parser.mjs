// npm's eventsource-parser over fetch: node eventsource-parser.mjs URL
// Prints each event that arrives as a line of JSON, and ends at the event named "end".
import { createParser } from "eventsource-parser";
import { print } from "./print.mjs";

const leave = new AbortController();
const parser = createParser({
  onEvent: ({ event = "message", id = "", data }) => {
    if (event === "end") return leave.abort();
    print({ event, id, data });
  },
  onRetry: (retry) => print({ retry }),
  onError: (error) => {
    print({ error: error.message });
    process.exitCode = 1;
  },
});

try {
  const response = await fetch(process.argv[2], { signal: leave.signal });
  print({ open: response.ok });
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
} catch (error) {
  if (!leave.signal.aborted) throw error;
}
