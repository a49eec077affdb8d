// undici's EventSource: node undici.mjs URL [event name]...
// Prints each event that arrives as a line of JSON, and ends at the event named "end".
import { EventSource } from "undici";
import { read } from "./print.mjs";

read(EventSource);
