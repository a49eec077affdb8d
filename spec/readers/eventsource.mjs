// npm's eventsource: node eventsource.mjs URL [event name]...
// Prints each event that arrives as a line of JSON, and ends at the event named "end".
import { EventSource } from "eventsource";
import { read } from "./print.mjs";

read(EventSource);
