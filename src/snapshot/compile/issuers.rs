//! Those who sign tokens: their rules, and where their keys come from.

use super::Compiler;
use crate::config::model;
use crate::diagnostic::Diagnostic;
use crate::identity::credentials::revoked::Revoked;
use crate::identity::jwt::jwks::{self, SetError};
use crate::identity::jwt::key::SECRET_BYTES_MIN;
use crate::identity::jwt::{Algorithm, Key, KeyError, Keys, Rules};
use crate::issuers::keys::{KeyState, Place, Published, Settings};
use crate::issuers::{Issuer, Naming, Source, VerifiedTokens};
use crate::outbound::{Outbound, Url, UrlError};
use crate::state::Identity;
use crate::tls::Authorities;
use crate::units::{self, Name, OneOrMany, Secret, Span, Spanned};
use std::sync::Arc;
use std::time::Duration;

const LEEWAY: Duration = Duration::from_secs(30);
const LEEWAY_MAX: Duration = Duration::from_secs(120);
const REFRESH: Duration = Duration::from_secs(300);
const MAX_STALE: Duration = Duration::from_secs(24 * 3600);
const MAX_STALE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const TIMEOUT: Duration = Duration::from_secs(2);
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// The least time between two fetches: an issuer is not to be stormed.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// The most keys that stand in the configuration itself.
const KEYS_MAX: usize = 4;

/// Compiles the issuers, for the policies that name them.
pub fn compile(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    for (name, written) in &config.issuers {
        let before = compiler.diagnostics.len();
        let issuer = one(compiler, name, written);
        let sound = compiler
            .diagnostics
            .iter()
            .skip(before)
            .all(|one| !one.is_error());
        let issuer = issuer.filter(|_| sound).map(Arc::new);
        compiler.issuers.insert(name.as_str().into(), issuer);
    }
}

/// The issuer that a policy names.
pub fn named(
    compiler: &mut Compiler<'_>,
    name: &Spanned<Name>,
) -> Result<Option<Arc<Issuer>>, Diagnostic> {
    compiler.refers_to("issuer", name.as_str());
    if let Some(issuer) = compiler.issuers.get(name.as_str()) {
        return Ok(issuer.clone());
    }
    if compiler.is_broken("issuers", name.as_str()) {
        return Ok(None);
    }
    let message = format!("there is no issuer `{}`", name.as_str());
    let known = compiler.config.issuers.names();
    Err(Diagnostic::error(message, name.span())
        .hint("declare it under `issuers`")
        .did_you_mean(name.as_str(), known))
}

/// What is asked of tokens that are credentials says nothing of an issuer where people only log in: id tokens are for a
/// client, and of one kind.
pub fn check_tokens(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    for (name, written) in &config.issuers {
        if !compiler.is_used("issuer", name.as_str())
            || compiler.is_used("issuer's tokens", name.as_str())
        {
            continue;
        }
        let settings = [
            ("audience", written.audience.as_ref().map(Spanned::span)),
            ("token_type", written.token_type.as_ref().map(Spanned::span)),
        ];
        for (setting, at) in settings {
            let Some(at) = at else { continue };
            let message = format!(
                "`{setting}` has no effect: no `jwt` takes tokens of `{}`",
                name.as_str()
            );
            let hint = "what people log in with, `oidc`, is for its `client_id`; leave this out";
            compiler.report(Diagnostic::error(message, at).hint(hint));
        }
    }
}

