//! Hours with an issuer that is down, slow, or answers rubbish, that rotates its keys, and whose callers send unknown
//! `kid`s: under a clock that stands still until everybody waits.

use super::*;
use crate::identity::credentials::revoked::Revoked;
use crate::identity::jwt::tests::signer::Signer;
use crate::identity::jwt::{Refusal, Rules, Token};
use crate::issuers::cache::Digest;
use crate::issuers::{Issuer, Naming, Source, Verdict};
use crate::observe::metrics::Metrics;
use futures::future::join_all;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Wake, Waker};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const REFRESH: Duration = Duration::from_secs(5 * 60);
const MAX_STALE: Duration = Duration::from_secs(2 * 3600);
const TIMEOUT: Duration = Duration::from_secs(2);

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(1_000_000_000) };
    static TIMERS: RefCell<BinaryHeap<Reverse<u64>>> = const { RefCell::new(BinaryHeap::new()) };
}

/// The clock of this test, which begins at one second: 0 would be no time.
fn exact() -> u64 {
    NOW.get()
}

fn sleep(time: Duration) -> BoxFuture<'static, ()> {
    let until = exact() + nanos(time);
    TIMERS.with_borrow_mut(|timers| timers.push(Reverse(until)));
    std::future::poll_fn(move |_| match exact() >= until {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .boxed()
}

/// Whether a part of the work has something to do for another one that was looked at before.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// Runs something to its end. Whenever all of it waits, the clock goes on to the next moment that is waited for.
fn run(work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    while work.as_mut().poll(&mut context).is_pending() {
        if woken.0.swap(false, Relaxed) {
            continue;
        }
        let next = TIMERS.with_borrow_mut(BinaryHeap::pop);
        let Reverse(next) = next.expect("somebody waits for a time");
        NOW.set(next.max(exact()));
    }
}

/// The same by the calendar.
fn wall() -> Duration {
    Duration::from_secs(1_800_000_000) + Duration::from_nanos(exact())
}

/// How the issuer answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Down,
    /// It takes as long as it is given, and answers nothing.
    Slow,
    Rubbish,
    /// It answers well, and late.
    Late,
}

/// The issuer's side.
struct Server {
    signers: RefCell<Vec<Signer>>,
    mood: Cell<Mood>,
    asked: Cell<usize>,
}

impl Server {
    async fn answer(&self) -> Fetched {
        self.asked.set(self.asked.get() + 1);
        let failure = |why: &str| Err(Failure::Set(why.into()));
        match self.mood.get() {
            Mood::Well => {}
            Mood::Down => return failure("refused"),
            Mood::Slow => {
                sleep(TIMEOUT).await;
                return failure("late");
            }
            Mood::Rubbish => {
                let set = Set::parse(b"<html>", Algorithm::ASYMMETRIC, From::Url);
                let Err(error) = set else {
                    panic!("that is no set")
                };
                return Err(Failure::Set(error.to_string()));
            }
            Mood::Late => sleep(TIMEOUT * 9 / 10).await,
        }
        let keys: Vec<_> = self.signers.borrow().iter().map(Signer::jwk).collect();
        let text = json!({ "keys": keys }).to_string().into_bytes();
        let set = Set::parse(&text, Algorithm::ASYMMETRIC, From::Url).expect("a set");
        Ok((set, text, None))
    }

    fn publishes(&self, kid: &str) {
        *self.signers.borrow_mut() = vec![Signer::new("EdDSA", kid)];
    }

    /// A token of the current key that counts for so long.
    fn token(&self, lasts: Duration) -> String {
        let ends = (wall() + lasts).as_secs();
        let claims = json!({"iss": "idp", "aud": "orders", "exp": ends, "jti": exact()});
        self.signers.borrow()[0].token(&claims)
    }

