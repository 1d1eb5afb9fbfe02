// The package `ws` of npm: prints each message as it came, and ends with the connection's close code.
import WebSocket from "ws";

const socket = new WebSocket(process.argv[2]);
socket.on("message", (data) => console.log(data.toString()));
socket.on("close", (code) => process.exit(code === 1001 ? 0 : 1));