fn one(
    compiler: &mut Compiler<'_>,
    name: &Spanned<Name>,
    written: &model::Issuer,
) -> Option<Issuer> {
    let naming = naming(compiler, written);
    let rules = rules(compiler, written)?;
    let accepted = algorithms(compiler, written)?;
    check_sources(compiler, written)?;
    let mut revoked = Revoked::default();
    for file in written.revoked.iter().flat_map(|files| files.iter()) {
        revoked.extend(super::credentials::revoked_ids(compiler, file));
    }
    let source = match (&written.key, &written.jwks_file) {
        (Some(keys), _) => Source::Fixed(fixed(compiler, keys, written, &accepted)?),
        (_, Some(file)) => {
            let keys = Keys::from_jwks(&file.text, &accepted, jwks::From::File);
            Source::Fixed(sound_set(compiler, keys, file.span())?)
        }
        _ => Source::Published(published(compiler, name, written, accepted)?),
    };
    check_idle(compiler, written, &source);
    // what was verified by other rules, or with other fixed keys, was not verified
    let shape = format!(
        "{rules:?} {naming:?} {}",
        match &source {
            Source::Fixed(keys) => fingerprint(keys),
            Source::Published(_) => place_of(written),
        }
    );
    let identity = Identity {
        kind: "verified_tokens",
        place: name.as_str().into(),
        shape: shape.into(),
    };
    Some(Issuer {
        name: name.as_str().into(),
        rules,
        naming,
        source,
        revoked,
        verified: compiler
            .world
            .state
            .adopt(identity, VerifiedTokens::default),
    })
}

/// Tells sets of fixed keys apart, and nothing of what is in them.
fn fingerprint(keys: &Keys) -> String {
    let mut digest = blake3::Hasher::new();
    for key in keys.iter() {
        key.digest_into(&mut digest);
    }
    digest.finalize().to_hex().to_string()
}

fn place_of(written: &model::Issuer) -> String {
    let url = written.jwks_url.as_ref();
    let url = url.map_or_else(|| written.issuer.to_string(), |url| url.to_string());
    let names = written.algorithms.as_deref().map(|all| {
        let names: Vec<&str> = all.iter().map(|one| one.name()).collect();
        names.join(" ")
    });
    format!("{url} {}", names.unwrap_or_default())
}

fn rules(compiler: &mut Compiler<'_>, written: &model::Issuer) -> Option<Rules> {
    let mut whole = !empty(
        compiler,
        &written.issuer,
        "the issuer is empty: tokens name it in `iss`",
    );
    for audience in written.audience.iter().flat_map(|all| all.iter()) {
        whole &= !empty(
            compiler,
            audience,
            "the audience is empty: tokens name it in `aud`",
        );
    }
    for kind in written.token_type.iter().flat_map(|kinds| kinds.iter()) {
        whole &= !empty(compiler, kind, "the type is empty: tokens name it in `typ`");
    }
    let leeway = written.leeway.as_ref();
    if let Some(leeway) = leeway.filter(|leeway| leeway.0 > LEEWAY_MAX) {
        let message = format!("`{}` is more than a clock may be off", **leeway);
        let hint = "at most `120s`; a token would count for as long after its end";
        compiler.report(Diagnostic::error(message, leeway.span()).hint(hint));
        whole = false;
    }
    let boxed = |texts: &OneOrMany<Spanned<String>>| {
        texts.iter().map(|text| text.as_str().into()).collect()
    };
    whole.then(|| Rules {
        issuer: written.issuer.as_str().into(),
        audiences: written.audience.as_deref().map(boxed).unwrap_or_default(),
        leeway: leeway.map_or(LEEWAY, |leeway| leeway.0),
        kinds: written.token_type.as_deref().map(|kinds| {
            let short = |kind: &str| kind.strip_prefix("application/").unwrap_or(kind).into();
            kinds.iter().map(|kind| short(kind)).collect()
        }),
    })
}

fn empty(compiler: &mut Compiler<'_>, text: &Spanned<String>, message: &str) -> bool {
    if text.is_empty() {
        compiler.report(Diagnostic::error(message.to_owned(), text.span()));
    }
    text.is_empty()
}

