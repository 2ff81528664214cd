// A caller of the contacts API.
//
//   KEYLEDGER_API_KEY=cvtk_live_… node client.ts                              Node 22.18 or later
//   KEYLEDGER_API_KEY=cvtk_live_… node --input-type=module < client.ts        any Node from 18 on
//
// Its types are all inferred, so it is TypeScript and JavaScript at once: nothing to compile or install.

const url = process.env.CONTACTS_URL ?? "http://localhost:8404";
const key = process.env.KEYLEDGER_API_KEY;
if (!key) throw new Error("KEYLEDGER_API_KEY is not set");

const response = await fetch(`${url}/v1/contacts`, {
  headers: { "X-API-Key": key },
  signal: AbortSignal.timeout(5000),
});
const answer = await response.json();
const limit = response.headers.get("X-RateLimit-Limit");
const remaining = response.headers.get("X-RateLimit-Remaining");

console.log(limit ? `${response.status}, ${remaining} of ${limit} requests left` : `${response.status}`);

switch (response.ok ? "ok" : answer.error) {
  case "ok":
    for (const { name, email } of answer.contacts) console.log(`${name} <${email}>`);
    break;
  case "missing_api_key":
  case "invalid_api_key":
    console.error("The key is not accepted: create a new one under Settings > API Keys.");
    break;
  case "insufficient_permissions":
    console.error("The key is good, and does not cover this: give it the scope, or use another one.");
    break;
  case "rate_limit_exceeded":
  case "quota_exceeded":
    console.error(`Too many requests: try again in ${response.headers.get("Retry-After")} s.`);
    break;
  default:
    console.error(`Something is wrong over there (${answer.error}): try again later.`);
}
process.exitCode = response.ok ? 0 : 1;

// what makes this file a module for TypeScript, so that `await` may stand where it does
export {};
