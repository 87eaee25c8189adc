//! How a service chooses among its endpoints, and a split among its arms.

use super::super::Compiler;
use crate::config::model;
use crate::diagnostic::Diagnostic;
use crate::exchange::fact::Fact;
use crate::units::{OrOff, Secret, Span, Spanned};
use crate::upstream::Service;
use crate::upstream::balance::{Balance, Balancing, Hashing, Keyed, Sticky};
use std::sync::Arc;
use zeroize::Zeroizing;

/// How much more than its share an endpoint may have in flight with `consistent_hash` where nothing is written, in parts
/// per million: the factor 1.25, with which requests move at most to a few endpoints, and those who would be hot share.
const OVERLOAD_PPM: u32 = 250_000;

/// The shortest key of cookies, in bytes: what can't be tried out.
const COOKIE_KEY_MIN: usize = 16;

/// What the service says about choosing; none if there are errors.
pub fn balancing(
    compiler: &mut Compiler<'_>,
    name: &str,
    service: &model::Service,
) -> Option<Balancing> {
    let balance = match service.balance.as_deref() {
        None | Some(model::Balance::LeastRequest) => Balance::LeastRequest,
        Some(model::Balance::RoundRobin) => Balance::RoundRobin,
        Some(model::Balance::Ewma) => Balance::Ewma,
        Some(model::Balance::Random) => Balance::Random,
        Some(model::Balance::ConsistentHash(hash)) => Balance::ConsistentHash(Arc::new(Hashing {
            key: keyed(&hash.by),
            overload_ppm: match hash.overload {
                None => Some(OVERLOAD_PPM),
                Some(OrOff::Off) => None,
                Some(OrOff::On(overload)) => Some(overload.parts_per_million()),
            },
        })),
    };
    if let Some(slow_start) = &service.slow_start
        && slow_start.is_zero()
    {
        let diagnostic =
            Diagnostic::error("a slow start of no time has no effect", slow_start.span());
        compiler.report(diagnostic.hint("such as `30s`; leave it out for none"));
        return None;
    }
    let sticky = match &service.sticky {
        Some(written) => Some(Arc::new(sticky(compiler, name, written)?)),
        None => None,
    };
    Some(Balancing {
        balance,
        slow_start: service.slow_start.as_deref().map(|time| time.0),
        sticky,
    })
}

fn keyed(by: &[Fact]) -> Keyed {
    Keyed(by.into())
}

fn sticky(
    compiler: &mut Compiler<'_>,
    service: &str,
    written: &Spanned<model::Sticky>,
) -> Option<Sticky> {
    if let Some(by) = &written.by {
        let message = "`by` makes a split sticky, and this is a service with endpoints";
        let hint = "write `balance: {consistent_hash: {by: …}}`, or `sticky: {cookie: …}`";
        compiler.report(Diagnostic::error(message, by.span()).hint(hint));
        return None;
    }
    let Some(cookie) = &written.cookie else {
        let message = "`sticky` has no `cookie`";
        let hint = "name it, as in `sticky: {cookie: northgate}`";
        compiler.report(Diagnostic::error(message, written.span()).hint(hint));
        return None;
    };
    if !is_token(cookie) {
        let message = format!("`{}` can't be the name of a cookie", cookie.escape_debug());
        let hint = "letters, digits, `-` and `_`";
        compiler.report(Diagnostic::error(message, cookie.span()).hint(hint));
        return None;
    }
    if let Some(age) = &written.max_age
        && age.as_secs() == 0
    {
        let message = "a cookie of less than a second is gone at once";
        let hint = "such as `8h`; leave it out for a cookie that ends with the browser";
        compiler.report(Diagnostic::error(message, age.span()).hint(hint));
        return None;
    }
    let age = written.max_age.as_deref().map(|age| age.0);
    let secrets = cookie_secrets(compiler, written.span())?;
    let secrets: Vec<&[u8]> = secrets.iter().map(|secret| &***secret).collect();
    Some(Sticky::new(cookie, age, service, &secrets))
}

/// What cookies are made with, and those that they were made with before.
pub fn cookie_secrets(compiler: &mut Compiler<'_>, at: Span) -> Option<Vec<Zeroizing<Vec<u8>>>> {
    if let Some(secrets) = &compiler.config.secrets.cookies {
        compiler.refers_to("secret", "cookies");
        let short = secrets
            .iter()
            .find(|secret| secret.expose().len() < COOKIE_KEY_MIN);
        if let Some(secret) = short {
            let message = format!("a key of fewer than {COOKIE_KEY_MIN} bytes can be guessed");
            let hint = "such as the output of `openssl rand -hex 32`";
            compiler.report(Diagnostic::error(message, secret.span()).hint(hint));
            return None;
        }
        let bytes = |secret: &Spanned<Secret>| secret.expose().as_bytes().to_vec().into();
        return Some(secrets.iter().map(bytes).collect());
    }
    let made = match compiler.world.state.secret("cookies") {
        Ok(made) => made,
        Err(error) => {
            let message = format!("no key for cookies can be made: {error}");
            compiler.report(Diagnostic::error(message, at));
            return None;
        }
    };
    if !compiler.is_used("secret", "cookies") {
        compiler.refers_to("secret", "cookies");
        warn(compiler, at, &made.kept);
    }
    Some(vec![made.bytes.to_vec().into()])
}

/// Says that nobody has set the key of cookies. Once: it is the same for all.
fn warn(compiler: &mut Compiler<'_>, at: Span, kept: &Result<std::path::PathBuf, String>) {
    let kept = match kept {
        Ok(path) => format!("it is kept in {}", path.display()),
        Err(why) => why.clone(),
    };
    let message = format!("no key for cookies is set: the gateway makes its own; {kept}");
    let hint = "gateways that stand for one another need the same: `secrets: {cookies: \"${file:/path}\"}`";
    compiler.report(Diagnostic::warning(message, at).hint(hint));
}

/// What a cookie may be called (RFC 6265 §4.1.1).
fn is_token(name: &str) -> bool {
    let in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(in_token)
}

/// What decides among the arms of a split; none if there are errors.
pub fn arm_by(
    compiler: &mut Compiler<'_>,
    written: &Spanned<model::Sticky>,
    weighted: &[(u32, Arc<Service>)],
) -> Option<Keyed> {
    let misplaced = [
        ("cookie", written.cookie.as_ref().map(Spanned::span)),
        ("max_age", written.max_age.as_ref().map(Spanned::span)),
    ];
    if let Some((key, Some(at))) = misplaced.into_iter().find(|(_, at)| at.is_some()) {
        let message = format!("`{key}` keeps clients at an endpoint, and this is a split");
        let hint = "write it in the services of the arms; a split has `sticky: {by: …}`";
        compiler.report(Diagnostic::error(message, at).hint(hint));
        return None;
    }
    let Some(by) = &written.by else {
        let diagnostic = Diagnostic::error("`sticky` has no `by`", written.span());
        compiler.report(diagnostic.hint("such as `sticky: {by: cookie.user}`"));
        return None;
    };
    if weighted.iter().filter(|(weight, _)| *weight > 0).count() < 2 {
        let message = "`sticky` has no effect: only one arm is chosen by weight";
        compiler.report(Diagnostic::error(message, written.span()));
        return None;
    }
    Some(keyed(by))
}
