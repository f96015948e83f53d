// A real identity provider (npm oidc-provider) on loopback: JWT access tokens (RFC 9068) for the
// resource that a client asks for (RFC 8707), by client credentials, with scopes. Not as a provider
// would have it, POST /test/keys says which keys it has: `{"sign": [name, ...]}`, the first of each
// kind signs, all are published, and a name that is new gets new keys (so does one with a `!`).
// Argument: the directory of its packages. Says `listening on URL`.

import { createServer } from "node:http";
import { generateKeyPairSync } from "node:crypto";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.argv[2]}/`);
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));

const SECRET = "secret-of-a-client-in-a-test";
const keys = new Map();
let asked = 0;

function pair(name) {
  const again = name.endsWith("!");
  const kid = again ? name.slice(0, -1) : name;
  if (again || !keys.has(kid)) {
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
    const ec = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
    keys.set(kid, [
      { ...rsa.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" },
      { ...ec.export({ format: "jwk" }), kid: `${kid}-ec`, use: "sig", alg: "ES256" },
    ]);
  }
  return keys.get(kid);
}

function client(client_id, scope) {
  return {
    client_id,
    client_secret: SECRET,
    grant_types: ["client_credentials"],
    response_types: [],
    redirect_uris: [],
    scope,
  };
}

function provider(names) {
  const made = new Provider(issuer, {
    jwks: { keys: names.flatMap(pair) },
    clients: [
      client("reader", "files:read"),
      client("writer", "files:read files:write"),
      client("short", "files:read"),
    ],
    scopes: ["files:read", "files:write"],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource, who) => ({
          scope: "files:read files:write",
          audience: resource,
          accessTokenFormat: "jwt",
          accessTokenTTL: who.clientId === "short" ? 1 : 600,
          jwt: { sign: { alg: who.clientId === "writer" ? "ES256" : "RS256" } },
        }),
      },
    },
  });
  made.on("server_error", (_, error) => console.error(error));
  return made.callback();
}

let current;
let issuer;

const server = createServer(async (request, response) => {
  if (request.url === "/test/keys") {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (body) current = provider(JSON.parse(body).sign);
    response.end(JSON.stringify({ asked }));
    return;
  }
  if (request.url === "/jwks") asked += 1;
  current(request, response);
});

server.listen(0, "127.0.0.1", () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  current = provider(["first"]);
  console.log(`listening on ${issuer}`);
});