fn naming(compiler: &mut Compiler<'_>, written: &model::Issuer) -> Naming {
    let mut path = |path: &Option<Spanned<String>>| {
        let text = path.as_ref()?;
        if text.is_empty() || text.starts_with('.') || text.ends_with('.') {
            let message = format!("`{}` names no claim", text.escape_debug());
            let hint = "such as `azp`, or `realm_access.roles` for a claim in an object";
            compiler.report(Diagnostic::error(message, text.span()).hint(hint));
        }
        Some(text.as_str().into())
    };
    Naming {
        consumer: path(&written.consumer),
        plan: path(&written.plan),
        groups: path(&written.groups),
        scopes: path(&written.scopes),
    }
}

/// The algorithms that are accepted, in the order in which they count.
fn algorithms(compiler: &mut Compiler<'_>, written: &model::Issuer) -> Option<Vec<Algorithm>> {
    let Some(listed) = &written.algorithms else {
        return Some(Algorithm::ASYMMETRIC.to_vec());
    };
    let mut accepted = Vec::new();
    for algorithm in listed.iter() {
        if accepted.contains(&**algorithm) {
            let message = format!("`{}` stands twice", **algorithm);
            compiler.report(Diagnostic::error(message, algorithm.span()));
        }
        let published = written.key.is_none() && written.jwks_file.is_none();
        if algorithm.is_symmetric() && published {
            let message = format!(
                "`{}` needs a shared secret, and what is published is none",
                **algorithm
            );
            let hint = "write the secret as `key: ${file:/path}`, or leave the algorithm out";
            compiler.report(Diagnostic::error(message, algorithm.span()).hint(hint));
        }
        accepted.push(**algorithm);
    }
    Some(accepted)
}

/// Keys come from one place.
fn check_sources(compiler: &mut Compiler<'_>, written: &model::Issuer) -> Option<()> {
    let places = [
        written.jwks_url.as_ref().map(Spanned::span),
        written.jwks_file.as_ref().map(Spanned::span),
        written.key.as_ref().map(Spanned::span),
    ];
    let mut places = places.into_iter().flatten();
    let second = places.next().and(places.next());
    if let Some(second) = second {
        let message = "the keys of an issuer come from one place";
        let hint =
            "write one of `jwks_url`, `jwks_file` and `key`, or none to find them by `issuer`";
        compiler.report(Diagnostic::error(message, second).hint(hint));
        return None;
    }
    Some(())
}

/// Settings of fetching, where nothing is fetched.
fn check_idle(compiler: &mut Compiler<'_>, written: &model::Issuer, source: &Source) {
    if matches!(source, Source::Published(_)) {
        return;
    }
    let settings = [
        ("refresh", written.refresh.as_ref().map(Spanned::span)),
        ("max_stale", written.max_stale.as_ref().map(Spanned::span)),
        ("timeout", written.timeout.as_ref().map(Spanned::span)),
        ("ca", written.ca.as_ref().map(Spanned::span)),
    ];
    for (name, at) in settings {
        if let Some(at) = at {
            let message = format!("`{name}` has no effect: the keys are in the configuration");
            let hint = "it is for keys that are fetched, by `issuer` or `jwks_url`";
            compiler.report(Diagnostic::error(message, at).hint(hint));
        }
    }
}