    /// A token of a key that nobody has.
    fn stray(&self, kid: &str) -> String {
        let header = json!({"alg": "EdDSA", "kid": kid}).to_string();
        let claims = json!({"iss": "idp", "aud": "orders", "exp": (wall() + HOUR).as_secs()});
        self.signers.borrow()[0].token_of(&header, &claims.to_string())
    }

    fn is(&self, mood: Mood) {
        self.mood.set(mood);
        self.asked.set(0);
    }
}

fn world() -> (Issuer, Server) {
    let server = Server {
        signers: RefCell::default(),
        mood: Cell::new(Mood::Well),
        asked: Cell::new(0),
    };
    server.publishes("first");
    let settings = Settings {
        place: Place::Set("http://127.0.0.1:9/keys".parse().unwrap()),
        accepted: Algorithm::ASYMMETRIC.to_vec(),
        authorities: None,
        timeout: TIMEOUT,
        refresh: REFRESH,
        max_stale: MAX_STALE,
    };
    let state = Arc::new(KeyState::new(Algorithm::ASYMMETRIC.to_vec()));
    let metrics = Metrics::new().issuer("idp");
    let mut published = Published::new(
        "idp".into(),
        settings,
        state,
        Arc::default(),
        Arc::default(),
        metrics,
    );
    published.clock = Clock {
        exact,
        coarse: exact,
        sleep,
    };
    let issuer = Issuer {
        name: "idp".into(),
        rules: Rules {
            issuer: "idp".into(),
            audiences: ["orders".into()].into(),
            leeway: Duration::ZERO,
            kinds: None,
        },
        naming: Naming::default(),
        source: Source::Published(published),
        revoked: Revoked::default(),
        verified: Arc::default(),
    };
    (issuer, server)
}

/// Runs the issuer's job beside what happens.
async fn beside(issuer: &Issuer, server: &Server, happens: impl Future<Output = ()>) {
    let published = issuer.published().expect("published");
    tokio::select! {
        () = published.run_with(|| server.answer()) => {}
        () = happens => {}
    }
}

/// Judges a token as a request does: the one that was verified before, else anew, else when newer keys have come.
async fn judged(issuer: &Issuer, text: &str) -> Verdict {
    let verify = || {
        let digest = Digest::of(text);
        if let Some(identity) = issuer.known(&digest, wall()) {
            return Verdict::Accepted(identity);
        }
        let token = Token::parse(text).expect("a token");
        issuer.verify(text, &token, digest, wall())
    };
    match verify() {
        Verdict::MaybeNewer(refusal) => match issuer.newer_keys().await {
            true => verify(),
            false => Verdict::Refused(refusal),
        },
        verdict => verdict,
    }
}

async fn passes(issuer: &Issuer, text: &str) -> bool {
    matches!(judged(issuer, text).await, Verdict::Accepted(_))
}

fn since(moment: u64) -> Duration {
    Duration::from_nanos(exact() - moment)
}

async fn second() {
    sleep(Duration::from_secs(1)).await;
}

