// An identity provider: `node provider.mjs HOST PORT`. Prints its port once it listens. Each start makes new keys, so
// that another start at the same port is a rotation.
//
// Of the resources, `urn:orders:rs`, `urn:orders:es` and `urn:orders:ps` get signed tokens, `urn:orders:opaque` tokens
// that only the provider can read. All are for the audience `orders`.
//
// `browser` is the client for people, whoever they say to be: access tokens of 4 s, and refresh tokens that rotate.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

const [host, port] = process.argv.slice(2);
const server = createServer();
server.listen(Number(port ?? 0), host, async () => {
  const { default: Provider } = await import('oidc-provider');
  const issuer = `http://${host}:${server.address().port}`;
  const jwk = (kind, options, alg) => ({
    ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }),
    alg,
    use: 'sig',
    kid: randomUUID(),
  });
  const rsa = { modulusLength: 2048 };
  const client = (client_id, more) => ({
    client_id,
    client_secret: 'a secret: 100% + more',
    redirect_uris: [],
    response_types: [],
    grant_types: ['client_credentials'],
    ...more,
  });
  const formats = { rs: 'RS256', es: 'ES256', ps: 'PS256' };
  const provider = new Provider(issuer, {
    clients: [
      client('shop'),
      client('northgate', { grant_types: [] }),
      client('browser', {
        redirect_uris: ['https://app.example/oauth2/callback'],
        post_logout_redirect_uris: ['https://app.example/bye'],
        response_types: ['code'],
        grant_types: ['authorization_code', 'refresh_token'],
      }),
    ],
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, roles: ['staff'] }) }),
    claims: { openid: ['sub', 'roles'] },
    conformIdTokenClaims: false,
    ttl: { AccessToken: 4, IdToken: 300, Session: 3600, Grant: 3600, RefreshToken: 3600, Interaction: 600 },
    issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
    rotateRefreshToken: true,
    cookies: { keys: ['a key of the cookies of this provider'] },
    jwks: {
      keys: [
        jwk('rsa', rsa, 'RS256'),
        jwk('rsa', rsa, 'PS256'),
        jwk('ec', { namedCurve: 'P-256' }, 'ES256'),
      ],
    },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => {
          const kind = resource.split(':').pop();
          return {
            scope: 'read write',
            audience: 'orders',
            accessTokenTTL: 300,
            accessTokenFormat: kind in formats ? 'jwt' : 'opaque',
            jwt: { sign: { alg: formats[kind] } },
          };
        },
      },
    },
  });
  // the gateway has another address in each test
  provider.Client.prototype.redirectUriAllowed = (uri) => new URL(uri).pathname === '/oauth2/callback';
  provider.Client.prototype.postLogoutRedirectUriAllowed = (uri) => new URL(uri).pathname === '/bye';
  server.on('request', provider.callback());
  console.log(server.address().port);
});
