// better-auth with its api-key plugin: keys in SQLite (WAL), its cache on (secondary storage in this process,
// with the database behind it). verifyApiKey may only be called on the server, so this is a handler over it.
// The tokens it made are written to the file that TOKENS names once it is up.
import { createServer } from "node:http";
import { renameSync, writeFileSync } from "node:fs";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { apiKey } from "@better-auth/api-key";
import Database from "better-sqlite3";

const KEYS = 1000;
const database = new Database(process.env.DATABASE);
database.pragma("journal_mode = WAL");
const cache = new Map();
const options = {
  database,
  secret: "a secret of more than thirty-two characters",
  baseURL: "http://127.0.0.1",
  emailAndPassword: { enabled: true },
  secondaryStorage: {
    get: async (name) => cache.get(name) ?? null,
    set: async (name, value) => void cache.set(name, value),
    delete: async (name) => void cache.delete(name),
  },
  plugins: [apiKey({ rateLimit: { enabled: false }, storage: "secondary-storage", fallbackToDatabase: true })],
  telemetry: { enabled: false },
  logger: { disabled: true },
};
await (await getMigrations(options)).runMigrations();
const auth = betterAuth(options);
const { user } = await auth.api.signUpEmail({ body: { name: "Ada", email: "ada@example.com", password: "p".repeat(20) } });
const tokens = [];
for (let number = 0; number < KEYS; number += 1) {
  const made = await auth.api.createApiKey({ body: { userId: user.id, name: `k${number}`, permissions: { contacts: ["read"] } } });
  tokens.push(made.key);
}

createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", async () => {
    const { key } = JSON.parse(Buffer.concat(parts));
    const verdict = await auth.api.verifyApiKey({ body: { key, permissions: { contacts: ["read"] } } });
    const body = JSON.stringify(verdict);
    response.writeHead(verdict.valid ? 200 : 401, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
    response.end(body);
  });
}).listen(Number(process.env.PORT), "127.0.0.1", () => {
  writeFileSync(`${process.env.TOKENS}.part`, tokens.join("\n"));
  renameSync(`${process.env.TOKENS}.part`, process.env.TOKENS);
});