#[test]
fn an_outage_of_an_hour_costs_nobody_a_request_and_one_beyond_max_stale_does() {
    let (issuer, server) = world();
    let scenario = async {
        second().await;
        let lasting = server.token(HOUR * 12);
        assert!(passes(&issuer, &lasting).await);
        sleep(MINUTE * 7).await;

        for mood in [Mood::Down, Mood::Slow, Mood::Rubbish] {
            server.is(mood);
            for at in 0..HOUR.as_secs() {
                assert!(
                    passes(&issuer, &lasting).await,
                    "verified before, at {at} s"
                );
                if at % 30 == 0 {
                    // nobody has seen this one yet
                    assert!(
                        passes(&issuer, &server.token(MINUTE)).await,
                        "new, at {at} s"
                    );
                }
                second().await;
            }
            // it was asked all the time, and not in a hurry: 1, 2, 4 … 60 s, and up to a tenth less
            let asked = server.asked.get();
            assert!((55..85).contains(&asked), "{asked} questions in an hour");
            server.is(Mood::Well);
            sleep(MINUTE * 2).await;
            assert!(server.asked.get() >= 1);
            let published = issuer.published().expect("published").status();
            assert!(published.age.expect("fetched") <= MINUTE * 2);
        }

        server.is(Mood::Down);
        let left = |issuer: &Issuer| {
            let age = issuer.published().expect("published").status().age;
            MAX_STALE.saturating_sub(age.expect("fetched"))
        };
        let mut most = MAX_STALE.as_secs() + 1;
        while left(&issuer) > Duration::ZERO {
            let fresh = server.token(MINUTE);
            assert!(passes(&issuer, &lasting).await && passes(&issuer, &fresh).await);
            second().await;
            most -= 1;
            assert!(most > 0, "it ends");
        }
        second().await;
        for token in [&lasting, &server.token(MINUTE)] {
            assert_eq!(judged(&issuer, token).await, Verdict::Unready);
        }
        server.is(Mood::Well);
        sleep(MINUTE + TIMEOUT).await;
        assert!(passes(&issuer, &lasting).await && passes(&issuer, &server.token(MINUTE)).await);
    };
    run(beside(&issuer, &server, scenario));
}

#[test]
fn a_verified_token_counts_until_it_ends_and_not_beyond_its_key() {
    let (issuer, server) = world();
    let scenario = async {
        second().await;
        let token = server.token(MINUTE);
        let ends = wall() + MINUTE;
        server.is(Mood::Down);
        while wall() + Duration::from_secs(1) < ends {
            assert!(passes(&issuer, &token).await);
            second().await;
        }
        sleep(Duration::from_secs(2)).await;
        assert_eq!(
            judged(&issuer, &token).await,
            Verdict::Refused(Refusal::Expired)
        );
        server.is(Mood::Well);
        let old = server.token(HOUR);
        assert!(passes(&issuer, &old).await);
        server.publishes("second");
        sleep(REFRESH + MINUTE).await;
        assert!(!passes(&issuer, &old).await);
    };
    run(beside(&issuer, &server, scenario));
}

#[test]
fn a_flood_of_unknown_keys_causes_one_fetch_in_ten_seconds_and_a_new_key_works_within_fifteen() {
    let (issuer, server) = world();
    let scenario = async {
        second().await;
        for (round, mood) in [Mood::Well, Mood::Late].into_iter().enumerate() {
            server.is(mood);
            let lasting = server.token(HOUR);
            assert!(passes(&issuer, &lasting).await);
            let began = exact();
            for at in 0..10 * 60 {
                let strays: Vec<_> = (0..10)
                    .map(|more| server.stray(&format!("{round}-{at}-{more}")))
                    .collect();
                let verdicts = join_all(strays.iter().map(|stray| judged(&issuer, stray))).await;
                let unknown = Verdict::Refused(Refusal::Key);
                let newer = Verdict::MaybeNewer(Refusal::Key);
                let refused = |verdict: &Verdict| *verdict == unknown || *verdict == newer;
                assert!(verdicts.iter().all(&refused), "{verdicts:?}");
                assert!(
                    passes(&issuer, &lasting).await,
                    "whoever has a good one waits for nobody"
                );
                second().await;
            }
            let took = since(began);
            let most = took.as_secs() / ASK_PAUSE.as_secs() + took.as_secs() / 240 + 2;
            let asked = server.asked.get() as u64;
            assert!(asked <= most, "{asked} fetches in {took:?}");

            // the flood goes on, and the issuer rotates
            server.publishes(&format!("new-{round}"));
            let rotated = exact();
            let new = server.token(HOUR);
            while !passes(&issuer, &new).await {
                let _ = judged(&issuer, &server.stray(&format!("{:?}", since(rotated)))).await;
                second().await;
            }
            assert!(
                since(rotated) <= Duration::from_secs(15),
                "{:?}",
                since(rotated)
            );
        }
    };
    run(beside(&issuer, &server, scenario));
}
