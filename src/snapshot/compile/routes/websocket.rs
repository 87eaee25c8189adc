//! Where WebSockets may be opened.

use super::Placed;
use crate::config::model;
use crate::diagnostic::Diagnostic;
use crate::policy::cors::Origin;
use crate::snapshot::Target;
use crate::snapshot::compile::Compiler;
use crate::snapshot::route::WebSocket;
use crate::snapshot::upstream::Upstream;
use crate::units::{OrOff, Span};
use crate::upstream::Service;
use std::sync::Arc;
use std::time::Duration;

/// How long both sides may be silent where nothing is written (design 3.7).
const IDLE: Duration = Duration::from_secs(3600);

/// What a route or its group says; none where no WebSocket may be opened.
pub fn of(
    compiler: &mut Compiler<'_>,
    placed: &Placed<'_>,
    target: Option<&Target>,
) -> Option<Arc<WebSocket>> {
    let own = placed.route.websocket.as_ref();
    let of_group = || placed.group.and_then(|(_, group)| group.websocket.as_ref());
    let written = own.or_else(of_group)?;
    let OrOff::On(settings) = &**written else {
        return None;
    };
    match target? {
        Target::Upstream(upstream) => check_services(compiler, upstream, written.span()),
        // one that is inherited is meant for the others
        _ if own.is_none() => return None,
        _ => {
            let message = "`websocket` has no effect on a route that is answered here";
            compiler.report(
                Diagnostic::error(message, written.span())
                    .hint("remove it, or send the route to a `service`"),
            );
        }
    }
    Some(Arc::new(compiled(compiler, settings)))
}

/// WebSockets over HTTP/2 (RFC 8441) are nothing that Pingora knows.
fn check_services(compiler: &mut Compiler<'_>, upstream: &Upstream, at: Span) {
    let mut services: Box<dyn Iterator<Item = &Arc<Service>>> = match upstream {
        Upstream::Service(service) => Box::new(std::iter::once(service)),
        Upstream::Split(split) => Box::new(split.services()),
    };
    let only_http2 = services.find(|service| service.maker.connecting.wire.must_multiplex());
    if let Some(service) = only_http2 {
        let message = format!(
            "a WebSocket needs HTTP/1.1, and service `{}` speaks HTTP/2 alone",
            service.name
        );
        let hint = "`protocol: auto` in the service: WebSockets then go over HTTP/1.1";
        compiler.report(Diagnostic::error(message, at).hint(hint));
    }
}

fn compiled(compiler: &mut Compiler<'_>, settings: &model::WebSocket) -> WebSocket {
    let mut any = false;
    let mut origins = None;
    for written in settings.origins.iter().flat_map(|origins| &origins.0) {
        let known: &mut Vec<Origin> = origins.get_or_insert_default();
        if **written == "*" {
            any = true;
            continue;
        }
        match Origin::parse(written) {
            Ok(origin) => known.push(origin),
            Err(diagnostic) => compiler.report(diagnostic),
        }
    }
    let time = |written: &Option<OrOff<crate::units::TimeBound>>, usual| match written {
        None => usual,
        Some(written) => written.on().map(|time| time.0),
    };
    WebSocket {
        origins,
        any,
        idle: time(&settings.idle, Some(IDLE)),
        max_age: time(&settings.max_age, None),
        message: settings
            .message
            .and_then(|size| size.on())
            .map(|size| size.0),
    }
}
