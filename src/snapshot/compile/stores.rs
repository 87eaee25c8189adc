//! Stores: where gateways count together.

use super::Compiler;
use crate::config::model;
use crate::diagnostic::Diagnostic;
use crate::state::Identity;
use crate::store::{Link, Place, PlaceError, Store};
use crate::tls::Authorities;
use crate::units::{Name, Secret, Spanned};
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_millis(5);

/// A request waits as long.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);

const PREFIX: &str = "northgate:";
const PREFIX_BYTES_MAX: usize = 100;

/// Compiles the stores, for the policies that name them.
pub fn compile(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    for (name, written) in &config.stores {
        let store = store(compiler, name, written).map(Arc::new);
        compiler.stores.insert(name.as_str().into(), store);
    }
}

/// The store of that name, for a policy.
pub fn named(
    compiler: &mut Compiler<'_>,
    name: &Spanned<Name>,
) -> Result<Option<Arc<Store>>, Diagnostic> {
    let text = name.as_str();
    compiler.refers_to("store", text);
    if let Some(store) = compiler.stores.get(text) {
        return Ok(store.clone());
    }
    if compiler.is_broken("stores", text) {
        return Ok(None);
    }
    let known: Vec<&str> = compiler.config.stores.names().collect();
    let diagnostic = compiler.unknown("store", text, &known, name.span());
    Err(match known.is_empty() {
        true => {
            diagnostic.hint("declare it: `stores: {shared: {redis: \"redis://127.0.0.1:6379\"}}`")
        }
        false => diagnostic,
    })
}

fn store(
    compiler: &mut Compiler<'_>,
    name: &Spanned<Name>,
    written: &model::Store,
) -> Option<Store> {
    let timeout = timeout(compiler, written);
    let prefix = prefix(compiler, written);
    let place = place(compiler, written);
    let (place, shape) = place?;
    let name: Arc<str> = name.as_str().into();
    let identity = Identity {
        kind: "store",
        place: name.clone(),
        shape,
    };
    let (state, metrics) = (compiler.world.state, compiler.world.metrics);
    let make = || Link::new(name.clone(), place, metrics.store(&name));
    let link = state.adopt(identity, make);
    Some(Store {
        timeout: timeout?,
        on_failure: written.on_failure.unwrap_or_default(),
        prefix: prefix?.into(),
        link,
        name,
    })
}

fn timeout(compiler: &mut Compiler<'_>, written: &model::Store) -> Option<Duration> {
    let Some(timeout) = &written.timeout else {
        return Some(TIMEOUT);
    };
    let time = timeout.value().0;
    if time.is_zero() || time > TIMEOUT_MAX {
        let message = match time.is_zero() {
            true => "no store answers in no time",
            false => "a request would wait that long for a store that is away",
        };
        let hint = "from 1ms to 1s; 5ms where the store is near";
        compiler.report(Diagnostic::error(message, timeout.span()).hint(hint));
        return None;
    }
    Some(time)
}

fn prefix<'a>(compiler: &mut Compiler<'_>, written: &'a model::Store) -> Option<&'a str> {
    let Some(prefix) = &written.prefix else {
        return Some(PREFIX);
    };
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
    if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX || !prefix.bytes().all(is_plain) {
        let message = "this can't be what names in a store begin with";
        let hint =
            "up to 100 letters, digits and signs, without blanks and braces, such as `shop:`";
        compiler.report(Diagnostic::error(message, prefix.span()).hint(hint));
        return None;
    }
    Some(prefix)
}

/// Where it is, and what would make it another place.
fn place(compiler: &mut Compiler<'_>, written: &model::Store) -> Option<(Place, Arc<str>)> {
    let several = written.redis.len() > 1;
    if let Some(cluster) = &written.cluster
        && (several || !cluster.value().0)
    {
        let (message, hint) = match cluster.value().0 {
            true => ("several servers are a cluster anyway", "remove `cluster`"),
            false if several => (
                "several servers that are no cluster do not count together",
                "name one, or remove `cluster: off`",
            ),
            false => ("one server is no cluster anyway", "remove `cluster`"),
        };
        compiler.report(Diagnostic::error(message, cluster.span()).hint(hint));
        return None;
    }
    let ca = match &written.ca {
        None => None,
        Some(ca) => match Authorities::from_pem(&ca.text) {
            Ok(_) => Some(ca.text.as_slice()),
            Err(error) => {
                compiler.report(Diagnostic::error(format!("`ca`: {error}"), ca.span()));
                return None;
            }
        },
    };
    // each by itself first, so that the error stands at its place
    let broken = |url: &&Spanned<Secret>| Place::new(&[url.expose()], false, None).is_err();
    let broken: Vec<_> = written.redis.iter().filter(broken).collect();
    for url in &broken {
        let hint = "such as `redis://:password@10.0.0.9:6379/0`, `rediss://…` with TLS, `redis+unix:///path`";
        compiler.report(Diagnostic::error(PlaceError::Url.to_string(), url.span()).hint(hint));
    }
    if !broken.is_empty() {
        return None;
    }
    let urls: Vec<&str> = written.redis.iter().map(|url| url.expose()).collect();
    let cluster = several || written.cluster.is_some();
    let place = match Place::new(&urls, cluster, ca) {
        Ok(place) => place,
        Err(error) => {
            let at = match (&error, &written.ca) {
                (PlaceError::NoTls, Some(ca)) => ca.span(),
                _ => written.redis.span(),
            };
            compiler.report(Diagnostic::error(error.to_string(), at));
            return None;
        }
    };
    // URLs hold passwords: they are known again by their digest
    let mut digest = blake3::Hasher::new();
    for part in urls.iter().map(|url| url.as_bytes()).chain(ca) {
        digest.update(&(part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.update(&[u8::from(cluster)]);
    Some((place, digest.finalize().to_hex().as_str().into()))
}
