//! What a service says about TLS and the version of HTTP.

use crate::config::model::{self, HostHeader, ProxyProtocol, ServiceProtocol, ServiceTls};
use crate::diagnostic::Diagnostic;
use crate::snapshot::compile::Compiler;
use crate::tls::{Authorities, ClientIdentity, Trust, TrustError, VerifiedName, Verify};
use crate::units::{Address, OrOff, Span, Spanned, Toggle};
use crate::upstream::Service;
use crate::upstream::proxy_protocol::Version;
use crate::upstream::wire::{Protocol, Wire};
use std::sync::Arc;
use std::time::SystemTime;

/// What is spoken with the endpoints of a service; none where that has errors.
pub fn wire_of(compiler: &mut Compiler<'_>, name: &str, service: &model::Service) -> Option<Wire> {
    let tls = service.tls.as_ref();
    let on = tls.and_then(|tls| match &**tls {
        OrOff::On(on) => Some((on, tls.span())),
        OrOff::Off => None,
    });
    let protocol = protocol_of(compiler, service, on.is_some())?;
    let trust = match on {
        None => None,
        Some((on, at)) => Some(trust_of(compiler, name, service, on, at)?),
    };
    let version = service
        .proxy_protocol
        .as_deref()
        .map(|written| match written {
            ProxyProtocol::V1 => Version::V1,
            ProxyProtocol::V2 => Version::V2,
        });
    Some(Wire::new(name, protocol, trust).introducing(version))
}

/// Where there is no handshake, it takes no time.
pub fn check_handshake(compiler: &mut Compiler<'_>, service: &model::Service) {
    let tls = service.tls.as_deref();
    let timeouts = service.timeouts.as_ref();
    let written = timeouts.and_then(|timeouts| timeouts.tls.as_ref());
    if let Some(written) = written
        && !tls.is_some_and(|tls| matches!(tls, OrOff::On(_)))
    {
        let message = "`timeouts: {tls: …}` has no effect on a service without `tls`";
        compiler.report(Diagnostic::error(message, written.span()).hint(HANDSHAKE));
    }
}

/// The same of a route, for all services that it sends to.
pub fn check_handshake_of_route<'s>(
    compiler: &mut Compiler<'_>,
    timeouts: Option<&model::Timeouts>,
    mut services: impl Iterator<Item = &'s Arc<Service>>,
) {
    if let Some(written) = timeouts.and_then(|timeouts| timeouts.tls.as_ref())
        && services.all(|service| service.maker.connecting.wire.trust.is_none())
    {
        let message = "`timeouts: {tls: …}` has no effect on a route to services without `tls`";
        compiler.report(Diagnostic::error(message, written.span()).hint(HANDSHAKE));
    }
}

const HANDSHAKE: &str = "it bounds the TLS handshake; `connect` bounds TCP";

fn protocol_of(
    compiler: &mut Compiler<'_>,
    service: &model::Service,
    tls: bool,
) -> Option<Protocol> {
    let Some(written) = &service.protocol else {
        return Some(Protocol::Auto);
    };
    let mut wrong = |message: &str, hint: &str| {
        compiler.report(Diagnostic::error(message, written.span()).hint(hint));
        None
    };
    match (**written, tls) {
        (ServiceProtocol::H2, false) => wrong(
            "`protocol: h2` is chosen in the handshake of TLS, and this service has no `tls`",
            "`tls: on`, or `protocol: h2c` for HTTP/2 in clear",
        ),
        (ServiceProtocol::H2c, true) => wrong(
            "`protocol: h2c` is HTTP/2 in clear, and this service has `tls`",
            "`protocol: h2`",
        ),
        (ServiceProtocol::Auto, _) => Some(Protocol::Auto),
        (ServiceProtocol::H1, _) => Some(Protocol::Http1),
        (ServiceProtocol::H2, true) => Some(Protocol::Http2),
        (ServiceProtocol::H2c, false) => Some(Protocol::Http2Clear),
    }
}

fn trust_of(
    compiler: &mut Compiler<'_>,
    service_name: &str,
    service: &model::Service,
    tls: &ServiceTls,
    at: Span,
) -> Option<Trust> {
    let verify = match &tls.verify {
        Some(written) if **written == Toggle::OFF => {
            let message = format!("whoever answers for service `{service_name}` is believed");
            let hint = "`ca` names the authority that vouches for its endpoints";
            compiler.report(Diagnostic::warning(message, written.span()).hint(hint));
            Verify::Off
        }
        _ => Verify::Always,
    };
    let name = server_name(compiler, service, tls, at, verify);
    let authorities = authorities(compiler, tls, verify);
    let client = client(compiler, service_name, tls);
    Some(Trust {
        name: name?,
        verify,
        authorities: authorities?,
        client: client?,
    })
}

