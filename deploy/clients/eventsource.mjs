// The package `eventsource` of npm: prints the data of each event, and connects again by itself.
import { EventSource } from "eventsource";

new EventSource(process.argv[2]).onmessage = (event) => console.log(event.data);