fn fixed(
    compiler: &mut Compiler<'_>,
    keys: &Spanned<OneOrMany<Spanned<Secret>>>,
    written: &model::Issuer,
    accepted: &[Algorithm],
) -> Option<Keys> {
    if keys.len() > KEYS_MAX {
        let message = format!(
            "{} keys are too many to be tried one after another",
            keys.len()
        );
        let hint = format!("at most {KEYS_MAX}; `jwks_file` holds keys with names");
        compiler.report(Diagnostic::error(message, keys.span()).hint(hint));
        return None;
    }
    let secret = accepted.iter().filter(|one| one.is_symmetric()).count();
    if secret > 0 && accepted.len() > 1 {
        let at = written
            .algorithms
            .as_ref()
            .map_or(keys.span(), Spanned::span);
        let message = "a shared secret has one algorithm, and public keys are none";
        compiler.report(Diagnostic::error(message, at).hint("such as `algorithms: HS256`"));
        return None;
    }
    let mut made = Vec::new();
    for written in keys.iter() {
        let key = match accepted {
            [one] if one.is_symmetric() => Key::from_secret(written.expose().as_bytes(), *one),
            _ => Key::from_pem(written.expose(), accepted),
        };
        match key {
            Ok(key) => made.push(key),
            Err(error) => {
                let diagnostic = unusable(&error, accepted, written.span());
                compiler.report(diagnostic);
            }
        }
    }
    let listed = written.algorithms.iter().flat_map(|listed| listed.iter());
    let idle = listed.filter(|one| made.iter().all(|key| key.algorithm != ***one));
    for algorithm in idle.filter(|_| made.len() == keys.len()) {
        let message = format!("no key is for `{}`", **algorithm);
        let hint = "a key is for the first algorithm of the list that it is good for";
        compiler.report(Diagnostic::error(message, algorithm.span()).hint(hint));
    }
    (made.len() == keys.len()).then(|| Keys::new(made))
}

fn unusable(error: &KeyError, accepted: &[Algorithm], at: Span) -> Diagnostic {
    let names: Vec<&str> = accepted.iter().map(|one| one.name()).collect();
    let (message, hint) = match error {
        KeyError::NotPem => (
            "the key is not in PEM form".to_owned(),
            "`-----BEGIN PUBLIC KEY-----`, as `key: ${file:/path}`; for a shared secret, `algorithms: HS256`".to_owned(),
        ),
        KeyError::Private => (
            "this is the private key, which only the issuer may have".to_owned(),
            "its public half: `openssl pkey -in KEY -pubout`".to_owned(),
        ),
        KeyError::OtherPem => (
            "this PEM block is no public key".to_owned(),
            "`PUBLIC KEY` or `CERTIFICATE`; of a PKCS #1 key: `openssl rsa -RSAPublicKey_in -in KEY -pubout`".to_owned(),
        ),
        KeyError::Broken => ("the key is broken".to_owned(), "its contents are not those of a public key".to_owned()),
        KeyError::Unsupported => (
            "this kind of key is not known".to_owned(),
            "RSA, P-256, P-384 or Ed25519".to_owned(),
        ),
        KeyError::RsaBits(bits) => (
            format!("an RSA key of {bits} bits is not taken"),
            "from 2048 to 8192 bits (RFC 7518 §3.3)".to_owned(),
        ),
        KeyError::NoAlgorithm => (
            "the key is good for none of the algorithms".to_owned(),
            format!("accepted are {}", names.join(", ")),
        ),
        KeyError::ShortSecret(length) => (
            format!("a secret of {length} bytes can be guessed"),
            format!("at least {SECRET_BYTES_MIN} random bytes: `openssl rand -base64 48`"),
        ),
        KeyError::PemAsSecret => (
            "this is the text of a key, and no secret".to_owned(),
            "with a public key, leave the `HS` algorithms out".to_owned(),
        ),
    };
    Diagnostic::error(message, at).hint(hint)
}

fn sound_set(compiler: &mut Compiler<'_>, keys: Result<Keys, SetError>, at: Span) -> Option<Keys> {
    match keys {
        Ok(keys) => Some(keys),
        Err(error) => {
            let message = format!("the key set can't be used: {error}");
            compiler.report(
                Diagnostic::error(message, at)
                    .hint("a JSON Web Key Set (RFC 7517 §5): `{\"keys\": […]}`"),
            );
            None
        }
    }
}

