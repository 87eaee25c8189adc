//! Which of several methods has the say, and what becomes of its judgement.

use super::carried::Carried;
use super::cross_site;
use super::guessing::{Guard, Guessed};
use super::method::{Accepted, Carrier, Judgement, Method, Refusal};
use crate::exchange::{Exchange, View};
use crate::identity::signature::Body;
use crate::identity::{Consumers, Identity, Public, Reason};
use crate::observe::metrics::AuthMetrics;
use crate::policy::cors::Origin;
use crate::policy::{Flow, OnRequest, OnUpstreamRequest, Step};
use crate::problem::{Kind, Problem};
use futures::FutureExt;
use http::header::WWW_AUTHENTICATE;
use pingora_http::RequestHeader;
use std::sync::Arc;

pub(super) struct Engine {
    pub methods: Vec<Arc<dyn Method>>,
    /// All methods have to agree, where otherwise one decides.
    pub all: bool,
    /// Whether a request without any credential passes.
    pub anonymous: bool,
    /// Whether what it lets pass ends with its credential.
    pub closes: bool,
    /// Whose pages may act with a credential that stands in a cookie, beside the host's own.
    pub trusted_origins: Vec<Origin>,
    /// Holds up those who guess.
    pub guard: Option<Guard>,
    pub consumers: Arc<Consumers>,
    pub metrics: Arc<AuthMetrics>,
}

/// Whose word counts for one request.
enum Say<'e> {
    One(&'e dyn Method),
    /// The request is for this one itself.
    Own(&'e dyn Method),
    All,
    Nobody,
    Several,
}

impl Engine {
    fn say(&self, view: View<'_>) -> Say<'_> {
        if let Some(owner) = self.methods.iter().find(|method| method.owns(view)) {
            return Say::Own(&**owner);
        }
        if self.all {
            let any = self.methods.iter().any(|method| method.is_presented(view));
            return if any { Say::All } else { Say::Nobody };
        }
        let mut found: Option<&dyn Method> = None;
        for method in self.methods.iter().filter(|method| !method.is_last()) {
            if method.is_presented(view) {
                if found.is_some() {
                    return Say::Several;
                }
                found = Some(&**method);
            }
        }
        let mut last = self.methods.iter().filter(|method| method.is_last());
        let found = found.or_else(|| {
            last.find(|method| method.is_presented(view))
                .map(|method| &**method)
        });
        found.map_or(Say::Nobody, Say::One)
    }

    /// Whether a page of another origin may have made the user's browser send the credential.
    fn is_forged(&self, method: &dyn Method, view: View<'_>) -> bool {
        is_by_cookie(method, view) && cross_site::is_forged(view, &self.trusted_origins)
    }

    /// Judged by one method, if there is a try left for what can be guessed.
    fn judge<'a>(&'a self, method: &'a dyn Method, view: View<'a>) -> Judgement<'a> {
        match &self.guard {
            Some(guard) if method.guessed() != Guessed::Never => guard.judge(method, view),
            _ => method.judge(view),
        }
    }

    /// Judged by every method in its turn: a refusal of the first saves the others their work.
    async fn all(&self, view: View<'_>) -> Result<Accepted, Refusal> {
        let forged = |method: &Arc<dyn Method>| self.is_forged(&**method, view);
        if self.methods.iter().any(forged) {
            return Err(Reason::CrossSite.into());
        }
        let mut agreed: Option<Accepted> = None;
        for method in &self.methods {
            if !method.is_presented(view) {
                return Err(method.invite(view).unwrap_or(Reason::Missing.into()));
            }
            let accepted = match self.judge(&**method, view) {
                Judgement::Now(judged) => judged?,
                Judgement::Later(judged) => judged.await?,
            };
            agreed = Some(match agreed {
                None => accepted,
                Some(before) => join(before, accepted)?,
            });
        }
        agreed.ok_or_else(|| Reason::Missing.into())
    }

    fn settle(
        &self,
        exchange: &mut Exchange<'_>,
        judged: Result<Accepted, Refusal>,
    ) -> Result<Flow, Problem> {
        match judged {
            Ok(accepted) => {
                self.accept(exchange, accepted);
                Ok(Flow::Continue)
            }
            Err(Refusal::Credential(reason)) => Err(self.refusal(exchange.view(), reason)),
            Err(Refusal::Problem(problem)) => Err(*problem),
            Err(Refusal::Answer(answer)) => Ok(Flow::Answer(answer)),
        }
    }

    fn accept(&self, exchange: &mut Exchange<'_>, accepted: Accepted) {
        let Accepted {
            mut identity,
            headers,
            body,
            set_cookies,
        } = accepted;
        self.consumers.complete(&mut identity);
        let plan = identity.plan.as_deref();
        exchange.facts.plan = plan.and_then(|plan| self.consumers.plan_number(plan));
        exchange.facts.closes_at = identity.expires_at.filter(|_| self.closes);
        exchange.facts.identity = Some(identity);
        exchange.facts.granted = headers;
        exchange.facts.body = body;
        exchange.facts.set_cookies = set_cookies;
    }

    /// The same answer whatever was wrong; what it was is for the log.
    fn refusal(&self, view: View<'_>, reason: Reason) -> Problem {
        self.metrics.refused(reason);
        let kind = match reason.public() {
            Public::Missing => Kind::AuthMissing,
            Public::Expired => Kind::AuthExpired,
            Public::Invalid => Kind::AuthInvalid,
            // another credential would not help
            Public::CrossSite => return Problem::new(Kind::AuthCrossSite).source(reason.code()),
            Public::Guessing => return Problem::new(Kind::AuthGuessing).source(reason.code()),
        };
        // what was wrong with a credential is nothing that a method without one has to say (RFC 6750 §3.1)
        let challenges = self.methods.iter().filter_map(|method| {
            method.challenge(match method.is_presented(view) {
                true => reason,
                false => Reason::Missing,
            })
        });
        challenges.fold(
            Problem::new(kind).source(reason.code()),
            |problem, challenge| problem.header(WWW_AUTHENTICATE, challenge),
        )
    }
}

