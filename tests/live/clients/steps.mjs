// What the TypeScript clients do and report: the same jobs and reports as steps.py.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

/** Import an npm package from where the live tests installed it. */
export async function load(name) {
  const require = createRequire(pathToFileURL(process.env.LIVE_NODE_MODULES + "/_.js"));
  return import(pathToFileURL(require.resolve(name)));
}

/** What the server said unasked, and a way to wait for one of it. */
export class Heard {
  constructor() {
    this.all = [];
    this.asked = [];
    this.questions = [];
    this.waiting = [];
  }
  add(kind, value) {
    this.all.push([kind, value]);
    this.waiting.splice(0).forEach((wake) => wake());
  }
  /** Note that the server asked something of the client. */
  ask(kind, words) {
    this.asked.push(kind);
    this.questions.push(words);
  }
  values(kind) {
    return this.all.filter(([found]) => found === kind).map(([, value]) => value);
  }
  /** Return once this (null: anything) was said; the step's own timeout bounds the wait. */
  async waitFor(kind, value) {
    while (value === null ? !this.values(kind).length : !this.values(kind).includes(value)) {
      await new Promise((wake) => this.waiting.push(wake));
    }
  }
}

/** What the user enters when asked: the job's content, the question itself in place of a ?. */
export const entered = (job, question) =>
  Object.fromEntries(
    Object.entries(job.content).map(([name, one]) => [name, one.replace?.("?", question) ?? one]),
  );

const pause = (seconds) => new Promise((wake) => setTimeout(wake, seconds * 1000));

const texts = (blocks) => blocks.map((block) => block.text ?? "").join("\n");

/** A call's result, with the progress that was reported and the words of that. */
async function call(face, tool, args, { progress = false, meta } = {}) {
  const reported = [];
  const said = [];
  const onprogress = (one) => {
    reported.push([one.progress, one.total ?? null]);
    said.push(one.message ?? null);
  };
  const result = await face.call(tool, args ?? {}, progress ? { onprogress } : {}, meta);
  const text = texts(result.content);
  return { text, error: result.isError ?? false, progress: reported, said };
}

const STEPS = {
  list: async ({ face }) => (await face.client.listTools()).tools.map((tool) => tool.name).sort(),
  call: async ({ face }, step) => {
    for (;;) {
      const result = await call(face, step.tool, step.arguments, { progress: step.progress });
      if (result.text.includes(step.until ?? "")) return result;
      await new Promise((wake) => setTimeout(wake, 50));
    }
  },
  cancel: async ({ face }, step) => {
    const abort = new AbortController();
    const leave = async () => {
      await pause(step.after);
      if (step.begun) await STEPS.call({ face }, step.begun);
      abort.abort("enough");
    };
    const leaving = leave();
    try {
      await face.call(step.tool, step.arguments ?? {}, { signal: abort.signal });
      return { cancelled: false };
    } catch (error) {
      if (!abort.signal.aborted) throw error;
      return { cancelled: true };
    } finally {
      await leaving;
    }
  },
  resources: async ({ face }) =>
    (await face.client.listResources()).resources.map((one) => one.uri).sort(),
  read: async ({ face }, step) =>
    (await face.client.readResource({ uri: step.uri })).contents.map((one) => one.text).join(""),
  prompts: async ({ face }) => (await face.client.listPrompts()).prompts.map((one) => one.name).sort(),
  prompt: async ({ face }, step) => {
    const result = await face.client.getPrompt({ name: step.prompt, arguments: step.arguments ?? {} });
    return result.messages.map((message) => message.content.text ?? "").join("");
  },
  watch: async ({ face, heard }, step) => {
    const stop = await face.watch(step.uri);
    await call(face, step.tool, step.arguments);
    await heard.waitFor("updated", step.uri);
    await stop();
    return heard.values("updated");
  },
  grow: async ({ face, heard }, step) => {
    const stop = await face.watchTools();
    await call(face, step.tool, step.arguments);
    await heard.waitFor("tools changed", true);
    await stop();
    return (await face.client.listTools()).tools.map((tool) => tool.name).sort();
  },
  resume: async ({ face }, step) => face.resume(step.tool, step.arguments ?? {}),
  templates: async ({ face }) =>
    (await face.client.listResourceTemplates()).resourceTemplates.map((one) => one.uriTemplate),
  complete: async ({ face }, step) => {
    const [name, value] = step.argument;
    const found = await face.client.complete({ ref: step.ref, argument: { name, value } });
    return found.completion.values;
  },
  size: async ({ face }, step) => (await call(face, step.tool, step.arguments)).text.length,
  log: async ({ face, heard }, step) => {
    const meta = await face.logLevel(step.level);
    // A server that many share may not tell whose line it is while another call with lines runs.
    for (let n = 0; n < (step.tries ?? 1); n++) {
      await call(face, step.tool, step.arguments, { meta });
      const lines = [step.expect].flat().map((line) => heard.waitFor("log", line));
      const told = Promise.all(lines).then(() => true);
      if (await (step.tries ? Promise.race([told, pause(1)]) : told)) break;
    }
    return heard.values("log");
  },
  together: async ({ face }, step) => {
    const answers = {};
    await Promise.all(
      Array.from({ length: step.count }, async (_, number) => {
        const value = `${step.who ?? ""}together ${number}`;
        const args = { ...step.arguments, [step.argument]: value };
        answers[value] = (await call(face, step.tool, args)).text;
      }),
    );
    return answers;
  },
  crowd: async ({ connect, job, heard }, step) => {
    const answers = {};
    await Promise.all(
      Array.from({ length: step.count }, async (_, number) => {
        const value = `${step.who ?? ""}session ${number}`;
        const other = await connect(job, heard);
        const mine = [];
        for (let turn = 0; turn < step.rounds; turn++) {
          const args = { ...step.arguments, [step.argument]: `${value} ${turn}` };
          mine.push((await call(other, step.tool, args)).text);
        }
        await other.close();
        answers[value] = mine;
      }),
    );
    return answers;
  },
};

const described = (error) => ({
  error: {
    type: error?.constructor?.name ?? typeof error,
    code: error?.code ?? null,
    message: String(error?.message ?? error),
  },
});

function within(seconds, work) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the step took too long")), seconds * 1000);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

async function run(connect, job) {
  const heard = new Heard();
  const report = { connect: null, steps: {}, asked: heard.asked };
  Object.assign(report, { questions: heard.questions, heard: heard.all });
  let face;
  try {
    face = await within(job.timeout, connect(job, heard));
    report.connect = { ok: { version: face.version, server: face.server } };
  } catch (error) {
    report.connect = described(error);
    return report;
  }
  for (const step of job.steps) {
    try {
      const work = STEPS[step.do]({ face, heard, connect, job }, step);
      report.steps[step.name] = { ok: await within(step.timeout ?? job.timeout, work) };
    } catch (error) {
      report.steps[step.name] = described(error);
    }
  }
  try {
    await face.close();
  } catch (error) {
    report.close = described(error);
  }
  return report;
}

/** Read the jobs from stdin, run them side by side, print the reports. */
export async function main(connect) {
  let text = "";
  for await (const chunk of process.stdin) text += chunk;
  const { jobs } = JSON.parse(text);
  const reports = {};
  await Promise.all(
    Object.entries(jobs).map(async ([name, job]) => {
      reports[name] = await run(connect, job);
    }),
  );
  process.stdout.write(JSON.stringify(reports) + "\n", () => process.exit(0));
}