fn published(
    compiler: &mut Compiler<'_>,
    name: &Spanned<Name>,
    written: &model::Issuer,
    accepted: Vec<Algorithm>,
) -> Option<Published> {
    let place = place(compiler, written)?;
    let first = match &place {
        Place::Set(url) => url,
        Place::Discovered { document, .. } => document,
    };
    compiler.asks_dns |= first.is_looked_up();
    let authorities = match &written.ca {
        None => None,
        Some(ca) if !first.is_tls() => {
            let message = "`ca` has no effect without TLS";
            compiler.report(Diagnostic::error(message, ca.span()).hint("an `https` URL"));
            return None;
        }
        Some(ca) => match Authorities::from_pem(&ca.text) {
            Ok(authorities) => Some(Arc::new(authorities)),
            Err(error) => {
                compiler.report(Diagnostic::error(format!("`ca`: {error}"), ca.span()));
                return None;
            }
        },
    };
    let refresh = bounded(
        compiler,
        &written.refresh,
        REFRESH,
        REFRESH_MIN,
        MAX_STALE_MAX,
    )?;
    let max_stale = bounded(
        compiler,
        &written.max_stale,
        MAX_STALE.max(refresh),
        REFRESH_MIN,
        MAX_STALE_MAX,
    )?;
    if max_stale < refresh {
        let at = [&written.max_stale, &written.refresh]
            .into_iter()
            .flatten()
            .next();
        let message = "the keys would be given up before they are fetched again";
        let hint = "make `refresh` shorter than `max_stale`";
        compiler
            .report(Diagnostic::error(message, at.map_or(name.span(), Spanned::span)).hint(hint));
    }
    let settings = Settings {
        accepted: accepted.clone(),
        authorities,
        timeout: bounded(
            compiler,
            &written.timeout,
            TIMEOUT,
            Duration::from_millis(1),
            TIMEOUT_MAX,
        )?,
        refresh,
        max_stale,
        place,
    };
    let state = compiler.world.state;
    let identity = Identity {
        kind: "issuer_keys",
        place: name.as_str().into(),
        shape: place_of(written).into(),
    };
    let outbound = Identity {
        kind: "outbound",
        place: "".into(),
        shape: "".into(),
    };
    Some(Published::new(
        name.as_str().into(),
        settings,
        state.adopt(identity, || KeyState::new(accepted)),
        state.adopt(outbound, Outbound::default),
        compiler.resolver.clone(),
        compiler.world.metrics.issuer(name.as_str()),
    ))
}

fn bounded(
    compiler: &mut Compiler<'_>,
    written: &Option<Spanned<units::Duration>>,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Option<Duration> {
    let Some(written) = written else {
        return Some(default);
    };
    if (least..=most).contains(&written.0) {
        return Some(written.0);
    }
    let message = format!("`{}` is out of bounds", **written);
    let hint = format!(
        "from `{}` to `{}`",
        units::Duration(least),
        units::Duration(most)
    );
    compiler.report(Diagnostic::error(message, written.span()).hint(hint));
    None
}

fn place(compiler: &mut Compiler<'_>, written: &model::Issuer) -> Option<Place> {
    if let Some(url) = &written.jwks_url {
        return match url.parse::<Url>() {
            Ok(url) => Some(Place::Set(url)),
            Err(error) => unasked(
                compiler,
                url,
                error,
                "such as `https://idp.example.com/keys`",
            ),
        };
    }
    let issuer = &written.issuer;
    let text = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let parsed = match issuer.contains('?') {
        true => Err(UrlError::Parts),
        false => text.parse::<Url>(),
    };
    match parsed {
        Ok(document) => Some(Place::Discovered {
            document,
            issuer: issuer.as_str().into(),
        }),
        Err(error) => {
            let hint = "keys are found at the issuer's own URL; elsewhere, with `jwks_url`, `jwks_file` or `key`";
            unasked(compiler, issuer, error, hint)
        }
    }
}

fn unasked(
    compiler: &mut Compiler<'_>,
    url: &Spanned<String>,
    error: UrlError,
    hint: &str,
) -> Option<Place> {
    let message = format!("`{}` can't be asked for keys: {error}", url.escape_debug());
    compiler.report(Diagnostic::error(message, url.span()).hint(hint.to_owned()));
    None
}
