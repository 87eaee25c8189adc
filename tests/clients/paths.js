// Serves a folder as servers in Node.js find files, and says in `X-Resolved` which one it looked for.
//
// Arguments: address, port (0 for any), folder. Prints its port. The host that is asked for says how a target is read:
// `url.*` by `new URL`, `parse.*` by `url.parse`, `split.*` by cutting off the query alone.

const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const url = require("node:url");

const [address, port, root] = process.argv.slice(2);

const readings = {
  url: (target) => new URL(target, "http://host.test").pathname,
  parse: (target) => url.parse(target).pathname,
  split: (target) => target.split("?")[0],
};

function file(request) {
  const read = readings[request.headers.host.split(".")[0]];
  return path.posix.normalize(decodeURIComponent(read(request.url)));
}

const server = http.createServer((request, response) => {
  let wanted;
  try {
    wanted = file(request);
  } catch {
    response.writeHead(400).end();
    return;
  }
  response.setHeader("X-Resolved", Buffer.from(wanted, "utf8").toString("latin1"));
  const found = path.join(root, wanted);
  for (const candidate of [found, path.join(found, "index.html")]) {
    try {
      response.end(fs.readFileSync(candidate));
      return;
    } catch {
      // a folder, or nothing
    }
  }
  response.writeHead(404).end();
});

server.listen(Number(port), address, () => console.log(server.address().port));
