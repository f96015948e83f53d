// Clients of npm's @modelcontextprotocol/sdk 1.x ("sdk") or client 2.x ("client") that sign in: by
// a token, a certificate, or OAuth discovery. Jobs and report as in sign_in.py.
import { readFileSync } from "node:fs";
import { load } from "./steps.mjs";

const which = process.argv[2];
const { Agent, fetch: undiciFetch } = await load("undici");
const { Client, StreamableHTTPClientTransport, ClientCredentialsProvider } =
  which === "client"
    ? await load("@modelcontextprotocol/client")
    : {
        ...(await load("@modelcontextprotocol/sdk/client/index.js")),
        ...(await load("@modelcontextprotocol/sdk/client/streamableHttp.js")),
        ...(await load("@modelcontextprotocol/sdk/client/auth-extensions.js")),
      };

function ways(job) {
  const options = {};
  if (job.token) options.requestInit = { headers: { Authorization: `Bearer ${job.token}` } };
  if (job.ca) {
    const connect = { ca: readFileSync(job.ca) };
    if (job.certificate) {
      connect.cert = readFileSync(job.certificate);
      connect.key = readFileSync(job.key);
    }
    const dispatcher = new Agent({ connect });
    options.fetch = (url, init) => undiciFetch(url, { ...init, dispatcher });
  }
  if (job.oauth) {
    options.authProvider = new ClientCredentialsProvider({
      clientId: job.oauth.client_id,
      clientSecret: job.oauth.client_secret,
      expectedIssuer: job.oauth.issuer,
      // The 1.x asks for the scopes it was given here, whatever the challenge says.
      ...(which === "sdk" && { scope: job.oauth.scope }),
    });
  }
  return options;
}

async function signIn(job) {
  const auto = which === "client" ? { versionNegotiation: { mode: "auto" } } : {};
  const client = new Client({ name: "sign-in", version: "1.0.0" }, auto);
  await client.connect(new StreamableHTTPClientTransport(new URL(job.url), ways(job)));
  const { tools } = await client.listTools();
  const [name, args] = job.call;
  const result = await client.callTool({ name, arguments: args });
  await client.close();
  return { tools: tools.map((tool) => tool.name), called: result.content[0].text };
}

const { jobs } = JSON.parse(readFileSync(0, "utf8"));
const report = {};
await Promise.all(
  Object.entries(jobs).map(async ([name, job]) => {
    try {
      report[name] = await signIn(job);
    } catch (error) {
      const why = error.cause ? ` (${error.cause.message})` : "";
      report[name] = { error: `${error.constructor.name}: ${error.message}${why}` };
    }
  }),
);
process.stdout.write(JSON.stringify(report), () => process.exit(0));
