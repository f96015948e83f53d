// A client of npm's @modelcontextprotocol/sdk 1.x, driven by the steps of a job.
import { entered, load, main } from "./steps.mjs";

const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = await load(
  "@modelcontextprotocol/sdk/client/streamableHttp.js",
);
const { SSEClientTransport } = await load("@modelcontextprotocol/sdk/client/sse.js");
const types = await load("@modelcontextprotocol/sdk/types.js");

async function connect(job, heard) {
  const client = new Client(
    { name: "live-test", version: "1.0.0" },
    { capabilities: { sampling: {}, elicitation: {}, roots: { listChanged: true } } },
  );
  client.setRequestHandler(types.ElicitRequestSchema, async ({ params }) => {
    heard.ask("elicitation", params.message);
    return { action: "accept", content: entered(job, params.message) };
  });
  client.setRequestHandler(types.CreateMessageRequestSchema, async ({ params }) => {
    const { text } = params.messages.at(-1).content;
    heard.ask("sampling", text);
    return { role: "assistant", model: "test-model", content: { type: "text", text: `<${text}>` } };
  });
  client.setRequestHandler(types.ListRootsRequestSchema, async () => {
    heard.ask("roots", "");
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
  const Transport = job.transport === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
  const open = (sessionId) =>
    new Transport(new URL(job.url), { requestInit: { headers }, sessionId });
  let transport = open();
  await client.connect(transport);
  return {
    client,
    // Its HTTP+SSE transport is told the version too, and shows it to nobody.
    version: transport.protocolVersion ?? transport._protocolVersion,
    server: client.getServerVersion()?.name ?? "",
    call: (name, args, options, meta) =>
      client.callTool({ name, arguments: args, ...(meta && { _meta: meta }) }, undefined, options),
    watch: async (uri) => {
      await client.subscribeResource({ uri });
      return () => client.unsubscribeResource({ uri });
    },
    watchTools: async () => async () => {},
    /** Lose the connection in the middle of a call and take it up where it was. */
    resume: async (name, args) => {
      const request = { method: "tools/call", params: { name, arguments: args } };
      const progress = [];
      const onprogress = (one) => progress.push(one.progress);
      let token;
      const begun = new Promise((resolve) => {
        const onresumptiontoken = (found) => {
          token = found;
          if (progress.length) resolve();
        };
        const options = { onprogress, onresumptiontoken };
        client.request(request, types.CallToolResultSchema, options).catch(() => {});
      });
      await begun;
      // The SDK tells the token before it hands out the message that came with it.
      await new Promise((wake) => setTimeout(wake, 20));
      const before = [...progress];
      const { sessionId } = transport;
      await client.close();
      await new Promise((wake) => setTimeout(wake, 300));
      transport = open(sessionId);
      await client.connect(transport);
      // The stream that is taken up speaks of the first request's token, which the SDK forgot.
      const after = [];
      client.onerror = ({ message }) => {
        const told = message.match(/progress notification for an unknown token: (.*)/);
        if (told) after.push(JSON.parse(told[1]).params.progress);
      };
      const options = { resumptionToken: token };
      const result = await client.request(request, types.CallToolResultSchema, options);
      return { text: result.content[0].text, before, after };
    },
    logLevel: async (level) => void (await client.setLoggingLevel(level)),
    close: async () => {
      // Over HTTP+SSE the end of the stream is the end of the session.
      await transport.terminateSession?.();
      await client.close();
    },
  };
}

await main(connect);
