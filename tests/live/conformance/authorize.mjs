// A preload for the conformance suite, which has no option for it: puts the bearer token of the
// environment's CONFORMANCE_TOKEN into every request that has no Authorization of its own.
//
// The suite sends by fetch, by the npm package undici and by node:http. The first two tell of each
// request on one diagnostics channel, before it is written, and the third on another.
import { subscribe } from 'node:diagnostics_channel';

const value = `Bearer ${process.env.CONFORMANCE_TOKEN}`;

subscribe('undici:request:create', ({ request }) => {
  const flat = [request.headers].flat(); // one string of lines, or names and values in turn
  if (!flat.some((part) => /(^|\n)authorization(:|$)/i.test(part))) {
    request.addHeader('authorization', value);
  }
});

subscribe('http.client.request.created', ({ request }) => {
  if (!request.hasHeader('authorization')) request.setHeader('authorization', value);
});
