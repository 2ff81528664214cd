// A strict OpenID provider for the tests: PKCE always, RS256, one confidential client, accounts as given. Mail and
// name are told by UserInfo alone, as OpenID Connect Core 5.4 has it and as is usual; Google puts them into the token.
// All it is told comes in one JSON argument; it says "ready" once it listens.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import Provider from "oidc-provider";

const { port, issuer, client, accounts } = JSON.parse(process.argv[2]);
const signing = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });

const provider = new Provider(issuer, {
  clients: [{ response_types: ["code"], grant_types: ["authorization_code"], ...client }],
  responseTypes: ["code"],
  jwks: { keys: [{ ...signing, use: "sig", alg: "RS256", kid: "first" }] },
  cookies: { keys: [randomBytes(32).toString("base64url")] },
  claims: { openid: ["sub", "hd"], email: ["email", "email_verified"], profile: ["name"] },
  conformIdTokenClaims: true,
  pkce: { required: () => true },
  features: { devInteractions: { enabled: false }, rpInitiatedLogout: { enabled: false } },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  ttl: { AuthorizationCode: 60, AccessToken: 60, IdToken: 60, Grant: 3600, Interaction: 600, Session: 3600 },
  findAccount: (_, id) => id in accounts && { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) },
  // nobody is asked for consent: the client is the only one there is
  async loadExistingGrant(ctx) {
    const { client, session, params } = ctx.oidc;
    const grant = new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(params.scope);
    await grant.save();
    return grant;
  },
});

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith("/interaction/")) return next();
  if (ctx.method === "GET") {
    ctx.type = "html";
    ctx.body = `<!doctype html><html lang="en"><title>Test provider</title><h1>Who are you?</h1>
      <form method="post"><label>Account <input name="account" autofocus required></label>
      <button>Continue</button></form>`;
    return undefined;
  }
  let body = "";
  for await (const chunk of ctx.req) body += chunk;
  const accountId = new URLSearchParams(body).get("account");
  if (!(accountId in accounts)) ctx.throw(400, "there is no such account");
  await provider.interactionFinished(ctx.req, ctx.res, { login: { accountId } });
  ctx.respond = false;
  return undefined;
});

provider.listen(port, "127.0.0.1", () => console.log("ready"));
