// A client of npm's @modelcontextprotocol/sdk 1.x, driven by the steps of a job.
import { load, main } from "./steps.mjs";

const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = await load(
  "@modelcontextprotocol/sdk/client/streamableHttp.js",
);
const types = await load("@modelcontextprotocol/sdk/types.js");

async function connect(job, heard) {
  const client = new Client(
    { name: "live-test", version: "1.0.0" },
    { capabilities: { sampling: {}, elicitation: {}, roots: { listChanged: true } } },
  );
  client.setRequestHandler(types.ElicitRequestSchema, async () => {
    heard.asked.push("elicitation");
    return { action: "accept", content: job.content };
  });
  client.setRequestHandler(types.CreateMessageRequestSchema, async ({ params }) => {
    heard.asked.push("sampling");
    const text = `<${params.messages.at(-1).content.text}>`;
    return { role: "assistant", model: "test-model", content: { type: "text", text } };
  });
  client.setRequestHandler(types.ListRootsRequestSchema, async () => {
    heard.asked.push("roots");
    return { roots: job.roots.map((uri) => ({ uri })) };
  });
  client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, ({ params }) =>
    heard.add("updated", params.uri),
  );
  client.setNotificationHandler(types.ToolListChangedNotificationSchema, () =>
    heard.add("tools changed", true),
  );
  client.setNotificationHandler(types.LoggingMessageNotificationSchema, ({ params }) =>
    heard.add("log", params.data),
  );
  const headers = job.key ? { Authorization: `Bearer ${job.key}` } : {};
  const transport = new StreamableHTTPClientTransport(new URL(job.url), {
    requestInit: { headers },
  });
  await client.connect(transport);
  return {
    client,
    version: transport.protocolVersion,
    server: client.getServerVersion()?.name ?? "",
    call: (name, args, options, meta) =>
      client.callTool({ name, arguments: args, ...(meta && { _meta: meta }) }, undefined, options),
    watch: async (uri) => {
      await client.subscribeResource({ uri });
      return () => client.unsubscribeResource({ uri });
    },
    watchTools: async () => async () => {},
    logLevel: async (level) => void (await client.setLoggingLevel(level)),
    close: async () => {
      await transport.terminateSession();
      await client.close();
    },
  };
}

await main(connect);
