// A payment with nothing but Node.js: get a token by private_key_jwt, prove the key with each request (DPoP), pay.
//
//     node first-payment.mjs CREDENTIALS.json
//
// CREDENTIALS.json is what `tallystick client create NAME --scope "..." --out CREDENTIALS.json` wrote. Its scope must hold
// accounts:write tokens:write payments:write payments:read. Node.js 18 or newer, no packages.

import { createHash, createPrivateKey, generateKeyPairSync, randomUUID, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';

if (process.argv.length !== 3) {
  console.error('usage: node first-payment.mjs CREDENTIALS.json');
  process.exit(2);
}
const credentials = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const agent = new Agent({ ca: readFileSync(credentials.ca), keepAlive: true, minVersion: 'TLSv1.3' });

// Two keys. The client's own, from the file, says who we are. The other lives as long as this process: tokens are bound to
// it, so that a token which leaks is worth nothing.
const clientKey = createPrivateKey({ key: credentials.private_key_jwk, format: 'jwk' });
const proofKey = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const { kty, crv, x, y } = proofKey.publicKey.export({ format: 'jwk' });

const base64url = (value) => Buffer.from(value).toString('base64url');

/** A JWT signed with ES256 (RFC 7515, 7518). The signature is r and s one after the other, not DER. */
function jwt(header, claims, key) {
  const text = `${base64url(JSON.stringify({ alg: 'ES256', ...header }))}.${base64url(JSON.stringify(claims))}`;
  return `${text}.${sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

/** RFC 9449: for this method and this URL (without query), once, now; with a token also bound to it. */
function proof(method, url, token) {
  const claims = { jti: randomUUID(), htm: method, htu: url, iat: Math.floor(Date.now() / 1000) };
  if (token) claims.ath = createHash('sha256').update(token).digest('base64url');
  return jwt({ typ: 'dpop+jwt', jwk: { kty, crv, x, y } }, claims, proofKey.privateKey);
}

/** One HTTPS request. A time limit of our own: a server that stops must not stop us. */
function send(method, url, headers, body) {
  return new Promise((resolve, reject) => {
    const sent = request(url, { method, headers, agent, timeout: 30_000 }, (answer) => {
      const parts = [];
      answer.on('data', (part) => parts.push(part));
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text: Buffer.concat(parts).toString() }));
      answer.on('error', reject);
    });
    sent.on('timeout', () => sent.destroy(new Error(`no answer to ${method} ${url} in time`)));
    sent.on('error', reject);
    sent.end(body);
  });
}

/** RFC 6749 and 7523: the client proves itself by a signed assertion, for the issuer only, good for a minute and once. */
async function accessToken() {
  const now = Math.floor(Date.now() / 1000);
  const assertion = jwt(
    { typ: 'client-authentication+jwt', kid: credentials.private_key_jwk.kid },
    {
      iss: credentials.client_id,
      sub: credentials.client_id,
      aud: credentials.issuer,
      jti: randomUUID(),
      iat: now,
      exp: now + 60,
    },
    clientKey,
  );
  const url = `${credentials.issuer}/oauth2/token`;
  const form = new URLSearchParams({
    grant_type: 'client_credentials',
    scope: credentials.scope,
    client_id: credentials.client_id,
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: assertion,
  }).toString();
  const headers = { 'Content-Type': 'application/x-www-form-urlencoded', DPoP: proof('POST', url) };
  const answer = await send('POST', url, headers, form);
  if (answer.status !== 200) throw new Error(`no token: ${answer.status} ${answer.text}`);
  return JSON.parse(answer.text).access_token;
}

/**
 * One call. What was not answered, or answered with 429, 502, 503 or 504, or with 409 because the first is still at work, is sent
 * again with the same Idempotency-Key: it is done once, however often it is sent. Each time needs a fresh proof.
 */
async function call(method, path, token, { body, key } = {}) {
  const url = `${credentials.api}${path}`;
  for (let attempt = 1; ; attempt += 1) {
    const headers = { Authorization: `DPoP ${token}`, DPoP: proof(method, url, token) };
    if (body) headers['Content-Type'] = 'application/json';
    if (key) headers['Idempotency-Key'] = key;
    const answer = await send(method, url, headers, body && JSON.stringify(body)).catch((error) => ({ error }));
    const busy = answer.status === 409 && JSON.parse(answer.text).type.endsWith('/request-in-progress');
    const again = answer.error || busy || [429, 502, 503, 504].includes(answer.status);
    if (!again || attempt === 5) {
      if (answer.error) throw answer.error;
      if (answer.status >= 400) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
      return JSON.parse(answer.text);
    }
    await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** attempt * (0.5 + Math.random() / 2)));
  }
}

const token = await accessToken();

const merchant = await call('POST', '/v1/accounts', token, {
  body: { name: 'Merchant', currency: 'EUR', normal_side: 'credit' },
  key: randomUUID(),
});
const card = await call('POST', '/v1/tokens', token, {
  body: { type: 'card', card: { number: '4242424242424242', exp_month: 12, exp_year: 2030, cvc: '123' } },
  key: randomUUID(),
});

// The key belongs to the order, not to the attempt: keep it with the order before you send.
const payment = await call('POST', '/v1/payments', token, {
  body: {
    amount: { amount: '4990', currency: 'EUR' },
    source: { type: 'card', token: card.id },
    destination: { account: merchant.id },
    reference: 'order 1001',
  },
  key: `order-1001-${randomUUID()}`,
});

const { amount, currency } = payment.captured;
console.log(`${payment.id}: ${payment.status}, ${amount} minor units of ${currency} from ${card.card.brand} ending in ${card.card.last4}`);
console.log(`receipt: ${payment.receipt}`);
agent.destroy();
process.exitCode = payment.status === 'settled' ? 0 : 1;
