// A token that is bound to a certificate (RFC 8705), with nothing but Node.js: no proof is signed for any request.
//
//     node certificate-bound.mjs CREDENTIALS.json
//
// CREDENTIALS.json is what `tallystick client create NAME --bind certificate --scope "..." --out CREDENTIALS.json` wrote. Its scope
// must hold accounts:read. Node.js 18 or newer, no packages.

import { createHash, createPrivateKey, randomUUID, sign, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';

if (process.argv.length !== 3) {
  console.error('usage: node certificate-bound.mjs CREDENTIALS.json');
  process.exit(2);
}
const credentials = JSON.parse(readFileSync(process.argv[2], 'utf8'));

// Each connection of this agent proves, while it is made, that we have the certificate's key.
const agent = new Agent({
  ca: readFileSync(credentials.ca),
  cert: credentials.tls_client_certificate,
  key: credentials.tls_client_key,
  keepAlive: true,
  minVersion: 'TLSv1.3',
});

const base64url = (value) => Buffer.from(value).toString('base64url');

/** One HTTPS request; the answer's body as JSON. */
function send(method, url, headers = {}, body = undefined) {
  return new Promise((resolve, reject) => {
    const sent = request(url, { method, headers, agent, timeout: 30_000 }, (answer) => {
      const parts = [];
      answer.on('data', (part) => parts.push(part));
      answer.on('end', () => {
        const text = Buffer.concat(parts).toString();
        if (answer.statusCode >= 400) reject(new Error(`${method} ${url}: ${answer.statusCode} ${text}`));
        else resolve(JSON.parse(text));
      });
      answer.on('error', reject);
    });
    sent.on('timeout', () => sent.destroy(new Error(`no answer to ${method} ${url} in time`)));
    sent.on('error', reject);
    sent.end(body);
  });
}

/** RFC 7523: who we are. The audience is the issuer, also where the request goes to its other address. */
function assertion(issuer) {
  const now = Math.floor(Date.now() / 1000);
  const header = { alg: 'ES256', typ: 'client-authentication+jwt', kid: credentials.private_key_jwk.kid };
  const claims = {
    iss: credentials.client_id,
    sub: credentials.client_id,
    aud: issuer,
    jti: randomUUID(),
    iat: now,
    exp: now + 60,
  };
  const key = createPrivateKey({ key: credentials.private_key_jwk, format: 'jwk' });
  const text = `${base64url(JSON.stringify(header))}.${base64url(JSON.stringify(claims))}`;
  return `${text}.${sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

// RFC 8414: `mtls_endpoint_aliases` has the endpoints for clients with a certificate (RFC 8705, 5). The issuer's other port answers too.
const metadata = await send('GET', `${credentials.api}/.well-known/oauth-authorization-server`);
const answer = await send(
  'POST',
  metadata.mtls_endpoint_aliases.token_endpoint,
  { 'Content-Type': 'application/x-www-form-urlencoded' },
  new URLSearchParams({
    grant_type: 'client_credentials',
    scope: credentials.scope,
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: assertion(metadata.issuer),
  }).toString(),
);

// The token says which certificate it is good with: the SHA-256 of its DER.
const { cnf } = JSON.parse(Buffer.from(answer.access_token.split('.')[1], 'base64url'));
const own = createHash('sha256').update(new X509Certificate(credentials.tls_client_certificate).raw).digest('base64url');
if (cnf['x5t#S256'] !== own) throw new Error('the token is not bound to our certificate');

const accounts = await send('GET', `${credentials.api}/v1/accounts`, { Authorization: `Bearer ${answer.access_token}` });
console.log(`${accounts.data.length} accounts by a token of type ${answer.token_type}, bound to ${own}`);
agent.destroy();