/// The name to verify: an empty one would turn verification off in Pingora, and is none.
fn server_name(
    compiler: &mut Compiler<'_>,
    service: &model::Service,
    tls: &ServiceTls,
    at: Span,
    verify: Verify,
) -> Option<Option<VerifiedName>> {
    if let Some(written) = &tls.server_name {
        let name = VerifiedName::new(written);
        if name.is_none() {
            let message = format!("no certificate can be for `{}`", written.escape_debug());
            let hint = "a host name such as `orders.internal`, or an IP address, without a port";
            compiler.report(Diagnostic::error(message, written.span()).hint(hint));
        }
        return name.map(Some);
    }
    let host = service.host_header.as_deref();
    let host = match host.or(compiler.config.defaults.host_header.as_ref()) {
        Some(HostHeader::Value(value)) => host_of(value),
        _ => None,
    };
    let host = host.or_else(|| common_name(service).map(Into::into));
    match host.and_then(|host| VerifiedName::new(&host)) {
        Some(name) => Some(Some(name)),
        None if verify == Verify::Off => Some(None),
        None => {
            let message = "`tls` has no name that a certificate of the endpoints could be for";
            let hint = "`tls: {server_name: orders.internal}`, a fixed `host_header`, or endpoints of one DNS name";
            compiler.report(Diagnostic::error(message, at).hint(hint));
            None
        }
    }
}

/// The DNS name of all endpoints, where they have the same: whoever asks DNS for it means a server of that name. What
/// an SRV record or a file leads to is somebody else's word, and no name to trust.
fn common_name(service: &model::Service) -> Option<&str> {
    let mut names = service.endpoints.iter().flat_map(|all| &all.0).map(name_of);
    let first = names.next()??;
    names.all(|other| other == Some(first)).then_some(first)
}

fn name_of(endpoint: &Spanned<model::Endpoint>) -> Option<&str> {
    match &**endpoint {
        model::Endpoint::Address {
            address: Address::Name { host, .. },
            ..
        } => Some(host.trim_end_matches('.')),
        _ => None,
    }
}

/// The host of a `Host`, without its port and its brackets.
fn host_of(value: &str) -> Option<String> {
    let authority: http::uri::Authority = value.parse().ok()?;
    let host = authority.host();
    Some(host.trim_start_matches('[').trim_end_matches(']').into())
}

fn authorities(
    compiler: &mut Compiler<'_>,
    tls: &ServiceTls,
    verify: Verify,
) -> Option<Option<Authorities>> {
    let Some(written) = &tls.ca else {
        return Some(None);
    };
    if verify == Verify::Off {
        let message = "`ca` has no effect beside `verify: off`";
        compiler.report(Diagnostic::error(message, written.span()).hint("remove one of them"));
        return None;
    }
    match Authorities::from_pem(&written.text) {
        Ok(authorities) => Some(Some(authorities)),
        Err(error) => {
            let message = format!("`ca`: {error}");
            compiler.report(Diagnostic::error(message, written.span()));
            None
        }
    }
}

fn client(
    compiler: &mut Compiler<'_>,
    service_name: &str,
    tls: &ServiceTls,
) -> Option<Option<ClientIdentity>> {
    let Some(written) = &tls.client else {
        return Some(None);
    };
    let client = match ClientIdentity::from_pem(&written.cert.text, &written.key.text) {
        Ok(client) => client,
        Err(error) => {
            let of_key = matches!(
                error,
                TrustError::NoKey | TrustError::Key(_) | TrustError::KeyMismatch
            );
            let at = match of_key {
                true => written.key.span(),
                false => written.cert.span(),
            };
            compiler.report(Diagnostic::error(format!("`client`: {error}"), at));
            return None;
        }
    };
    if client.not_after() < SystemTime::now() {
        // as with a listener's: one lapsed file must not hold up every other change
        let message = format!("the client certificate of service `{service_name}` has expired");
        compiler.report(Diagnostic::warning(message, written.cert.span()));
    }
    Some(Some(client))
}
