// A client of npm's @modelcontextprotocol/client 2.x, driven by the steps of a job; ``mode`` is
// the SDK's versionNegotiation mode, a version to pin, or "default" to leave it unset.
import { entered, load, main } from "./steps.mjs";

const { Client, SSEClientTransport, StreamableHTTPClientTransport } = await load(
  "@modelcontextprotocol/client",
);

const LOG_LEVEL = "io.modelcontextprotocol/logLevel";
const NEWEST_HANDSHAKE = "2025-11-25";

async function connect(job, heard) {
  const mode = /^\d/.test(job.mode) ? { pin: job.mode } : job.mode;
  const client = new Client(
    { name: "live-test", version: "2.0.0" },
    {
      capabilities: { sampling: {}, elicitation: {}, roots: { listChanged: true } },
      ...(job.versions && { supportedProtocolVersions: job.versions }),
      ...(job.mode !== "default" && { versionNegotiation: { mode } }),
    },
  );
  client.setRequestHandler("elicitation/create", async ({ params }) => {
    heard.ask("elicitation", params.message);
    return { action: "accept", content: entered(job, params.message) };
  });
  client.setRequestHandler("sampling/createMessage", async ({ params }) => {
    const { text } = params.messages.at(-1).content;
    heard.ask("sampling", text);
    return { role: "assistant", model: "test-model", content: { type: "text", text: `<${text}>` } };
  });
  client.setRequestHandler("roots/list", async () => {
    heard.ask("roots", "");
    return { roots: job.roots.map((uri) => ({ uri })) };
  });
  client.setNotificationHandler("notifications/resources/updated", ({ params }) =>
    heard.add("updated", params.uri),
  );
  client.setNotificationHandler("notifications/tools/list_changed", () =>
    heard.add("tools changed", true),
  );
  client.setNotificationHandler("notifications/message", ({ params }) =>
    heard.add("log", params.data),
  );
  const headers = job.key ? { Authorization: `Bearer ${job.key}` } : {};
  const Transport = job.transport === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
  const transport = new Transport(new URL(job.url), { requestInit: { headers } });
  await client.connect(transport);
  const version = client.getNegotiatedProtocolVersion();
  const modern = version > NEWEST_HANDSHAKE;
  return {
    client,
    version,
    server: client.getServerVersion()?.name ?? "",
    call: (name, args, options, meta) =>
      client.callTool({ name, arguments: args, ...(meta && { _meta: meta }) }, options),
    watch: async (uri) => {
      if (!modern) {
        await client.subscribeResource({ uri });
        return () => client.unsubscribeResource({ uri });
      }
      const listening = await client.listen({ resourceSubscriptions: [uri] });
      return () => listening.close();
    },
    watchTools: async () => {
      if (!modern) return async () => {};
      const listening = await client.listen({ toolsListChanged: true });
      return () => listening.close();
    },
    logLevel: async (level) => {
      if (modern) return { [LOG_LEVEL]: level };
      await client.setLoggingLevel(level);
    },
    close: async () => {
      // Over HTTP+SSE the end of the stream is the end of the session.
      if (!modern) await transport.terminateSession?.();
      await client.close();
    },
  };
}

await main(connect);