/// Whether the credential stands in a cookie, which a browser sends by itself.
fn is_by_cookie(method: &dyn Method, view: View<'_>) -> bool {
    let carriers = method.carriers();
    let is_cookie = |carrier: &Carrier| matches!(carrier, Carrier::Cookie(_));
    match carriers.iter().all(is_cookie) {
        true => method.is_presented(view),
        false => carriers
            .iter()
            .any(|carrier| is_cookie(carrier) && carrier.read(view) != Carried::Nothing),
    }
}

fn join(one: Accepted, other: Accepted) -> Result<Accepted, Refusal> {
    let identity = Identity::joined(Arc::unwrap_or_clone(one.identity), &other.identity)?;
    let mut headers = one.headers;
    headers.extend(other.headers);
    let mut set_cookies = one.set_cookies;
    set_cookies.extend(other.set_cookies);
    Ok(Accepted {
        identity: Arc::new(identity),
        headers,
        body: match one.body {
            Body::Unsaid => other.body,
            said => said,
        },
        set_cookies,
    })
}

impl OnRequest for Engine {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a> {
        match self.say(exchange.view()) {
            Say::Nobody if self.anonymous => Step::proceed(),
            Say::Nobody => {
                let invite = |method: &Arc<dyn Method>| method.invite(exchange.view());
                let invited = self.methods.iter().find_map(invite);
                let refusal = invited.unwrap_or(Reason::Missing.into());
                Step::Now(self.settle(exchange, Err(refusal)))
            }
            Say::Several => Step::Now(Err(self.refusal(exchange.view(), Reason::Several))),
            Say::One(method) if self.is_forged(method, exchange.view()) => {
                Step::Now(Err(self.refusal(exchange.view(), Reason::CrossSite)))
            }
            Say::One(method) | Say::Own(method) => {
                // what can be judged at once is, without a future
                let at_once = match self.judge(method, exchange.view()) {
                    Judgement::Now(judged) => Some(judged),
                    Judgement::Later(_) => None,
                };
                if let Some(judged) = at_once {
                    return Step::Now(self.settle(exchange, judged));
                }
                Step::Later(
                    async move {
                        let judged = match self.judge(method, exchange.view()) {
                            Judgement::Now(judged) => judged,
                            Judgement::Later(judged) => judged.await,
                        };
                        self.settle(exchange, judged)
                    }
                    .boxed(),
                )
            }
            Say::All => Step::Later(
                async move {
                    let judged = self.all(exchange.view()).await;
                    self.settle(exchange, judged)
                }
                .boxed(),
            ),
        }
    }
}

