// npm's eventsource-parser over fetch: node eventsource-parser.mjs URL
// Prints each event that arrives as a line of JSON, and ends at the event named "end".
import { createParser } from "eventsource-parser";
import { print } from "./print.mjs";

let ended = false;
const parser = createParser({
  onEvent: ({ event = "message", id = "", data }) => {
    if (event === "end") ended = true;
    else print({ event, id, data });
  },
  onError: (error) => {
    print({ error: error.message });
    process.exitCode = 1;
  },
});

const response = await fetch(process.argv[2]);
print({ open: response.ok });
for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
  parser.feed(text);
  if (ended) break;
}