impl OnUpstreamRequest for Engine {
    fn on_upstream_request(&self, view: View<'_>, upstream: &mut RequestHeader) {
        for method in &self.methods {
            if method.is_stripped(view) {
                method.strip(upstream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use crate::policy::auth::method::Carrier;
    use http::{HeaderName, HeaderValue};

    /// Takes the header `x-NAME`: `good` is good, `ask` is judged later, anything else is not.
    struct Fake {
        carriers: [Carrier; 1],
        consumer: &'static str,
        last: bool,
    }

    impl Method for Fake {
        fn carriers(&self) -> &[Carrier] {
            &self.carriers
        }

        fn is_presented(&self, view: View<'_>) -> bool {
            self.presented(view).is_some()
        }

        fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a> {
            match self.presented(view) {
                Some("good") => Judgement::Now(Ok(self.accepted())),
                Some("ask") => Judgement::Later(async { Ok(self.accepted()) }.boxed()),
                _ => Judgement::Now(Err(Reason::Repeated.into())),
            }
        }

        fn strip(&self, upstream: &mut RequestHeader) {
            if let Carrier::Header(name) = &self.carriers[0] {
                upstream.remove_header(name);
            }
        }

        fn challenge(&self, _: Reason) -> Option<HeaderValue> {
            (!self.last).then(|| HeaderValue::from_static("Fake"))
        }

        fn is_last(&self) -> bool {
            self.last
        }
    }

    impl Fake {
        fn presented<'v>(&self, view: View<'v>) -> Option<&'v str> {
            let Carrier::Header(name) = &self.carriers[0] else {
                return None;
            };
            view.request.headers.get(name)?.to_str().ok()
        }

        fn accepted(&self) -> Accepted {
            Arc::new(Identity {
                method: "fake",
                consumer: Some(self.consumer.into()),
                ..Identity::default()
            })
            .into()
        }
    }

    fn fake(name: &'static str, consumer: &'static str, last: bool) -> Arc<dyn Method> {
        Arc::new(Fake {
            carriers: [Carrier::Header(HeaderName::from_static(name))],
            consumer,
            last,
        })
    }

    fn engine(methods: Vec<Arc<dyn Method>>, all: bool, anonymous: bool) -> Engine {
        Engine {
            methods,
            all,
            anonymous,
            closes: false,
            trusted_origins: Vec::new(),
            guard: None,
            consumers: Arc::default(),
            metrics: Arc::default(),
        }
    }

    /// Who got in, or the code and the exact reason of the refusal.
    fn decided(
        engine: &Engine,
        sent: &[(&'static str, &str)],
    ) -> Result<Option<String>, (&'static str, String)> {
        let mut sample = Sample::get("/");
        for (name, value) in sent {
            sample = sample.header(name, value);
        }
        let Sample { request, mut facts } = sample;
        let mut exchange = Exchange {
            request: &request,
            facts: &mut facts,
        };
        let decided = match engine.on_request(&mut exchange) {
            Step::Now(decided) => decided,
            Step::Later(decided) => futures::executor::block_on(decided),
            Step::Queue(_) => panic!("it has no turn to wait for"),
        };
        match decided {
            Ok(_) => Ok(facts
                .identity
                .and_then(|identity| identity.consumer.as_deref().map(str::to_owned))),
            Err(problem) => {
                assert!(facts.identity.is_none());
                assert!(
                    !problem.headers.is_empty(),
                    "a 401 says what to send (RFC 9110 §15.5.2)"
                );
                Err((problem.kind.code(), problem.source.unwrap()))
            }
        }
    }

    fn refused(code: &'static str, reason: &str) -> Result<Option<String>, (&'static str, String)> {
        Err((code, reason.to_owned()))
    }

    #[test]
    fn the_one_credential_that_is_present_decides() {
        let methods = || vec![fake("x-a", "alice", false), fake("x-b", "bob", false)];
        for anonymous in [false, true] {
            let any = engine(methods(), false, anonymous);
            assert_eq!(decided(&any, &[("x-a", "good")]), Ok(Some("alice".into())));
            assert_eq!(decided(&any, &[("x-b", "ask")]), Ok(Some("bob".into())));
            // nobody knows which was meant, and what is bad does not become anonymous
            assert_eq!(
                decided(&any, &[("x-a", "good"), ("x-b", "good")]),
                refused("auth.invalid", "auth.several")
            );
            assert_eq!(
                decided(&any, &[("x-a", "bad")]),
                refused("auth.invalid", "auth.repeated")
            );
        }
        assert_eq!(
            decided(&engine(methods(), false, false), &[]),
            refused("auth.missing", "auth.missing")
        );
        assert_eq!(decided(&engine(methods(), false, true), &[]), Ok(None));
    }

    #[test]
    fn what_needs_no_credential_has_the_say_only_when_there_is_none() {
        let any = engine(
            vec![fake("x-last", "carol", true), fake("x-a", "alice", false)],
            false,
            false,
        );
        assert_eq!(
            decided(&any, &[("x-last", "good")]),
            Ok(Some("carol".into()))
        );
        assert_eq!(
            decided(&any, &[("x-last", "good"), ("x-a", "good")]),
            Ok(Some("alice".into()))
        );
        assert_eq!(
            decided(&any, &[("x-last", "good"), ("x-a", "bad")]),
            refused("auth.invalid", "auth.repeated")
        );
    }

    #[test]
    fn all_of_them_have_to_agree_on_one_consumer() {
        let same = engine(
            vec![fake("x-a", "alice", false), fake("x-b", "alice", true)],
            true,
            false,
        );
        assert_eq!(
            decided(&same, &[("x-a", "good"), ("x-b", "ask")]),
            Ok(Some("alice".into()))
        );
        assert_eq!(
            decided(&same, &[("x-a", "good")]),
            refused("auth.missing", "auth.missing")
        );
        assert_eq!(
            decided(&same, &[("x-a", "good"), ("x-b", "bad")]),
            refused("auth.invalid", "auth.repeated")
        );
        assert_eq!(decided(&same, &[]), refused("auth.missing", "auth.missing"));
        let other = engine(
            vec![fake("x-a", "alice", false), fake("x-b", "bob", false)],
            true,
            false,
        );
        assert_eq!(
            decided(&other, &[("x-a", "good"), ("x-b", "good")]),
            refused("auth.invalid", "auth.conflict")
        );
    }
}
